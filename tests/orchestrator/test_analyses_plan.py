"""Analyses in grids: what they add to a plan, what they share, what blocks and defers them, and wrong requests."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.grid.errors import GridError
from orchestrator.grid.load import builtin_grids, load_request
from orchestrator.plan.build import new_plan_id, plan_record, restore_plan
from orchestrator.plan.data import WEIGHTS, DataFacts
from orchestrator.plan.diff import all_stages, diff, summary
from orchestrator.plan.expand import expand
from orchestrator.plan.keys import canonical
from orchestrator.plan.stages import Plan, Stage
from orchestrator.plan.unfold import unfold
from orchestrator.plan.weights_again import looked_at, with_weights
from tests.orchestrator.made_up import write_grid
from trainables.data import Listing
from trainables.data.listing import Kind
from trainables.data.survey import combined_fingerprint

TABLES = ("p1-table2", "p1-table3", "p1-table4", "p1-table5", "p1-table6")
P2 = ("p2-table1", "p2-fig4", "p2-fig5", "p2-fig6", "p2-fig7", "p2-fig8", "p2-fig9", "p2-fig10", "p2-fig11")
FIGURES = ("p1-table1", "p1-fig2", "p1-fig3", "p1-fig4", "p1-fig5", "p1-fig6", "p1-fig7")
POOLS = {"flowers17": 849, "pets": 7390, "shapes": 240}
VOLUMES: dict[str, Kind] = {"luna16": "scans", "lidc-nodules": "cubes"}


def facts_of(spec: dict[str, Any]) -> DataFacts:
    """Everything is there: some sets with one pool, others with official parts."""
    reader = spec["reader"]
    if reader.startswith(WEIGHTS):
        return DataFacts(reader, f"file of {reader}")
    count = POOLS.get(reader, 300)
    names, numbers = tuple(f"{n:06d}" for n in range(count)), tuple(range(count))
    labels = tuple(n % 3 for n in numbers)
    parts = (numbers,) if reader in POOLS else ((), numbers[:200], numbers[200:])
    folder, volumes = Path(f"/made-up/{reader}"), VOLUMES.get(reader)
    listing = Listing(reader, folder, names, names, labels, {0: 0, 1: 1}, numbers, *parts)
    if volumes is not None:
        listing = replace(listing, kind=volumes, validation=numbers[250:])
    meant = {name: value for name, value in spec["options"].items() if name != "path"}
    return DataFacts(reader, f"files of {reader} {canonical(meant)}", listing)


def absent(*readers: str) -> Any:
    def facts(spec: dict[str, Any]) -> DataFacts:
        gone = f"{spec['reader']} is not there"
        missing = not readers or spec["reader"] in readers
        return DataFacts(spec["reader"], gone, absent=gone) if missing else facts_of(spec)

    return facts


def planned(name: str, facts: Any = facts_of, **how: Any) -> Plan:
    request = load_request(name, **how)
    return expand(request.grid, request.profile, facts)


def analyses(plan: Plan) -> dict[str, Stage]:
    """The analyses that a plan asks for, by name."""
    stages = [plan.stages[key] for key in plan.wanted if plan.stages[key].kind == "analysis"]
    return {str(stage.labels.get("analysis", "study")): stage for stage in stages}


def kinds(*plans: Plan) -> dict[str, int]:
    return {kind: n for kind, n in summary(diff(plans, ()))["stages"].items() if n}


# The paper's figures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [facts_of, absent()], ids=["present", "absent"])
def test_tables_and_figures_are_250_cells_on_24_trained_pretrainings(facts: Any) -> None:
    plans = [planned(name, facts) for name in (*TABLES, "p1-fig6", "p1-fig7")]
    found = summary(diff(plans, ()))
    assert (found["cells"], found["stages"]["pretrain"], found["stages"]["import"]) == (250, 24, 1)
    each = {grid["grid"]: grid for grid in found["grids"]}
    assert (each["p1-fig6"]["cells"], each["p1-fig7"]["cells"]) == (3, 0)
    assert each["p1-fig7"]["stages"]["pretrain"] == 7
    assert found["blocked"] == (0 if facts is facts_of else len(all_stages(plans)))
    without = summary(diff(plans[:-2], ()))
    assert (without["cells"], without["stages"]["pretrain"]) == (247, 17)


def test_figures_of_tables_train_nothing_that_the_tables_do_not() -> None:
    tables = all_stages([planned(name) for name in TABLES])
    for name, own in (("p1-table1", {}), ("p1-fig2", {}), ("p1-fig3", {}), ("p1-fig4", {}), ("p1-fig5", {})):
        plan = planned(name)
        new = Counter(stage.kind for key, stage in plan.stages.items() if key not in tables)
        assert new.pop("analysis") >= 1 and new == own, name
        assert not plan.cells
    six = planned("p1-fig6")
    assert Counter(s.kind for key, s in six.stages.items() if key not in tables) == {"finetune": 3, "analysis": 1}
    seven = planned("p1-fig7")
    assert Counter(s.kind for key, s in seven.stages.items() if key not in tables) == {"pretrain": 7, "analysis": 3}


def test_figure_4_draws_the_cells_that_the_paper_names() -> None:
    found = analyses(planned("p1-fig4"))
    (flowers, pets), (bus,) = (found[name].spec["panels"] for name in ("self-supervised", "supervised"))
    names = ["Random", "SimCLR", "Reconstruction", "ConRec"]
    names += ["Reconstruction, random decoder", "ConRec, random decoder"]
    assert [line["name"] for line in flowers["lines"]] == [line["name"] for line in pets["lines"]] == names
    assert [line["dashed"] for line in pets["lines"]] == [False] * 4 + [True] * 2
    assert [line["method"] for line in pets["lines"]][-2:] == ["Reconstruction", "ConRec"]
    assert [line["name"] for line in bus["lines"]] == [
        "Random", "Classification", "Segmentation", "Segmentation, random decoder",
    ]  # fmt: skip
    assert all(len(line["roles"]) == 3 for panel in (flowers, pets, bus) for line in panel["lines"])
    assert len(found["self-supervised"].parents) == 36 and len(found["supervised"].parents) == 12


def test_figure_6_tells_models_of_one_name_apart_and_keeps_their_networks() -> None:
    plan = planned("p1-fig6")
    stage = analyses(plan)["predictions"]
    assert [model["name"] for model in stage.spec["models"]] == [
        "Random", "Classification, dogs", "Segmentation, dogs", "Segmentation, dogs, random decoder",
        "Segmentation, scene parsing", "Segmentation, scene parsing, random decoder", "Classification, ImageNet",
        "SimCLR", "Reconstruction", "ConRec",
    ]  # fmt: skip
    assert set(stage.parents) == {model["name"] for model in stage.spec["models"]}
    drawn = [plan.stages[key] for key in stage.parents.values()]
    assert all(cell.spec["keep_weights"] and cell.spec["seed"] == 0 for cell in drawn)
    assert all(cell.spec["data"]["reader"] == "voc-cat" for cell in drawn)
    table = planned("p1-table5")
    kept = {key for key, s in table.stages.items() if s.spec.get("keep_weights")}
    assert len(kept) == 7 and kept < set(stage.parents.values())  # so that they are there when the figure is asked for
    for plans in ([table, plan], [plan, table]):  # whoever comes first, the shared cells keep theirs
        shared = all_stages(plans)
        assert all(shared[key].spec.get("keep_weights") for key in stage.parents.values())


def test_sizes_and_images_are_those_of_what_is_drawn() -> None:
    fig6 = analyses(planned("p1-fig6", profile="mini"))["predictions"]
    assert fig6.spec["analysis"]["input_size"] == 64
    asked = analyses(planned("p1-fig6", profile="mini", overrides=["analyses.predictions.input_size=96"]))
    assert asked["predictions"].spec["analysis"]["input_size"] == 96
    gradcam = analyses(planned("p1-fig5"))["gradcam"]
    assert gradcam.spec["analysis"]["input_size"] == 128 and gradcam.spec["data"]["prepared"] is True
    assert set(gradcam.parents) == {"model", "data"}
    (panel,) = fig6.spec["panels"]
    assert panel["fraction"] is None and panel["n_train"] is not None and panel["count"] == 2


@pytest.mark.parametrize("profile", ["paper", "mini", "smoke"])
@pytest.mark.parametrize("name", [*FIGURES, *P2])
def test_every_figure_is_a_grid_with_a_head_and_every_profile(name: str, profile: str) -> None:
    assert name in builtin_grids()
    plan = planned(name, profile=profile)
    assert plan.wanted and not any(stage.blocked for stage in plan.stages.values())
    head = Path(load_request(name).path).read_text().splitlines()[:3]
    assert head[0].startswith(f"# {name[:2].upper()} ") and head[1].startswith(
        f"# Run:    python -m orchestrator.run_grid {name} "
    )
    assert head[2].startswith("# Expect: ")


def test_figures_of_paper_2_train_nothing_that_its_tables_do_not() -> None:
    tables = all_stages([planned(name) for name in ("p2-table2", "p2-table3", "p2-table4")])
    for name in P2:
        new = Counter(stage.kind for key, stage in planned(name).stages.items() if key not in tables)
        assert new == {"analysis": 1}, name
    cam = analyses(planned("p2-fig11"))["cam"]
    names = [f"{m}, {n}" for n in ("SASA-ResNet-50", "ResNet-50") for m in ("BYOL+colorization", "BYOL")]
    assert [model["name"] for model in cam.spec["models"]] == names
    assert set(cam.parents) == {*names, *(f"probe/{name}" for name in names)}
    assert cam.spec["analysis"]["input_size"] == 128 and cam.spec["data"]["reader"] == "cem500k"
    (confusion,) = analyses(planned("p2-fig9")).values()
    assert list(confusion.parents) == ["SASA-ResNet-50 (BYOL+colorization)"]


def test_figures_say_what_stands_in_and_which_colours_are_made_up() -> None:
    em = ["stand_ins.cem500k=textures", "stand_ins.lucchi=shapes"]

    def notes(name: str, **how: Any) -> list[str | None]:
        return [
            panel.get("note") for stage in analyses(planned(name, **how)).values() for panel in stage.spec["panels"]
        ]

    assert notes("p2-fig6", profile="mini", overrides=em) == ["textures in place of cem500k, colours made up"]
    assert notes("p2-fig6", profile="mini") == ["colours made up"] and notes("p2-fig6") == [None]
    assert notes("p2-table1", overrides=em) == ["textures in place of cem500k", "shapes in place of lucchi", None]
    bus = ["stand_ins.cityscapes-bus=voc-bus"]
    assert notes("p1-fig4", overrides=bus) == [None, None, "voc-bus in place of cityscapes-bus"]
    assert notes("p1-fig6", overrides=["stand_ins.voc-cat=textures"]) == ["textures in place of voc-cat"]
    car = [*bus, "stand_ins.cityscapes-car=textures", "stand_ins.flowers102=flowers17"]
    assert notes("p1-fig4", overrides=car) == [
        "flowers17 in place of flowers102",
        None,
        "voc-bus in place of cityscapes-bus, textures in place of cityscapes-car",
    ]
    dogs = [f"stand_ins.{name}=textures" for name in ("voc-cat", "pets", "pets-dogs")]
    assert notes("p1-fig6", overrides=dogs) == ["textures in place of voc-cat, pets-dogs and pets"]
    person = {"overrides": ["stand_ins.voc-person=shapes"], "only": ["analysis=predictions"]}
    assert notes("p1-fig7", **person) == [None, "shapes in place of voc-person", None]
    with pytest.raises(GridError, match=r"note'"):
        load_request("p2-fig5", overrides=["analyses.samples.panels.0.note=mine"])


def test_a_map_says_what_stands_in_for_its_patches_and_keeps_its_key_where_nothing_does() -> None:
    plain, other, served = (
        analyses(planned("p1-fig5", overrides=[f"stand_ins.{name}=textures"] if name else []))["gradcam"]
        for name in ("", "cityscapes-bus", "cityscapes-car")
    )
    assert "note" not in plain.spec and plain.key == other.key
    assert served.spec["note"] == "textures in place of cityscapes-car"


def test_nothing_stands_in_for_data_that_imported_weights_were_trained_on(tmp_path: Path) -> None:
    text = Path(load_request("p1-table5").path).read_text().replace("pretext_data: imagenet", "pretext_data: pets")
    text = text.partition("# The paper's sentences")[0].replace("references: p1-table5\n", "")
    write_grid(tmp_path, text.replace("grid: p1-table5", "grid: mine"), "mine.yaml")
    text = "grid: figure\ntitle: Figure\nanalyses:\n  curves:\n    kind: curves\n    panels:\n"
    text += "      - {title: Cat, cells: {grid: mine.yaml, dataset: voc-cat}}\n"
    figure = planned(write_grid(tmp_path, text, "figure.yaml"), overrides=["stand_ins.pets=shapes"])
    (panel,) = analyses(figure)["curves"].spec["panels"]
    assert len(panel["lines"]) == 7 and "note" not in panel


def test_the_organisms_of_pretraining_images_count_for_their_figure_alone() -> None:
    """They are no part of the fingerprint, as nothing trains on them."""

    def told(organism: str) -> Any:
        def facts(spec: dict[str, Any]) -> DataFacts:
            found = facts_of(spec)
            if spec["reader"] == "cem500k" and found.listing is not None:
                found = replace(found, listing=replace(found.listing, groups=("Mouse",) * 299 + (organism,)))
            return found

        return facts

    one, other = (analyses(planned("p2-fig7", told(name)))["organisms"] for name in ("Rat", "Zebrafish"))
    assert one.key != other.key and one.fingerprint == other.fingerprint
    tables = [planned("p2-table2", told(name)) for name in ("Rat", "Zebrafish")]
    assert tables[0].stages.keys() == tables[1].stages.keys()
    assert analyses(planned("p2-fig7", absent()))["organisms"].blocked == "cem500k is not there"


# Keys, costs, what blocks and defers ---------------------------------------------------------------------------------

GRID = """\
grid: mine
title: Mine
profile: paper
datasets:
  one: {reader: folder, path: here/one}
  two: {reader: folder, path: here/two, target: dog}
