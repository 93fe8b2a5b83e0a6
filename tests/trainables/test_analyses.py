"""The figures of curves, targets, predictions and samples, and what they share."""

import csv
import io
import statistics

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.analyses import ANALYSES, analyse, curves
from trainables.analyses.choose import metric_name
from trainables.analyses.figures import COLORS, method_colors, png
from trainables.context import Context, StageError
from trainables.data import DataError, open_dataset, survey
from trainables.data.survey import combined_fingerprint
from trainables.downstream.finetune import finetune
from trainables.networks import build_network
from trainables.pretexts import build_pretext
from trainables.randomness import seed_everything
from trainables.settings import ConRecSettings, NetworkSettings
from trainables.settings.analyses import ANALYSIS_SETTINGS

NETWORK = {"name": "conrec-unet", "width": 4}
SHAPES = {"reader": "shapes", "options": {"count": 30, "size": 32}}
BACKEND = {"threads": 1}


@pytest.fixture
def context(tmp_path):
    def make(root=tmp_path, **options):
        return Context(root, tmp_path / "work", cache_dir=tmp_path / "cache", checkpoint_seconds=1e9, **options)

    return make


def rows_of(result, name):
    return list(csv.DictReader(io.StringIO(result.files[name].decode())))


def pixels(result, name):
    return np.asarray(Image.open(io.BytesIO(result.files[name])).convert("RGB"))


def assert_not_clipped(picture):
    """A rim of paper around everything that is drawn."""
    rim = np.concatenate([picture[:3].reshape(-1, 3), picture[-3:].reshape(-1, 3), picture[:, :3].reshape(-1, 3)])
    assert (rim == 255).all()
    assert picture.std() > 10


def test_every_analysis_has_its_settings():
    assert set(ANALYSIS_SETTINGS) <= set(ANALYSES)
    for kind, settings in ANALYSIS_SETTINGS.items():
        assert settings().kind == kind


def test_an_unknown_kind_is_told(context):
    with pytest.raises(StageError, match="no analysis 'tsne'; there are study, cka"):
        analyse({"analysis": {"kind": "tsne"}}, context())


def test_a_method_has_one_colour_whatever_stands_beside_it():
    alone, together = method_colors(["ConRec"]), method_colors(["Other", "ConRec", "SimCLR", "Random"])
    assert alone["ConRec"] == together["ConRec"] == method_colors(["conrec"])["conrec"]
    assert len(set(together.values())) == 4
    many = method_colors([f"m{n}" for n in range(20)])
    assert len(many) == 20 and set(COLORS) <= set(many.values())


def test_metric_names_are_plain():
    assert metric_name("final", "Pets, 5 %", "ConRec RD") == "final/pets-5/conrec-rd"


# Curves


def history(*values, every=10):
    return [{"step": every * n, "train_loss": 1.0, "eval_dice": v} for n, v in enumerate(values)]


CURVES = {
    "analysis": {"kind": "curves"},
    "panels": [
        {
            "title": "Pets, 5 %",
            "lines": [
                {"name": "ConRec", "roles": ["a0", "a1", "a2"]},
                {"name": "ConRec RD", "roles": ["b0"], "method": "ConRec", "dashed": True},
            ],
        }
    ],
}
HISTORIES = {
    "a0": history(0.1, 0.5, 0.77, 0.8),  # 95 % of 0.8 is 0.76: step 20
    "a1": history(0.2, 0.69, 0.6, 0.7),  # 0.665: step 10, though it falls again
    "a2": history(0.3, 0.4, 0.5, 0.6),  # 0.57: step 30
    "b0": history(0.9, 0.1, 0.2, 0.3),
}


def test_curves_by_hand(context):
    result = analyse(CURVES, context(histories=HISTORIES))
    assert result.metrics == pytest.approx(
        {
            "final/pets-5/conrec": 0.7,
            "steps95/pets-5/conrec": 20,
            "final/pets-5/conrec-rd": 0.3,
            "steps95/pets-5/conrec-rd": 0,
        }
    )
    points = rows_of(result, "curves.csv")
    assert [p["step"] for p in points] == ["0", "10", "20", "30"] * 2
    at_20 = next(p for p in points if p["model"] == "ConRec" and p["step"] == "20")
    assert float(at_20["mean"]) == pytest.approx((0.77 + 0.6 + 0.5) / 3)
    assert float(at_20["std"]) == pytest.approx(statistics.stdev([0.77, 0.6, 0.5]))
    assert at_20["n"] == "3"
    first, second = rows_of(result, "steps.csv")
    assert (first["n"], float(first["steps_mean"]), float(first["steps_std"])) == ("3", 20, 10)
    assert (second["n"], second["final_std"], second["steps_std"]) == ("1", "", "")
    for name in ("curves.png", "steps.png"):
        assert_not_clipped(pixels(result, name))
    assert analyse(CURVES, context(histories=HISTORIES)).files == result.files


