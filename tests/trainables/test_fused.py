"""Finetune stages trained as one against each of them alone.

In float64, where nothing but the last digits of sums can differ. In float32 training multiplies such digits: from
random weights a network with batch norm is after 50 steps of Adam some percent away from itself, where only its layout
in memory is another. That is the measure there.
"""

import json

import pytest
import torch

from trainables.context import Context, Diverged, Result, StageError
from trainables.data import DataError
from trainables.downstream import finetune as stage
from trainables.downstream.finetune import finetune
from trainables.downstream.fused import finetune_fused
from trainables.networks import build_network
from trainables.randomness import seed_everything
from trainables.settings import parse_network
from trainables.settings.fusing import fused_shape, why_not_fused

PER_CHANNEL = {"name": "sasa-resnet50-unet", "width": 16, "attention": "per-channel"}
HALVES = {"name": "sasa-resnet50-unet", "width": 16, "embeddings": "halves"}


def spec(seed=0, n_train=8, *, scenario="random-init", frozen=False, reader="shapes", network=None, **finetune):
    settings = {"steps": 6, "batch": 4, "input_size": 32, "report_every": 2, "curve_images": 6}
    return {
        "scenario": scenario,
        "frozen": frozen,
        "network": network or {"name": "conrec-unet", "width": 4},
        "data": {"reader": reader, "options": {"count": 40, "size": 32}, "fraction": None, "n_train": n_train},
        "finetune": settings | finetune,
        "backend": {"threads": 1},
        "seed": seed,
        "keep_weights": True,
    }


def fresh(seed, network=None):
    seed_everything(seed, "init")
    return build_network(parse_network(network or {"name": "conrec-unet", "width": 4}), 1)


def parent(seed=7):
    return {name: tensor.float() for name, tensor in fresh(seed).state_dict().items()}


