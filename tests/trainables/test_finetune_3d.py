"""The finetune stage on volumes: its batches and metrics, and what the validation part decides."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainables.context import Context, StageError
from trainables.data import DataError, open_dataset, split
from trainables.data.cube_sizes import shrink_cubes, shrink_masks
from trainables.data.cube_stack import load_cubes
from trainables.downstream import examples
from trainables.downstream.examples import Volumes
from trainables.downstream.finetune import evaluate, finetune
from trainables.downstream.metrics import summarise_batches, tally_batch
from trainables.downstream.selection import Selection
from trainables.losses.dice import dice_loss
from trainables.networks import build_network
from trainables.randomness import batch_indices, seed_everything
from trainables.settings import FinetuneSettings
from trainables.settings.networks import GenesisUNet3dSettings

OPTIONS = {"count": 20, "width": 16, "depth": 16}  # 10 train, 4 validate, 6 evaluate


def spec(scenario="random-init", *, seed=0, reader="nodules", options=None, network=None, **finetune):
    settings = {"steps": 6, "batch": 4, "input_size": 16, "report_every": 2, "curve_images": 3}
    return {
        "scenario": scenario,
        "frozen": False,
        "network": network or {"name": "genesis-unet3d", "width": 2},
        "data": {"reader": reader, "options": options or OPTIONS},
        "finetune": settings | finetune,
        "backend": {"threads": 1},
        "seed": seed,
    }


def network(seed=0):
    seed_everything(seed, "init")
    return build_network(GenesisUNet3dSettings(width=2), 1)


def run(path, asked, name="stage", cls=Context, parent=None, **more):
    where = cls(path, path / name, parents={"pretrain": parent} if parent else None, cache_dir=path / "cache", **more)
    return finetune(asked, where), where


def part(path, name, options=OPTIONS):
    listing = open_dataset("nodules", path, options)
    return load_cubes(listing, getattr(listing, name), masks=True, cache_dir=path)


def test_result_and_curve(tmp_path):
    result, where = run(tmp_path, spec())
    assert result.facts == {"n_train": 10, "n_eval": 6, "transferred": 0, "resumed_from": 0}
    assert {"dice", "dice_eval", "iou_eval", "dice_hard", "iou_hard"} <= set(result.metrics)
    assert result.metrics["dice_hard"] == result.metrics["dice_pooled"]
    assert result.metrics["iou_hard"] == result.metrics["iou"]
    assert [point["step"] for point in where.history] == [0, 2, 4, 6]
    assert all(set(point) <= {"step", "eval_dice", "train_loss"} for point in where.history)


def test_metrics_are_those_of_the_evaluation_cubes_in_batches_of_the_training_size(tmp_path):
    stack, model = part(tmp_path, "evaluation"), network().eval()
    found = evaluate(model, Volumes(stack.cubes, stack.masks, 4), torch.device("cpu"))
    with torch.no_grad():
        logits = model(stack.cubes.float()[:, None] / 255)
    batches = [tally_batch(logits[rows], stack.masks[rows]) for rows in (slice(0, 4), slice(4, 6))]
    expected = summarise_batches(batches)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    truth, object_ = stack.masks.numpy() == 1, logits[:, 0].numpy() > 0
    hit, either = (truth & object_).sum(), (truth | object_).sum()
    assert found["iou_hard"] == pytest.approx(hit / either)
    assert found["dice_hard"] == pytest.approx(2 * hit / (truth.sum() + object_.sum()))


def test_a_step_is_on_the_cubes_as_they_are(tmp_path):
    """No augmentation: the loss of the first step is that of the drawn rows."""
    _, where = run(tmp_path, spec(steps=1, report_every=1))
    listing = open_dataset("nodules", tmp_path, OPTIONS)
    stack = load_cubes(listing, split(listing, None, None, 0).train, masks=True, cache_dir=tmp_path)
    rows = batch_indices(10, 4, 0, 0, "order")
    loss = dice_loss(network()(stack.images(rows)), stack.masks[rows])
    assert where.history[-1]["train_loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_it_learns(tmp_path):
    options = {"count": 24, "width": 24, "depth": 16}
    result, _ = run(
        tmp_path, spec(options=options, input_size=24, steps=100, batch=4, report_every=50, learning_rate=0.01,
                       network={"name": "genesis-unet3d", "width": 2, "variant": "pytorch"})
    )  # fmt: skip
    assert result.metrics["dice"] > result.metrics["dice_all_foreground"] + 0.15


@pytest.mark.parametrize("scenario", ["seg-enc", "seg-enc-dec"])
def test_scenarios_differ_from_random_init_by_the_parent_only(tmp_path, scenario):
    expected, _ = run(tmp_path, spec(), "random")
    same, _ = run(tmp_path, spec(scenario), "same", parent=network().state_dict())
    other, _ = run(tmp_path, spec(scenario), "other", parent=network(1).state_dict())
    assert same.metrics == expected.metrics != other.metrics
    whole = len(network().state_dict())
    assert same.facts["transferred"] == (whole if scenario == "seg-enc-dec" else 56)


SELECT = {"keep": "best", "plateau": 1, "patience": 3, "steps": 14, "learning_rate": 0.02}


class Lost(Exception):
    pass


class LostAtStep7(Context):
    def checkpoint_due(self):
        return True

    def progress(self, step, steps):
        if step == 7:
            raise Lost


def test_resumed_run_equals_an_undisturbed_one(tmp_path):
    """With all that the validation part decides: weights kept, rate, waiting."""
    expected, undisturbed = run(tmp_path, spec(**SELECT), "undisturbed")
    with pytest.raises(Lost):
        run(tmp_path, spec(**SELECT), "lost", LostAtStep7)
    result, resumed = run(tmp_path, spec(**SELECT), "lost")
    assert result.facts["resumed_from"] == 7
    assert result.metrics == expected.metrics and resumed.history == undisturbed.history
    assert result.facts["best_step"] == expected.facts["best_step"]


def test_best_weights_are_those_of_the_least_validation_loss(tmp_path):
    """A run that ends at that step, without choosing, has the same metrics."""
    result, where = run(tmp_path, spec(keep="best", steps=14, learning_rate=0.05))
    losses = {point["step"]: point["val_loss"] for point in where.history if point["step"]}
    best = min(losses, key=losses.get)
    assert result.facts["best_step"] == best and result.facts["n_validation"] == 4
    assert best < 14  # else this shows nothing
    there, _ = run(tmp_path, spec(steps=best, learning_rate=0.05), "there")
    last, _ = run(tmp_path, spec(steps=14, learning_rate=0.05), "last")
    assert result.metrics == there.metrics != last.metrics


def test_validation_loss_is_the_mean_dice_loss_of_the_validation_part(tmp_path):
    _, where = run(tmp_path, spec(keep="best", batch=3))
    stack, model = part(tmp_path, "validation"), network().eval()
    with torch.no_grad():
        losses = [dice_loss(model(stack.images(r)), stack.masks[r]).item() for r in (slice(0, 3), slice(3, 4))]
    assert where.history[0]["val_loss"] == pytest.approx((3 * losses[0] + losses[1]) / 4, rel=1e-5)


def test_patience_ends_training_early(tmp_path):
    """At the first point that is the second in a row no better than the best before it."""
    result, where = run(tmp_path, spec(patience=2, steps=100, learning_rate=0.05))
    losses = [point["val_loss"] for point in where.history[1:]]
    best, waited = 0, []
    for number, loss in enumerate(losses):
        best = number if loss < losses[best] else best
        waited.append(number - best)
    assert where.history[-1]["step"] == 2 * len(losses) < 100
    assert waited[-1] == 2 and max(waited[:-1]) < 2
    assert result.facts["best_step"] == 2 * (best + 1)


# Epoch by epoch as the published notebook logged it; it lowered the rate after epochs 15, 21, 27 and 33 (patience 6).
LOGGED = [0.2994, 0.2804, 0.2657, 0.2471, 0.2390, 0.2461, 0.2459, 0.2395, 0.2241, 0.2433, 0.2280, 0.2540, 0.2332,
          0.2253, 0.2390, 0.2344, 0.2396, 0.2411, 0.2457, 0.2381, 0.2309, 0.2348, 0.2351, 0.2368, 0.2353, 0.2327,
          0.2368, 0.2344, 0.2325, 0.2345, 0.2383, 0.2336, 0.2378, 0.2364]  # fmt: skip


def test_the_rate_falls_where_that_of_the_official_run_fell():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    selection = Selection(FinetuneSettings(plateau=6, patience=50), model, optimizer)
    selection.point(0, 0.0)  # before the first step: does not count
    rates = []
    for epoch, loss in enumerate(LOGGED, 1):
        selection.point(epoch, loss)
        rates.append(optimizer.param_groups[0]["lr"])
    falls = [epoch for epoch in range(2, len(rates) + 1) if rates[epoch - 1] < rates[epoch - 2]]
    assert falls == [15, 21, 27, 33] and rates[-1] == pytest.approx(6.25e-5)
    assert selection.best_step == 9 and not selection.over()
    for epoch in range(len(LOGGED) + 1, 60):
        assert not selection.over()
        selection.point(epoch, 0.3)
    assert selection.over()  # 50 epochs after the best one


def test_evaluation_cubes_decide_nothing(tmp_path, monkeypatch):
    """Other evaluation cubes: the curve of the validation loss, its best step and the training losses stay."""
    _, expected = run(tmp_path, spec(**SELECT))
    evaluated = set(open_dataset("nodules", tmp_path, OPTIONS).evaluation)
    load = examples.load_cubes

    def changed(listing, numbers, **more):
        stack = load(listing, numbers, **more)
        return SimpleNamespace(cubes=255 - stack.cubes, masks=1 - stack.masks) if set(numbers) == evaluated else stack

    monkeypatch.setattr(examples, "load_cubes", changed)
    _, found = run(tmp_path, spec(**SELECT), "changed")
    assert [p.pop("eval_dice") for p in found.history] != [p.pop("eval_dice") for p in expected.history]
    assert found.history == expected.history


def test_volumes_are_brought_to_the_input_size(tmp_path):
    """Twice the size in storage, half of it to train on: averaged voxels, nearest masks."""
    options = {"count": 8, "width": 32, "depth": 32}
    result, _ = run(tmp_path, spec(options=options))
    assert result.facts["n_train"] == 4
    stack = part(tmp_path, "evaluation", options)
    small, masks = shrink_cubes(stack.cubes, 16), shrink_masks(stack.masks, 16)
    eight = stack.cubes.view(-1, 16, 2, 16, 2, 16, 2).double().mean((2, 4, 6))
    assert small.dtype == torch.uint8 and (small - eight).abs().max() <= 0.5
    assert masks.dtype == torch.uint8 and set(masks.unique().tolist()) == {0, 1}
    assert masks.float().mean() == pytest.approx(stack.masks.float().mean().item(), rel=0.2)
    assert shrink_cubes(stack.cubes, 64) is stack.cubes
    halves = shrink_cubes(stack.cubes.half() / 255, 16)
    assert halves.dtype == torch.float16 and (halves - eight / 255).abs().max() < 1e-3


def test_sizes_that_leave_no_whole_voxels(tmp_path):
    with pytest.raises(DataError, match="input_size 16: volumes of 40 x 40 x 32 voxels cannot be made so small"):
        run(tmp_path, spec(options={"count": 8, "width": 40, "depth": 32}))
    with pytest.raises(StageError, match="expected a multiple of 8"):
        run(tmp_path, spec(options={"count": 8, "width": 32, "depth": 16}, input_size=24))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"name": "conrec-unet", "width": 2}}, "conrec-unet takes pictures, but nodules holds volumes"),
        ({"reader": "shapes", "options": {"count": 20, "size": 16}}, "genesis-unet3d takes volumes, but shapes holds"),
        ({"reader": "shapes", "options": {"count": 20, "size": 16}, "keep": "best",
          "network": {"name": "conrec-unet", "width": 2}}, "shapes has no validation part"),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path, change, message):
    asked = spec(**change)
    if asked["data"]["reader"] == "shapes":
        asked["data"]["fraction"] = 0.5
    with pytest.raises(StageError, match=message):
        run(tmp_path, asked)
