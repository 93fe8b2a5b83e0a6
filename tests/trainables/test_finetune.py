"""The finetune stage on the synthetic set, end to end."""

import math

import pytest
import torch

from trainables.context import Context, StageError
from trainables.data import DataError
from trainables.downstream.finetune import finetune
from trainables.networks import build_network
from trainables.randomness import seed_everything
from trainables.settings import NetworkSettings

METRICS = {"dice", "dice_pooled", "dice_soft", "iou", "miou", "dice_all_foreground", "loss"}


def spec(scenario="random-init", *, frozen=False, seed=0, width=4, fraction=0.2, n_train=None, count=40, **finetune):
    settings = {"steps": 6, "batch": 4, "input_size": 32, "report_every": 2, "curve_images": 8}
    return {
        "scenario": scenario,
        "frozen": frozen,
        "network": {"name": "conrec-unet", "width": width},
        "data": {
            "reader": "shapes",
            "options": {"count": count, "size": 32},
            "fraction": fraction,
            "n_train": n_train,
        },
        "finetune": settings | finetune,
        "backend": {"threads": 1},
        "seed": seed,
    }


def initial_weights(seed, width=4):
    seed_everything(seed, "init")
    return build_network(NetworkSettings(width=width), 1).state_dict()


@pytest.fixture
def context(tmp_path):
    """Makes contexts that share a cache; each has its own work folder."""
    made = []

    def make(parent=None, cls=Context, folder=None, **options):
        made.append(None)
        work = tmp_path / (folder or f"work {len(made)}")
        parents = None if parent is None else {"pretrain": parent}
        return cls(tmp_path, work, parents=parents, cache_dir=tmp_path / "cache", **options)

    return make


def test_result_and_curve(context):
    where = context()
    result = finetune(spec(), where)
    assert set(result.metrics) == METRICS
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert result.facts == {"n_train": 8, "n_eval": 32, "transferred": 0, "resumed_from": 0}
    assert result.weights == {}
    assert [point["step"] for point in where.history] == [0, 2, 4, 6]
    assert all("eval_dice" in point for point in where.history)
    assert math.isfinite(where.history[-1]["train_loss"])


def test_it_learns(context):
    """200 small steps are enough to be far above the floor of calling everything object."""
    where = context()
    result = finetune(
        spec(width=8, count=240, fraction=0.8, steps=200, batch=8, report_every=100, learning_rate=3e-3), where
    )
    assert result.metrics["dice"] > result.metrics["dice_all_foreground"] + 0.15
    assert where.history[-1]["eval_dice"] > where.history[0]["eval_dice"]


def test_same_seed_same_digits_and_other_seed_others(context):
    first, again, other = (finetune(spec(seed=s), context()).metrics for s in (1, 1, 2))
    assert first == again
    assert first["loss"] != other["loss"]


def test_curve_over_all_evaluation_images_ends_at_the_result(context):
    where = context()
    result = finetune(spec(curve_images=1000), where)
    assert where.history[-1]["eval_dice"] == result.metrics["dice"]


class Interrupted(Exception):
    """Stands for the loss of a worker."""


class LostAtStep3(Context):
    def progress(self, step, steps):
        if step == 3:
            raise Interrupted


def test_resumed_run_equals_an_undisturbed_one(context):
    parent = initial_weights(7)
    undisturbed = context(parent)
    expected = finetune(spec("seg-enc"), undisturbed)
    with pytest.raises(Interrupted):
        finetune(spec("seg-enc"), context(parent, LostAtStep3, "lost", checkpoint_seconds=0))
    resumed = context(parent, folder="lost")
    result = finetune(spec("seg-enc"), resumed)
    assert result.facts["resumed_from"] == 3
    assert result.metrics == expected.metrics
    assert resumed.history == undisturbed.history


@pytest.mark.parametrize(("scenario", "transferred"), [("cls-enc", 56), ("seg-enc", 56), ("seg-enc-dec", 121)])
def test_scenarios_differ_from_random_init_by_the_parent_only(context, scenario, transferred):
    """Given the very tensors that random-init draws, a scenario is random-init. Counted by hand: a convolution block
    has 7 tensors (weights, biases, statistics); 8 blocks encode, 3 skip and 6 decode; the head has 2."""
    expected = finetune(spec(), context())
    result = finetune(spec(scenario), context(initial_weights(0)))
    assert result.metrics == expected.metrics
    assert result.facts["transferred"] == transferred
    elsewhere = finetune(spec(scenario), context(initial_weights(1)))
    assert elsewhere.metrics["loss"] != expected.metrics["loss"]


@pytest.mark.parametrize("head", ["fitting", "random"])
def test_the_output_convolution_of_the_parent_or_a_random_one(context, head):
    """One step of a rate near 0: where training began. The random head is that of random-init of the same seed."""
    parent, fresh = initial_weights(7), initial_weights(0)
    asked = spec("seg-enc-dec", head=head, steps=1, learning_rate=1e-12) | {"keep_weights": True}
    result = finetune(asked, context(parent))
    expected = (parent if head == "fitting" else fresh)["head.weight"]
    torch.testing.assert_close(result.weights["head.weight"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.weights["decoder.blocks.0.0.0.weight"], parent["decoder.blocks.0.0.0.weight"])
    assert result.facts["transferred"] == len(parent) - (0 if head == "fitting" else 2)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_encoder(context, frozen):
    """Seen in the last checkpoint: a frozen encoder keeps its weights and its batch-norm statistics."""
    parent = initial_weights(3)
    where = context(parent, checkpoint_seconds=0)
    finetune(spec("seg-enc", frozen=frozen), where)
    state = where.resume()
    tensors = state["modules"][0]
    encoder = {name for name in parent if name.startswith("encoder.")}
    same = {name for name in parent if torch.equal(tensors[name], parent[name])}
    assert encoder <= same if frozen else not encoder & same
    assert "decoder.blocks.0.0.0.weight" not in same
    assert "decoder.blocks.0.0.1.running_mean" not in same


def test_batch_is_at_most_the_number_of_training_images(context):
    result = finetune(spec(n_train=1, batch=16, steps=2), context())
    assert result.facts["n_train"] == 1


def test_input_size_that_the_network_cannot_halve(context):
    with pytest.raises(StageError, match="input_size: expected a multiple of 8"):
        finetune(spec(input_size=30), context())


def test_missing_parent(context):
    with pytest.raises(StageError, match="scenario cls-enc: expected the weights of a pretrain stage"):
        finetune(spec("cls-enc"), context())


def test_parent_of_another_width(context):
    with pytest.raises(StageError, match=r"encoder\.blocks\.0\.0\.0\.weight of \[8, 3, 3, 3\]"):
        finetune(spec("cls-enc"), context(initial_weights(0, width=8)))


def test_unknown_scenario(context):
    with pytest.raises(StageError, match="no scenario 'decoder'"):
        finetune(spec("decoder"), context())


def test_fraction_of_no_image(context):
    with pytest.raises(DataError, match="0 images"):
        finetune(spec(fraction=0.01), context())


def test_divergence_is_a_stage_error_with_its_step(context):
    with pytest.raises(StageError, match="not finite at step"):
        finetune(spec(learning_rate=1e30, optimizer="sgd", steps=10), context())


def test_data_that_are_not_those_of_the_plan_are_refused(tmp_path):
    context = Context(tmp_path, tmp_path / "work", fingerprint="another")
    with pytest.raises(DataError, match="not what the plan was made for"):
        context.check_data("shapes", "this one")
    context.check_data("shapes", "another")
