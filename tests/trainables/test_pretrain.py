"""The pretrain stage on the synthetic shapes: curves, held-out images, resume, weights, and errors for the user."""

import math

import pytest
import torch

from trainables.context import Context, StageError
from trainables.data import DataError, open_dataset
from trainables.pretexts.pretrain import _batches, _parts, pretrain
from trainables.pretexts.samples import Samples
from trainables.settings import PRETEXT_SETTINGS, PretrainSettings, SimCLRSettings

SMALL = {
    "byol": {"hidden": 32, "projection": 8},
    "byol-color": {"hidden": 32, "projection": 8},
    "moco-v2": {"queue": 20, "projection": 8},
}
METHODS = sorted(PRETEXT_SETTINGS)


def spec(method="simclr", count=40, **pretrain_settings):
    return {
        "pretext": {"method": method, **SMALL.get(method, {})},
        "network": {"name": "conrec-unet", "width": 4},
        "data": {"reader": "shapes", "options": {"count": count}},
        "pretrain": {"steps": 6, "batch": 8, "input_size": 32, "report_every": 3} | pretrain_settings,
        "backend": {"threads": 1},
        "seed": 0,
    }


class Preempted(Exception):
    pass


class Interrupted(Context):
    """Saves after every step, and dies at one."""

    dies_at = 4

    def checkpoint_due(self):
        return True

    def progress(self, step, steps):
        if step == self.dies_at:
            raise Preempted


def context(path, name="stage", cls=Context, **more):
    return cls(path, path / name, cache_dir=path / "cache", **more)