rows:
  - {scenario: random-init, model: Random}
  - {scenario: seg-enc-dec, model: ConRec, pretext: conrec}
columns:
  - {dataset: pets, pretext_data: pets, fractions: [0.05, 0.2]}
seeds: [0, 1]
analyses:
  look:
    kind: samples
    panels:
      - {title: One, data: one}
      - {title: Two, data: two}
  curves: {kind: curves}
  alike:
    kind: cka
    data: pets
    models:
      - {name: Random}
      - {name: ConRec, pretext: conrec, pretext_data: pets}
  shown:
    kind: predictions
    panels: [{title: Pets, cells: {seed: 1, fraction: 0.2}}]
"""


def test_a_grid_of_its_own(tmp_path: Path) -> None:
    plan = planned(write_grid(tmp_path, GRID))
    assert len(plan.cells) == 8 and kinds(plan) == {"pretrain": 1, "finetune": 8, "analysis": 4}
    found = analyses(plan)
    assert [panel["title"] for panel in found["curves"].spec["panels"]] == ["pets, 5 %", "pets, 20 %"]
    assert len(found["curves"].parents) == 8
    assert list(found["alike"].parents) == ["ConRec"]
    assert found["alike"].spec["models"][0]["random"] is True
    assert [plan.stages[key].spec["seed"] for key in found["shown"].parents.values()] == [1, 1]
    assert found["shown"].spec["seed"] == 1
    order = list(plan.stages)
    for stage in plan.stages.values():
        assert all(order.index(parent) < order.index(stage.key) for parent in stage.parents.values())
    record = json.loads(json.dumps(plan_record(
        load_request(write_grid(tmp_path, GRID)), plan, plan_id=new_plan_id(), command="", data_root=tmp_path
    )))  # fmt: skip
    assert restore_plan(record).wanted == plan.wanted
    assert set(restore_plan(record).stages) == set(plan.stages)


def test_where_the_data_of_a_panel_lie_is_no_part_of_what_a_figure_is(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID)
    here = analyses(planned(name))["look"]
    there = analyses(planned(name, overrides=["datasets.one.path=elsewhere", "datasets.two.path=else"]))["look"]
    assert here.key == there.key
    assert here.spec["panels"][0]["data"]["options"]["path"] == "here/one"
    other = analyses(planned(name, overrides=["datasets.two.target=cat"]))["look"]
    assert other.key != here.key
    specs = [panel["data"] for panel in here.spec["panels"]]
    assert here.fingerprint == combined_fingerprint([facts_of(spec).fingerprint for spec in specs])


def test_a_dial_changes_its_own_figure_only(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID)
    plain = {key: stage.key for key, stage in analyses(planned(name)).items()}
    dialled = {k: s.key for k, s in analyses(planned(name, overrides=["analyses.curves.share=0.9"])).items()}
    assert {key for key in plain if plain[key] != dialled[key]} == {"curves"}


def test_cost_grows_with_what_is_looked_at(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID)
    whole = analyses(planned(name))["alike"].cost
    few = analyses(planned(name, overrides=["analyses.alike.images=100"]))["alike"].cost
    assert whole > 20 * few / 10 and few > 0
    assert analyses(planned(name))["curves"].cost < 60


def test_an_analysis_of_a_blocked_model_is_blocked_with_the_cause(tmp_path: Path) -> None:
    text = GRID.replace("pretext_data: pets}\n  shown", "pretext_data: flowers102}\n  shown")
    plan = planned(write_grid(tmp_path, text), absent("flowers102"))
    found = diff([plan], ())
    alike = analyses(plan)["alike"]
    assert alike.blocked == "flowers102 is not there" and alike.provisional
    assert (found.states[alike.key], found.reasons[alike.key]) == ("blocked", "flowers102 is not there")
    assert {name for name, stage in analyses(plan).items() if stage.blocked} == {"alike"}
    missing = planned(write_grid(tmp_path, GRID), absent("folder"))
    assert analyses(missing)["look"].blocked == "folder is not there"


def test_a_figure_of_several_models_goes_on_without_a_blocked_one_and_says_so(tmp_path: Path) -> None:
    plan = planned("p1-fig6", absent("weights torchvision-resnet18"))
    stage = analyses(plan)["predictions"]
    (panel,) = stage.spec["panels"]
    assert stage.blocked is None and panel["gaps"] == ["Classification, ImageNet"] and len(panel["models"]) == 9
    found = summary(diff([plan], ()))
    assert found["blocked"] == 2  # the import and its cell: the run ends with 1, as for the table
    assert [n for n in plan.notes if "ImageNet is left out: weights torchvision-resnet18 is not there" in n]
    assert stage.key != analyses(planned("p1-fig6"))["predictions"].key
    nothing = planned("p1-fig6", absent())
    assert analyses(nothing)["predictions"].blocked == "voc-cat is not there" and not nothing.notes


def test_what_failed_before_blocks_the_figures_below_it(tmp_path: Path) -> None:
    plan = planned(write_grid(tmp_path, GRID))
    cell = next(c for c in plan.cells if c.model == "Random" and c.seed == 1 and c.fraction == 0.2)
    found = diff([plan], (), {cell.key: "the loss was not finite"})
    states = {name: found.states[stage.key] for name, stage in analyses(plan).items()}
    assert states == {"look": "to_run", "curves": "blocked", "alike": "to_run", "shown": "blocked"}
    assert "failed: the loss was not finite" in found.reasons[analyses(plan)["curves"].key]


TUNED = GRID + "pretexts: {conrec: {tune: {trials: 2}}}\n"


def test_below_a_study_figures_wait_and_get_their_keys_with_their_cells(tmp_path: Path) -> None:
    plan = planned(write_grid(tmp_path, TUNED))
    folded = unfold(plan, {})
    found = diff([folded], ())
    states = {name: found.states[stage.key] for name, stage in analyses(folded).items()}
    assert states["look"] == "to_run"
    assert states["curves"] == states["shown"] == states["alike"] == "deferred"
    again = unfold(folded, {})
    assert set(again.stages) == set(folded.stages) and again.wanted == folded.wanted
    order = list(folded.stages)
    for stage in folded.stages.values():
        assert all(order.index(parent) < order.index(stage.key) for parent in stage.parents.values())

    (study,) = plan.studies.values()
    from orchestrator.plan.studies import Trial, trial_stage

    trials = [
        Trial(n, {}, {}, changes, trial_stage(study, changes).key, state="COMPLETE", value=value, values={1: value})
        for n, (changes, value) in enumerate([({"temperature": 0.2}, 2.0), ({"temperature": 0.3}, 1.0)])
    ]
    over = unfold(folded, {study.key: trials})
    names = analyses(over)
    assert names["alike"].parents["ConRec"] == trials[1].key
    cells = {cell.key for cell in over.cells}
    assert set(names["curves"].parents.values()) <= cells and not names["curves"].awaits
    assert not any(stage.provisional for stage in names.values())
    assert set(diff([over], ()).states.values()) <= {"to_run", "unneeded"}
    assert all(over.stages[key].spec["keep_weights"] for key in names["shown"].parents.values())


def test_cells_that_are_finished_without_their_weights_are_trained_once_more(tmp_path: Path) -> None:
    plan = planned(write_grid(tmp_path, GRID))
    cells = looked_at(plan)
    assert cells == set(analyses(plan)["shown"].parents.values()) and len(cells) == 2
    assert with_weights(plan, ()) is plan
    one = sorted(cells)[0]
    again = with_weights(plan, {one, "another"})
    shown = analyses(again)["shown"]
    (new,) = set(shown.parents.values()) - cells
    assert shown.key != analyses(plan)["shown"].key and one in again.stages
    assert again.stages[new].spec["keep_weights"] and again.stages[new].labels["again"] == "weights"
    meaning = {k: v for k, v in again.stages[new].spec.items() if k != "again"}
    assert meaning == plan.stages[one].spec
    found = diff([again], {one})
    assert found.states[new] == "to_run" and found.states[one] == "reused"


def test_weights_are_kept_where_the_grid_asks_for_it(tmp_path: Path) -> None:
    plain = planned(write_grid(tmp_path, GRID.split("analyses")[0]))
    kept = planned(write_grid(tmp_path, GRID.split("analyses")[0] + "run: {keep_weights: {seed: 0, fraction: 0.2}}\n"))
    assert plain.stages.keys() == kept.stages.keys()
    chosen = [s for s in kept.stages.values() if s.spec.get("keep_weights")]
    assert len(chosen) == 2 and all(s.spec["seed"] == 0 for s in chosen)


# --only --------------------------------------------------------------------------------------------------------------


def test_only_an_analysis_and_what_it_needs(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID)
    plan = planned(name, only=["analysis=shown"])
    assert not plan.cells and kinds(plan) == {"pretrain": 1, "finetune": 2, "analysis": 1}
    assert analyses(plan)["shown"].key == analyses(planned(name))["shown"].key
    both = planned(name, only=["analysis=shown", "analysis=look"])
    assert set(analyses(both)) == {"shown", "look"}
    assert kinds(planned(name, only=["analysis=look"])) == {"analysis": 1}


def test_only_axes_restrict_what_analyses_draw(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID)
    plan = planned(name, only=["seed=0"])
    assert set(analyses(plan)) == {"look", "curves", "alike"}  # `shown` is of seed 1
    assert len(analyses(plan)["curves"].parents) == 4
    part = planned("p1-fig4", only=["dataset=pets", "seed=0"])
    (stage,) = analyses(part).values()
    assert [panel["title"] for panel in stage.spec["panels"]] == ["(a) Oxford Pets, 5 %"] and len(stage.parents) == 6
    models = planned("p1-fig4", only=["model=ConRec"])
    assert [line["name"] for line in analyses(models)["self-supervised"].spec["panels"][0]["lines"]] == [
        "ConRec", "ConRec, random decoder",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "only", "says"),
    [
        ("p1-fig7", "analysis=ckaa", "the grid has no such analysis; did you mean 'cka'?"),
        ("p1-table2", "analysis=cka", "the grid has no such analysis; it has none"),
        ("p1-fig7", "dataset=pets", "the grid has no such dataset; it has no cells of its own or of other grids"),
        ("p1-fig4", "dataset=voc-cat", "the grid has no such dataset; allowed: cityscapes-bus, flowers17, pets"),
    ],
)
def test_a_wrong_selection(grid: str, only: str, says: str) -> None:
    with pytest.raises(GridError) as refused:
        load_request(grid, only=[only])
    assert str(refused.value) == f"--only {only}: {says}"


# Settings reach the grids that a figure draws from -------------------------------------------------------------------


def test_settings_reach_the_tables_that_a_figure_draws_from() -> None:
    how = {"overrides": ["finetune.steps=77", "analyses.self-supervised.share=0.9"]}
    figure = planned("p1-fig4", **how)
    table = planned("p1-table2", overrides=["finetune.steps=77"])
    finetunes = [s for s in figure.stages.values() if s.kind == "finetune"]
    cells = {s.key for s in finetunes if s.spec["data"]["reader"] != "cityscapes-bus"}
    assert len(cells) == 36 and cells < table.stages.keys()
    own = planned("p1-fig4", overrides=["pretexts.car-segmentation.prepare.exclude_val=true"])
    other = planned("p1-table4", overrides=["pretexts.car-segmentation.prepare.exclude_val=true"])
    bus = {key for key, s in own.stages.items() if s.kind != "analysis" and "cityscapes" in s.spec["data"]["reader"]}
    prepared = [s for s in own.stages.values() if s.kind == "prepare"]
    assert bus < other.stages.keys()
    assert sorted(s.spec["prepare"]["exclude_val"] for s in prepared) == [False, True]  # only that of the segmentation


def test_a_grid_beside_the_file_is_found_by_its_name(tmp_path: Path) -> None:
    write_grid(tmp_path, GRID.split("analyses")[0], "table.yaml")
    text = "grid: figure\ntitle: Figure\nanalyses:\n  curves:\n    kind: curves\n    panels:\n"
    text += "      - {title: Pets, cells: {grid: table.yaml, fraction: 0.2}}\n"
    plan = planned(write_grid(tmp_path, text, "figure.yaml"))
    table = planned(str(tmp_path / "table.yaml"))
    assert not plan.cells and {k for k, s in plan.stages.items() if s.kind != "analysis"} < table.stages.keys()
    assert len(analyses(plan)["curves"].parents) == 4


# Wrong requests ------------------------------------------------------------------------------------------------------

START = GRID.index("analyses:")
LINE = GRID[:START].count("\n") + 1  # of `analyses:`
# What is replaced in the grid, by what; the line after `analyses:` that the message names; what it says.
WRONG = {
    "kind": ("kind: curves", "kind: curve", 6, "analyses.curves.kind: no analysis 'curve'; did you mean 'curves'?"),
    "no kind": ("{kind: curves}", "{share: 0.9}", 6, "analyses.curves.kind is missing"),
    "dial": ("{kind: curves}", "{kind: curves, shere: 1}", 6, "key 'analyses.curves.shere'; did you mean 'share' or"),
    "value": ("{kind: curves}", "{kind: curves, share: 2}", 6, "share: expected less than or equal to 1, but got 2"),
    "key of a panel": ("data: one}", "data: one, shwo: pairs}", 4, "look.panels.0.shwo'; did you mean 'show'?"),
    "choice in a panel": ("data: one}", "data: one, show: all}", 4, "show: expected 'pictures', 'masks', 'pairs' or '"),
    "no title": ("{title: One, data: one}", "{data: one}", 4, "analyses.look.panels.0.title is missing"),
    "no source": ("data: one}", "count: 2}", 4, "analyses.look.panels.0: expected `data:`, or `pretext:` and"),
    "dataset": ("data: one}", "data: onne}", 4, "analyses.look.panels.0.data: no dataset 'onne'; did you mean 'one'?"),
    "data of a model": (
        "pretext_data: pets}\n  shown", "pretext_data: pest}\n  shown", 12,
        "analyses.alike.models.1.pretext_data: no dataset 'pest'; did you mean 'pets",
    ),
    "pretext": (
        "pretext: conrec, pretext_data: pets}\n  shown", "pretext: conrek, pretext_data: pets}\n  shown", 12,
        "analyses.alike.models.1.pretext: no pretext 'conrek'; did you mean 'conrec'?",
    ),
    "half a model": (", pretext_data: pets}\n  shown", "}\n  shown", 12, "add `pretext_data:`, or leave both out"),
    "network": ("{name: Random}", "{name: Random, network: {name: vgg}}", 11, "models.0.network: no network 'vgg'"),
    "dial of a network": ("{name: Random}", "{name: Random, network: {wide: 1}}", 11, "did you mean 'width'?"),
    "models twice": ("{name: Random}", "{name: ConRec}", 7, "two of its models are called 'ConRec'; rename one"),
    "panels twice": ("title: Two", "title: One", 1, "two of its panels are called 'One'; rename one"),
    "one model": ("      - {name: Random}\n", "", 10, "analyses.alike.models: expected at least one entry"),
    "axis": ("cells: {seed: 1,", "cells: {sead: 1,", 15, "panels.0.cells.0.sead'; did you mean 'seed'"),
    "seed": ("cells: {seed: 1,", "cells: {seed: 7,", 15, "the grid mine has no cell with seed 7; allowed: 0, 1"),
    "model of cells": ("cells: {seed: 1,", "cells: {seed: 1, model: Randm,", 15, "no cell with model Randm; did you"),
    "nothing of all": (
        "cells: {seed: 1,", "cells: {seed: 1, model: Random, scenario: seg-enc-dec,", 15,
        "analyses.shown.panels.0.cells.0: no cell of the grid mine has all of these",
    ),
    "two seeds": ("cells: {seed: 1, ", "cells: {", 15, "these cells have more than one seed (0, 1); name one"),
    "two fractions": ("seed: 1, fraction: 0.2", "seed: 1", 15, "these cells have more than one fraction (0.05, 0.2)"),
    "grid": ("cells: {seed: 1,", "cells: {grid: p1-tabel2, seed: 1,", 15, "no grid 'p1-tabel2'; did you mean"),
    "grid without cells": ("cells: {seed: 1,", "cells: {grid: p1-fig3, seed: 1,", 15, "the grid p1-fig3 has no cells"),
    "probes": (
        "cells: {seed: 1, fraction: 0.2", "cells: {grid: p2-table4, dataset: cem500k", 15,
        "predictions draws finetuned networks, but",
    ),
    "a pretext for pictures": (
        "data: one}", "pretext: conrec, pretext_data: pets}", 4, "nothing is prepared for conrec; expected one with",
    ),
    "a mapping": ("{kind: curves}", "curves", 6, "analyses.curves: expected a mapping (key: value), but got 'curves'"),
    "a name": ("  curves: {kind", "  my curves: {kind", 6, "letters, digits, dots, dashes and underscores"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_is_one_message_with_its_line(tmp_path: Path, fault: str) -> None:
    old, new, line, says = WRONG[fault]
    assert old in GRID[START:]
    name = write_grid(tmp_path, GRID[:START] + GRID[START:].replace(old, new, 1))
    with pytest.raises(GridError) as refused:
        load_request(name)
    text = str(refused.value)
    assert says in text, text
    assert "\n" not in text and len(text) < 400
    assert text.startswith(f"{name}:{LINE + line}: "), text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kind: gradcam, model: {pretext: car-classification", "kind: gradcam, model: {pretext: simclr",
         "gradcam needs a model trained by classification, but simclr is simclr"),
        ("pretext_data: cityscapes-car}}", "pretext_data: cityscapes-car, name: x}}",
         "unknown key 'analyses.gradcam.model.name'"),
    ],
)  # fmt: skip
def test_models_that_an_analysis_cannot_use(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = Path(load_request("p1-fig5").path).read_text()
    assert old in text
    with pytest.raises(GridError) as refused:
        load_request(write_grid(tmp_path, text.replace(old, new, 1)))
    assert says in str(refused.value)


def test_a_grid_must_ask_for_something(tmp_path: Path) -> None:
    for text, says in (
        ("grid: a\ntitle: A\n", "rows is missing"),
        ("grid: a\ntitle: A\nanalyses: {}\n", "rows is missing"),
        ("grid: a\ntitle: A\nrows: [{scenario: random-init, model: R}]\nanalyses: {t: {kind: targets, data: pets}}\n",
         "columns is missing"),
        ("grid: a\ntitle: A\nanalyses: {c: {kind: curves}}\n", "analyses.c: this grid has no cells to draw; add `pan"),
    ):  # fmt: skip
        with pytest.raises(GridError, match=says.replace("(", r"\(")):
            load_request(write_grid(tmp_path, text))