@pytest.fixture
def double(monkeypatch):
    """Everything in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def contexts(tmp_path):
    """Makes a context for each cell; `who` names their folders."""

    def make(specs, who, parents=None, cls=Context, **options):
        return [
            cls(
                tmp_path,
                tmp_path / f"{who} {number}",
                parents={
                    "pretrain": (parents or {}).get(number, parent()) if spec["scenario"] != "random-init" else {}
                },
                cache_dir=tmp_path / "cache",
                **options,
            )
            for number, spec in enumerate(specs)
        ]

    return make


def alone(specs, contexts):
    outcomes = []
    for one, context in zip(specs, contexts, strict=True):
        try:
            outcomes.append(finetune(one, context))
        except (StageError, DataError) as fault:
            outcomes.append(fault)
    return outcomes


def counted(weights):
    """What a network computes with: batch norm takes off a bias before it, with the mean of its statistics."""
    tensors = {name: tensor.double() for name, tensor in weights.items()}
    for name in weights:
        bias = name.replace(".1.running_mean", ".0.bias")
        if name.endswith(".running_mean") and bias in tensors:
            tensors[name] = tensors[name] - tensors.pop(bias)
    return tensors


def distance(one, other):
    """Of two sets of weights, relative to the first."""
    one, other = ({n: t for n, t in counted(w).items() if "num_batches" not in n} for w in (one, other))
    apart = sum(float((one[name] - other[name]).norm() ** 2) for name in one)
    return (apart / sum(float(tensor.norm() ** 2) for tensor in one.values())) ** 0.5


def assert_equal(found, expected, their_contexts, rel=1e-7):
    """Weights, metrics, facts and curves, to about the digits that float64 leaves."""
    for one, other, (here, there) in zip(found, expected, their_contexts, strict=True):
        assert type(one) is type(other)
        assert [list(point) for point in here.history] == [list(point) for point in there.history]
        for point, its_twin in zip(here.history, there.history, strict=True):
            assert point == pytest.approx(its_twin, rel=rel, nan_ok=True)
        if not isinstance(one, Result):
            assert str(one) == str(other)
            continue
        assert {name: fact for name, fact in one.facts.items() if name != "fused"} == other.facts
        assert one.metrics == pytest.approx(other.metrics, rel=rel)
        mine, theirs = counted(one.weights), counted(other.weights)
        assert mine.keys() == theirs.keys()
        for name in theirs:
            torch.testing.assert_close(mine[name], theirs[name], rtol=rel, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def check(specs, contexts, rel=1e-7, parents=None):
    there, here = contexts(specs, "alone", parents), contexts(specs, "fused", parents)
    expected, found = alone(specs, there), finetune_fused(specs, here)
    assert_equal(found, expected, list(zip(here, there, strict=True)), rel)
    return found, here


# Equality ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["fitting", "random"])
def test_the_output_convolution_is_taken_over_or_not_as_alone(double, contexts, head):
    specs = [spec(seed, scenario="seg-enc-dec", head=head, steps=4) for seed in (0, 1)]
    found, _ = check(specs, contexts)
    assert [outcome.facts["transferred"] for outcome in found] == [len(parent()) - 2 * (head == "random")] * 2


def test_fifty_steps_of_scenarios_seeds_and_uneven_sizes(double, contexts):
    specs = [
        spec(0, 4, steps=50, report_every=25),
        spec(1, 11, steps=50, report_every=25, scenario="seg-enc-dec"),
        spec(2, 6, steps=50, report_every=25, scenario="seg-enc"),
    ]
    found, here = check(specs, contexts)
    assert [result.facts["n_train"] for result in found] == [4, 11, 6]
    assert [result.facts["transferred"] for result in found] == [0, 121, 56]
    assert [point["step"] for point in here[0].history] == [0, 25, 50]


def test_fifty_steps_in_float32(contexts):
    """Weights within 1e-4, where training does not multiply the last digits: a small rate, or no batch norm."""
    gentle = {"steps": 50, "report_every": 50, "optimizer": "sgd"}
    casser = {"name": "casser-unet", "width": 4}
    for number, options in enumerate(
        ({"learning_rate": 1e-4, "momentum": 0.0}, {"learning_rate": 0.02, "network": casser})
    ):
        specs = [spec(seed, 4 + 2 * seed, **gentle, **options) for seed in range(3)]
        expected = alone(specs, contexts(specs, f"alone {number}"))
        found = finetune_fused(specs, contexts(specs, f"fused {number}"))
        for result, other in zip(found, expected, strict=True):
            assert distance(other.weights, result.weights) < 1e-4
            assert result.metrics == pytest.approx(other.metrics, abs=1e-3)
        start = fresh(1, options.get("network")).state_dict()
        assert distance(found[1].weights, start) > 1e-2


def test_adam_in_float32_is_as_near_as_the_cell_itself_in_another_layout(contexts, monkeypatch):
    specs = [spec(seed, 5, steps=20, report_every=20) for seed in range(3)]
    expected = alone(specs, contexts(specs, "alone"))
    found = finetune_fused(specs, contexts(specs, "fused"))
    monkeypatch.setattr(stage, "place", lambda module, device, precision: module.to(device))
    moved = alone(specs, contexts(specs, "moved"))

    def mean(results):
        pairs = zip(expected, results, strict=True)
        return sum(distance(one.weights, other.weights) for one, other in pairs) / len(specs)

    assert 0 < mean(found) < 5 * mean(moved)


def test_frozen_encoders(double, contexts):
    specs = [spec(seed, 5 + seed, scenario="cls-enc", frozen=True) for seed in range(2)]
    found, _ = check(specs, contexts)
    start = parent()
    for name in start:
        if name.startswith("encoder."):
            assert all(torch.equal(result.weights[name].float(), start[name]) for result in found)
    assert not torch.equal(found[0].weights["head.weight"], found[1].weights["head.weight"])


def test_augmentation_and_loss_of_paper_2(double, contexts):
    """Dropout draws in float64 are others than in float32, but each cell's are its own."""
    options = {"loss": "dice-bce", "crop_area": 1.0, "vertical_flip": 0.5, "rotation": 0.5, "blur": 0.5}
    specs = [spec(s, 6, reader="textures", network={"name": "casser-unet", "width": 4}, **options) for s in range(3)]
    check(specs, contexts)


def test_volumes(double, contexts):
    data = {"reader": "nodules", "options": {"count": 20, "width": 16, "depth": 16}}
    network = {"name": "genesis-unet3d", "width": 2}
    specs = [spec(s, network=network, input_size=16, keep="best") | {"data": data} for s in range(2)]
    found, here = check(specs, contexts)
    assert {"dice_eval", "iou_eval"} <= set(found[0].metrics) and "val_loss" in here[0].history[-1]


# Ends ----------------------------------------------------------------------------------------------------------------


def test_epochs_end_after_other_steps_for_other_sizes(double, contexts):
    specs = [spec(0, 4, epochs=3), spec(1, 9, epochs=3), spec(2, 16, epochs=3)]
    _, here = check(specs, contexts)
    assert [context.history[-1]["step"] for context in here] == [3, 7, 12]


def test_patience_plateau_and_best_weights_of_each_cell(double, contexts):
    options = {"validation_share": 0.25, "keep": "best", "plateau": 1, "patience": 2, "learning_rate": 0.02}
    specs = [spec(seed, 6 + 2 * seed, steps=24, **options) for seed in range(4)]
    found, here = check(specs, contexts)
    ends = [context.history[-1]["step"] for context in here]
    assert len(set(ends)) > 1 and min(ends) < 24  # some ended before others
    assert len({result.facts["best_step"] for result in found}) > 1