def prepared(count=24, side=32, **more):
    """What a prepare stage gives: noise with a coloured square, its mask, its colour as label, and other colours."""
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (count, 1, side, side), generator=numbers, dtype=torch.uint8).repeat(1, 3, 1, 1)
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    places = torch.randint(0, side // 2, (count, 2), generator=numbers).tolist()
    for row, (top, left) in enumerate(places):
        square = (slice(top, top + side // 2), slice(left, left + side // 2))
        masks[row][square] = 1
        images[row, labels[row]][square] = 250
    return {"images": images, "masks": masks, "labels": labels, "colored": images.flip(1), **more}


def stage_of(method, path, name="stage", cls=Context, **more):
    """(spec, context) of a small stage of any method; those with labels or colours get prepared tensors."""
    chosen = spec(method, **more.pop("dials", {}))
    if "cubes" in PRETEXT_SETTINGS[method].needs:
        chosen |= {
            "network": {"name": "genesis-unet3d", "width": 2},
            "data": {"reader": "nodules", "options": {}, "prepared": True},
        }
        more["parents"] = {
            "data": {"cubes": torch.rand(24, 16, 16, 16, generator=torch.Generator().manual_seed(0)).half()}
        }
    if PRETEXT_SETTINGS[method].needs & {"labels", "colored"}:
        chosen["data"] = {"reader": "shapes", "options": {}, "prepared": True}
        more["parents"] = {"data": prepared()}
    return chosen, context(path, name, cls, **more)


def test_metrics_curve_and_facts(tmp_path):
    stage = context(tmp_path)
    result = pretrain(spec("conrec"), stage)
    assert [point["step"] for point in stage.history] == [0, 3, 6]
    parts = {"val_contrast", "val_reconstruction", "val_color", "val_mask", "val_fill"}
    assert set(result.metrics) == {"val_loss", "val_loss_start"} | parts
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["val_loss"] == stage.history[-1]["val_loss"]
    assert result.metrics["val_loss_start"] == stage.history[0]["val_loss"]
    errors = sum(result.metrics[f"val_{task}"] for task in ("reconstruction", "color", "mask", "fill"))
    assert result.metrics["val_loss"] == pytest.approx(25 * errors + result.metrics["val_contrast"], rel=1e-5)
    assert result.facts == {"n_pretrain": 36, "n_validation": 4, "steps": 6, "resumed_from": 0}
    assert {"train_loss", "train_mask"} <= set(stage.history[-1])


def test_validation_draws_are_the_same_at_every_step(tmp_path):
    """With a rate of 0 only batch-norm statistics could move the loss; with momentum 0 in them, nothing does."""
    stage = context(tmp_path)
    still = spec("reconstruction", learning_rate=0.0, steps=0)
    first = pretrain(still, stage).metrics
    second = pretrain(still, context(tmp_path, "again")).metrics
    assert first == second and first["val_loss"] == first["val_loss_start"]


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_stage_ends_digit_for_digit_as_an_undisturbed_one(tmp_path, method):
    asked, undisturbed = stage_of(method, tmp_path, "undisturbed")
    expected = pretrain(asked, undisturbed)
    with pytest.raises(Preempted):
        pretrain(*stage_of(method, tmp_path, "broken", Interrupted))
    _, resumed = stage_of(method, tmp_path, "broken")
    result = pretrain(asked, resumed)
    assert result.facts["resumed_from"] == Interrupted.dies_at
    assert resumed.history == undisturbed.history
    assert_same(result, expected)


def assert_same(result, expected):
    assert result.metrics == expected.metrics
    assert result.weights.keys() == expected.weights.keys()
    assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in result.weights.items())


def test_another_seed_is_another_run(tmp_path):
    losses = [pretrain(spec() | {"seed": seed}, context(tmp_path, str(seed))).metrics["val_loss"] for seed in (0, 1)]
    assert losses[0] != losses[1]


def test_an_encoder_to_start_from(tmp_path):
    """No step at all: what is handed on is what was given; it is moved on by the first step."""
    given = pretrain(spec("simclr", steps=2) | {"seed": 5}, context(tmp_path, "given")).weights
    asked = spec("conrec", steps=0) | {"init": True}
    weights = pretrain(asked, context(tmp_path, "conrec", parents={"init": given})).weights
    encoder = [name for name in weights if name.startswith("encoder.")]
    assert encoder and all(torch.equal(weights[name], given[name]) for name in encoder)
    with pytest.raises(StageError, match="is to start from given weights, but none were given"):
        pretrain(asked, context(tmp_path, "none"))


def test_weights_are_what_safetensors_can_hold(tmp_path):
    from safetensors.torch import load, save

    weights = pretrain(spec("conrec", steps=1), context(tmp_path)).weights
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in weights.values())
    assert load(save(weights)).keys() == weights.keys()


@pytest.mark.parametrize(("count", "wanted", "held_out"), [(4, 128, 2), (60, 128, 6), (2000, 128, 128), (60, 3, 3)])
def test_held_out_images_are_few_and_never_trained_on(count, wanted, held_out):
    samples = Samples(torch.zeros(count, 3, 1, 1), torch.zeros(count, 4))

    def parts(seed):
        return _parts(samples, SimCLRSettings(), PretrainSettings(validation_images=wanted), seed)

    training, validation = parts(0)
    assert len(validation) == held_out
    assert sorted(torch.cat([training, validation]).tolist()) == list(range(count))
    assert not torch.equal(validation, parts(1)[1])


def test_no_validation_batch_is_a_single_image():
    assert [len(rows) for rows in _batches(torch.arange(9), 4)] == [4, 5]
    assert [len(rows) for rows in _batches(torch.arange(10), 4)] == [4, 4, 2]


def test_more_images_in_a_batch_than_there_are(tmp_path):
    assert math.isfinite(pretrain(spec(count=6, steps=2), context(tmp_path)).metrics["val_loss"])


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("simclr", {"input_size": 36}, "pretrain.input_size must be a multiple of 8 .* but is 36"),
        ("conrec", {"input_size": 24}, "pretrain.input_size must be .* at least 32 for conrec, but is 24"),
        ("simclr", {"batch": 1}, "pretrain.batch must be at least 2, but is 1"),
        ("simclr", {"validation_images": 0}, "pretrain.validation_images must be at least 2, but is 0"),
        ("simclr", {"decode_scale": 0.5}, "pretrain.decode_scale must be at least 1, but is 0.5"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path, method, changes, message):
    with pytest.raises(StageError, match=message):
        pretrain(spec(method, **changes), context(tmp_path))


def test_too_few_images(tmp_path, monkeypatch):
    from dataclasses import replace

    from trainables.pretexts import samples as module

    three = replace(open_dataset("shapes", tmp_path, {"count": 40}), pretrain=(0, 1, 2))
    monkeypatch.setattr(module, "open_dataset", lambda *_, **__: three)
    with pytest.raises(StageError, match=r"shapes: pretraining needs at least 4 images.* has 3"):
        pretrain(spec(), context(tmp_path))


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(DataError, match="flowers"):
        pretrain(spec() | {"data": {"reader": "flowers102", "options": {}}}, context(tmp_path))