def test_curves_take_another_share_and_metric(context):
    spec = {**CURVES, "analysis": {"kind": "curves", "share": 0.5, "metric": "train_loss"}}
    result = analyse(spec, context(histories=HISTORIES))
    assert result.metrics["steps50/pets-5/conrec"] == 0


def test_curves_tell_what_they_lack(context):
    with pytest.raises(StageError, match="expected the history of 'b0'"):
        analyse(CURVES, context(histories={name: h for name, h in HISTORIES.items() if name != "b0"}))
    spec = {**CURVES, "analysis": {"kind": "curves", "metric": "val_loss"}}
    with pytest.raises(StageError, match="a0 has no val_loss; it has eval_dice, train_loss"):
        analyse(spec, context(histories=HISTORIES))


def test_curves_name_the_models_that_have_no_result(context):
    spec = {**CURVES, "panels": [{**CURVES["panels"][0], "gaps": ["ImageNet"]}]}
    result = analyse(spec, context(histories=HISTORIES))
    whole = analyse(CURVES, context(histories=HISTORIES))
    assert result.metrics == whole.metrics and result.files["curves.csv"] == whole.files["curves.csv"]
    assert result.files["curves.png"] != whole.files["curves.png"]
    assert_not_clipped(pixels(result, "curves.png"))


def test_what_stands_in_for_data_is_told_in_the_figure_and_changes_no_number(context):
    noted = {**CURVES, "panels": [{**CURVES["panels"][0], "note": "shapes in place of pets"}]}
    result, plain = (analyse(spec, context(histories=HISTORIES)) for spec in (noted, CURVES))
    assert result.metrics == plain.metrics
    for name in ("curves.png", "steps.png"):
        assert result.files[name] != plain.files[name]
        assert_not_clipped(pixels(result, name))
    panel = {"title": "Lucchi++", "data": SHAPES, "show": "pairs"}
    both = ({"note": "shapes in place of lucchi"}, {})
    result, plain = (analyse(samples({**panel, **more}), context()) for more in both)
    assert result.files["counts.csv"] == plain.files["counts.csv"]
    assert result.files["samples.png"] != plain.files["samples.png"]
    assert_not_clipped(pixels(result, "samples.png"))


def test_marks_at_step_0_are_whole_and_long_notes_hang_over_no_edge(context, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "png", lambda figure: (figures.append(figure), png(figure))[1])
    note = "voc-bus in place of cityscapes-bus, camvid in place of cityscapes-car"
    line = {"name": "Segmentation, random decoder", "roles": ["b0"]}
    panel = {"title": "Cityscapes bus", "lines": [line]}
    noted, plain = (
        analyse({**CURVES, "panels": [panel | more]}, context(histories=HISTORIES)) for more in ({"note": note}, {})
    )
    (axes,) = figures[1].axes
    assert [list(marks.get_offsets()[0]) for marks in axes.collections] == [[0, 0]]
    assert not any(marks.get_clip_on() for marks in axes.collections)
    assert len(axes.get_title("right").splitlines()) == len(figures[0].axes[0].get_title().splitlines()) == 3
    for name in ("curves.png", "steps.png"):
        assert pixels(noted, name).shape[1] == pixels(plain, name).shape[1]  # nothing has made the page wider


def test_the_legend_of_curves_hides_none_of_them(context):
    """Below the axes, each name once: with more lines the figure grows, the axes keep their height."""
    line = CURVES["panels"][0]["lines"][1]
    many = {"title": "more", "lines": [{**line, "name": f"model {n} with a long name"} for n in range(9)]}
    heights = [
        pixels(analyse({**CURVES, "panels": panels}, context(histories=HISTORIES)), "curves.png").shape[0]
        for panels in ([CURVES["panels"][0]] * 2, CURVES["panels"] + [many])
    ]
    assert heights[1] > heights[0] + 40


# Targets


def test_targets_and_answers_of_a_model(context):
    spec = {
        "analysis": {"kind": "targets", "input_size": 64, "count": 4},
        "data": SHAPES,
        "backend": BACKEND,
        "seed": 0,
    }
    plain = analyse(spec, context())
    assert plain.facts["kinds"] == ["shuffle", "in-paint", "out-paint", "shuffle"]
    assert len(set(plain.facts["images"])) == 4
    assert plain.metrics == {}
    assert_not_clipped(pixels(plain, "targets.png"))
    assert analyse(spec, context()).files == plain.files
    assert analyse({**spec, "seed": 1}, context()).files != plain.files
    seed_everything(0, "init")
    model = build_pretext(ConRecSettings(), NetworkSettings(width=4)).weights()
    answered = analyse({**spec, "network": NETWORK}, context(parents={"model": model}))
    assert set(answered.metrics) == {f"mse/{task}" for task in ("reconstruction", "color", "mask", "fill")}
    assert pixels(answered, "targets.png").shape[0] > 1.8 * pixels(plain, "targets.png").shape[0]
    fewer = {**spec, "analysis": {**spec["analysis"], "tasks": ["mask"]}, "network": NETWORK}
    assert set(analyse(fewer, context(parents={"model": model})).metrics) == {"mse/mask"}