def test_a_cell_that_diverges_fails_alone(double, contexts):
    broken = parent() | {"head.weight": torch.full((1, 4, 1, 1), float("nan"))}
    specs = [spec(seed, 5, scenario="seg-enc-dec") for seed in range(3)]
    found, here = check(specs, contexts, parents={1: broken})
    assert isinstance(found[1], Diverged) and found[1].step == 0
    assert [point["step"] for point in here[1].history] == [0]
    assert [point["step"] for point in here[2].history] == [0, 2, 4, 6]


def test_all_cells_diverge(contexts):
    specs = [spec(seed, 5, learning_rate=1e30, optimizer="sgd") for seed in range(2)]
    assert all(isinstance(outcome, Diverged) for outcome in finetune_fused(specs, contexts(specs, "fused")))


def test_a_cell_that_cannot_begin_fails_alone(double, contexts, tmp_path):
    specs = [spec(0), spec(1, 1000), spec(2), spec(3, scenario="cls-enc")]
    found, _ = check(specs, contexts, parents={3: {}})
    assert [type(outcome) for outcome in found] == [Result, DataError, Result, StageError]


def test_smaller_batches_are_groups_of_their_own(double, contexts):
    """A group of one is `finetune`, digit for digit."""
    specs = [spec(0, 8), spec(1, 2), spec(2, 5), spec(3, 3), spec(4, 2)]
    there, here = contexts(specs, "alone"), contexts(specs, "fused")
    expected, found = alone(specs, there), finetune_fused(specs, here)
    assert_equal(found, expected, list(zip(here, there, strict=True)))
    assert here[3].history == there[3].history and found[3].metrics == expected[3].metrics
    assert [result.facts.get("fused") for result in found] == [2, 2, 2, None, 2]


# Checkpoints ---------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for the loss of a worker."""


class LostAtStep3(Context):
    def progress(self, step, steps):
        if step == 3:
            raise Interrupted


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_cells_go_on_from_their_checkpoints_fused_or_alone(double, contexts, optimizer, monkeypatch):
    options = {"validation_share": 0.25, "keep": "best", "plateau": 1, "optimizer": optimizer}
    specs = [spec(seed, 6 + seed, **options) for seed in range(3)]
    there = contexts(specs, "alone")
    expected = alone(specs, there)
    with pytest.raises(Interrupted):
        finetune_fused(specs, contexts(specs, "lost", cls=LostAtStep3, checkpoint_seconds=0))
    for result in expected:
        result.facts["resumed_from"] = 3

    single = contexts(specs, "lost")[:1]
    assert_equal([finetune(specs[0], single[0])], expected[:1], [(single[0], there[0])])
    here = contexts(specs, "lost")
    assert_equal(finetune_fused(specs, here), expected, list(zip(here, there, strict=True)))

    # One without a checkpoint joins: it is trained by itself.
    expected[2].facts["resumed_from"] = 0
    mixed = [*contexts(specs, "lost")[:2], *contexts(specs, "new")[2:]]
    assert_equal(finetune_fused(specs, mixed), expected, list(zip(mixed, there, strict=True)))


def test_a_checkpoint_holds_one_cell(contexts):
    """Tensors are windows of one storage; a file must not carry all of it."""
    specs = [spec(seed, 5, steps=3) for seed in range(4)]
    here, there = contexts(specs, "fused", checkpoint_seconds=0), contexts(specs, "alone", checkpoint_seconds=0)
    finetune_fused(specs, here)
    alone(specs, there)
    fused, single = ((c[1].work_dir / "checkpoint.pt").stat().st_size for c in (here, there))
    assert fused < 1.1 * single


# What can be fused ---------------------------------------------------------------------------------------------------


def test_shapes():
    """What a key holds besides: seed, scenario, images."""
    assert fused_shape(spec(0, 3)) == fused_shape(spec(1, 9, scenario="seg-enc", reader="textures"))
    for other in (spec(steps=7), spec(frozen=True), spec(network={"name": "conrec-unet", "width": 5})):
        assert fused_shape(other) != fused_shape(spec())
    assert json.loads(fused_shape(spec()))
    assert why_not_fused(spec()) is None


def test_what_cannot_be_fused_is_said(contexts):
    for specs, message in (
        ([spec(optimizer="lars")] * 2, "optimizer lars cannot be fused.*: adam, sgd"),
        ([spec(network=PER_CHANNEL)] * 2, "expected attention: dot"),
        ([spec(network=HALVES)] * 2, "expected embeddings: per-head"),
        ([spec(), spec(steps=7)], "expected cells of one network, finetune, frozen, backend"),
    ):
        with pytest.raises(StageError, match=message):
            finetune_fused(specs, contexts(specs, "fused"))