# Predictions


def finetuned(context, seed=0, **more):
    spec = {
        "scenario": "random-init",
        "network": NETWORK,
        "data": {**SHAPES, "fraction": 0.2},
        "finetune": {"steps": 20, "batch": 4, "input_size": 32, "report_every": 10, "learning_rate": 0.01},
        "backend": BACKEND,
        "seed": seed,
        **more,
    }
    return finetune(spec, context)


def predictions(count=24, names=("A",), **panel):
    return {
        "analysis": {"kind": "predictions", "input_size": 32},
        "models": [{"name": name, "network": NETWORK} for name in names],
        "panels": [{"title": "shapes", "data": SHAPES, "fraction": 0.2, "count": count, **panel}],
        "backend": BACKEND,
        "seed": 0,
    }


def test_kept_weights_change_no_digit_and_predict_what_was_evaluated(context):
    """All evaluation images shown: the mean of their Dice is the stage's own."""
    where, plain = context(), context()
    kept = finetuned(where, keep_weights=True)
    assert finetuned(plain).metrics == kept.metrics
    assert plain.history == where.history
    assert set(kept.weights) == set(build_network(NetworkSettings(width=4), 1).state_dict())
    result = analyse(predictions(), context(parents={"A": kept.weights}))
    assert result.metrics == pytest.approx({"dice/shapes/a": kept.metrics["dice"]}, abs=1e-6)
    rows = rows_of(result, "predictions.csv")
    assert len(rows) == len({row["image"] for row in rows}) == 24
    assert_not_clipped(pixels(result, "predictions.png"))


def test_a_model_without_a_result_keeps_its_place(context):
    weights = finetuned(context(), keep_weights=True).weights
    spec = predictions(2)
    spec["panels"][0]["gaps"] = ["ImageNet"]
    result = analyse(spec, context(parents={"A": weights}))
    whole = analyse(predictions(2), context(parents={"A": weights}))
    assert result.metrics == whole.metrics and result.files["predictions.csv"] == whole.files["predictions.csv"]
    assert result.files["predictions.png"] != whole.files["predictions.png"]
    assert_not_clipped(pixels(result, "predictions.png"))


def test_predictions_of_many_models_and_chosen_images(context):
    one, other = (finetuned(context(), seed, keep_weights=True).weights for seed in (0, 1))
    names = ["Random", "Dog breeds (2)", "Dog segmentation (3)", "SceneParse150 (4)", "ImageNet (2)"]
    parents = {name: other if n % 2 else one for n, name in enumerate(names)}
    wide = analyse(predictions(2, names), context(parents=parents))
    shown = [row["image"] for row in rows_of(wide, "predictions.csv")][:: len(names)]
    assert len(shown) == 2
    chosen = analyse(predictions(1, names, images=shown[1:], models=names[:1]), context(parents=parents))
    (row,) = rows_of(chosen, "predictions.csv")
    assert (row["image"], row["model"]) == (shown[1], "Random")
    assert pixels(wide, "predictions.png").shape[0] > pixels(chosen, "predictions.png").shape[0]
    assert analyse(predictions(2, names), context(parents=parents)).files == wide.files


def test_predictions_tell_what_does_not_fit(context):
    weights = build_network(NetworkSettings(width=4), 1).state_dict()
    with pytest.raises(StageError, match="shapes has no model 'B'; there are A"):
        analyse(predictions(models=["B"]), context(parents={"A": weights}))
    with pytest.raises(StageError, match=r"nowhere\.png is no evaluation image of shapes for seed 0"):
        analyse(predictions(images=["nowhere.png"]), context(parents={"A": weights}))
    encoder = {name: t for name, t in weights.items() if name.startswith("encoder.")}
    with pytest.raises(StageError, match="A: expected weights with a head for a binary task"):
        analyse(predictions(), context(parents={"A": encoder}))


# Samples


def samples(*panels, **settings):
    return {"analysis": {"kind": "samples", "input_size": 48, **settings}, "panels": list(panels), "seed": 0}


def test_samples_of_what_a_prepare_stage_made(context):
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    tensors = {
        "images": torch.randint(0, 255, (6, 3, 16, 16), dtype=torch.uint8),
        "masks": labels[:, None, None].expand(6, 16, 16).to(torch.uint8),
        "labels": labels,
        "part": torch.tensor([0, 0, 0, 1, 1, 0]),
    }
    panel = {"data": {**SHAPES, "prepared": True}, "labels": ["no car", "car"], "target": "car", "count": 2}
    spec = samples({**panel, "title": "with", "label": "car"}, {**panel, "title": "without", "label": "no car"})
    result = analyse(spec, context(parents={"data": tensors}))
    assert result.metrics == {"images/with": 4, "images/without": 2}
    counts = {(r["panel"], r["part"], r["group"], r["name"]): int(r["images"]) for r in rows_of(result, "counts.csv")}
    assert counts["with", "train", "all", ""] == counts["with", "train", "label", "car"] == 3
    assert counts["with", "validation", "all", ""] == 1
    assert counts["without", "train", "all", ""] == 1
    assert_not_clipped(pixels(result, "samples.png"))
    with pytest.raises(StageError, match="has no label 'bus'; it has no car, car"):
        analyse(samples({**panel, "title": "x", "label": "bus"}), context(parents={"data": tensors}))


def test_samples_of_two_preparations_each_by_its_role(context):
    made = {
        role: {"images": torch.full((n, 3, 16, 16), 50 * n, dtype=torch.uint8)}
        for role, n in (("data", 2), ("data 2", 3))
    }
    panels = [{"title": role, "data": {**SHAPES, "prepared": True, "role": role}, "show": "pictures"} for role in made]
    result = analyse(samples(*panels), context(parents=made))
    assert result.metrics == {"images/data": 2, "images/data-2": 3}


def test_counts_stand_beside_the_published_ones(context):
    plain, known = {"title": "Plain", "data": SHAPES}, {"title": "Known", "data": SHAPES, "published": 1234}
    lines = analyse(samples(known, plain), context()).files["counts.md"].decode().splitlines()
    assert lines[0] == "| data set | images | published | pretrain | pool |"
    assert lines[2:] == ["| Known | 30 | 1,234 | 30 | 30 |", "| Plain | 30 |  | 30 | 30 |"]
    assert analyse(samples(plain), context()).files["counts.md"].startswith(b"| data set | images | pretrain")


def test_samples_of_a_drawn_set_count_its_parts(context):
    result = analyse(samples({"title": "Shapes", "data": SHAPES, "show": "pairs"}), context())
    assert result.metrics == {"images/shapes": 30}
    counts = {(r["part"], r["group"], r["name"]): int(r["images"]) for r in rows_of(result, "counts.csv")}
    assert counts["pool", "all", ""] == counts["pool", "class", "background"] == 30
    with pytest.raises(StageError, match="its part train is empty"):
        analyse(samples({"title": "Shapes", "data": SHAPES, "part": "train"}), context())


def test_samples_of_several_real_sets(context, shared_data):
    """Counts against what the mask files themselves hold, read with Pillow."""
    spec = samples(
        {"title": "VOC horse", "data": {"reader": "voc-horse", "options": {}}, "show": "pairs"},
        {
            "title": "four classes",
            "data": {"reader": "voc-four", "options": {}},
            "part": "labelled",
            "show": "pictures",
            "each_label": True,
            "count": 1,
        },
    )
    result = analyse(spec, context(shared_data))
    folder = next(shared_data.glob("**/SegmentationClass"))
    with_horse = sum(13 in np.unique(np.asarray(Image.open(path))) for path in folder.glob("*.png"))
    assert result.metrics["images/voc-horse"] == with_horse > 20
    rows = [r for r in rows_of(result, "counts.csv") if r["panel"] == "four classes" and r["part"] == "task"]
    labels = [int(r["images"]) for r in rows if r["group"] == "label"]
    assert len(labels) == 4 and sum(labels) == result.metrics["images/four-classes"]
    assert_not_clipped(pixels(result, "samples.png"))


def test_data_of_several_sets_are_held_against_one_fingerprint(context):
    other = {"reader": "shapes", "options": {"count": 12, "size": 32}}
    spec = samples(*({"title": f"{n}", "data": data} for n, data in enumerate((SHAPES, other, SHAPES))))
    prints = [survey(open_dataset("shapes", ".", data["options"])).fingerprint for data in (SHAPES, other, SHAPES)]
    assert combined_fingerprint(prints) == combined_fingerprint(prints[:2]) != combined_fingerprint(prints[1::-1])
    assert combined_fingerprint(prints[:1]) == prints[0]
    analyse(spec, context(fingerprint=combined_fingerprint(prints)))
    with pytest.raises(DataError, match="not what the plan was made for"):
        analyse(spec, context(fingerprint=prints[0]))


def test_the_history_of_a_parent_is_a_copy(context):
    where = context(histories={"a": history(0.1, 0.2)})
    where.history_of("a")[0]["eval_dice"] = 9.0
    assert where.history_of("a") == history(0.1, 0.2)
    with pytest.raises(KeyError):
        where.history_of("b")
