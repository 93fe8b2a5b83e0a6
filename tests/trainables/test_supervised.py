"""Supervised pretexts: losses and metrics against independent ones, targets of a dataset or prepared, learning."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.trainables.test_data_patches import prepared as car_patches
from tests.trainables.test_data_patches import street
from tests.trainables.test_pretrain import context, prepared, spec
from trainables.context import StageError
from trainables.data import open_dataset
from trainables.downstream.scenarios import transfer
from trainables.losses.cross_entropy import pixel_cross_entropy
from trainables.networks import build_network
from trainables.pretexts import ImageBatch, build_pretext
from trainables.pretexts import samples as samples_module
from trainables.pretexts.pretrain import pretrain
from trainables.pretexts.segmentation import class_tally
from trainables.randomness import generator, seed_everything
from trainables.settings import ClassificationSettings, NetworkSettings, SegmentationSettings

NARROW = NetworkSettings(width=4)


def from_tensors(method, path, tensors, **changes):
    """(spec, context) of a stage on prepared tensors."""
    asked = spec(method, **changes) | {"data": {"reader": "cityscapes-car", "options": {}, "prepared": True}}
    return asked, context(path, parents={"data": tensors})


def random_masks(classes, *shape):
    masks = torch.randint(0, classes, shape, generator=generator(1), dtype=torch.uint8)
    return masks.masked_fill(torch.rand(shape, generator=generator(2)) < 0.2, 255)


class TestPixelCrossEntropy:
    def test_is_the_mean_over_counted_pixels(self):
        logits, masks = torch.randn(3, 5, 6, 7, generator=generator(0), dtype=torch.float64), random_masks(5, 3, 6, 7)
        total, counted = 0.0, 0
        for n, row, column in (masks != 255).nonzero().tolist():
            pixel = logits[n, :, row, column].tolist()
            total += math.log(sum(map(math.exp, pixel))) - pixel[masks[n, row, column]]
            counted += 1
        assert pixel_cross_entropy(logits, masks).item() == pytest.approx(total / counted, rel=1e-12)

    def test_has_the_gradient_of_torchs_own(self):
        logits, masks = torch.randn(3, 5, 6, 7, generator=generator(0), dtype=torch.float64), random_masks(5, 3, 6, 7)
        logits.requires_grad_()
        losses = pixel_cross_entropy(logits, masks), F.cross_entropy(logits, masks.long(), ignore_index=255)
        ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in losses)
        torch.testing.assert_close(ours, theirs)
        assert (ours[(masks == 255)[:, None].expand_as(ours)] == 0).all()

    def test_nothing_counted_is_no_loss_and_no_gradient(self):
        logits = torch.randn(1, 3, 2, 2, requires_grad=True)
        loss = pixel_cross_entropy(logits, torch.full((1, 2, 2), 255, dtype=torch.uint8))
        loss.backward()
        assert loss == 0 and (logits.grad == 0).all()


def test_metrics_of_many_classes_are_those_of_torchmetrics():
    """Dice of a class is its F1 over all counted pixels; class 4 neither is nor is predicted, class 3 is predicted."""
    functional = pytest.importorskip("torchmetrics.functional")
    logits = torch.randn(4, 5, 9, 9, generator=generator(0))
    logits[:, 4] = -99
    masks = random_masks(3, 4, 9, 9)
    pretext = build_pretext(SegmentationSettings(), NARROW, classes=5)
    rows = torch.cat([class_tally(logits[:1], masks[:1]), class_tally(logits[1:], masks[1:])])
    found = pretext.summarise(rows)
    asked = {"task": "multiclass", "num_classes": 5, "ignore_index": 255}
    each = functional.f1_score(logits, masks.long(), average="none", **asked)
    assert found["dice"] == pytest.approx(each[:4].mean().item(), rel=1e-6) and each[3] == 0
    accuracy = functional.accuracy(logits, masks.long(), average="micro", **asked)
    assert found["accuracy"] == pytest.approx(accuracy.item(), rel=1e-6)


@pytest.mark.parametrize(("classes", "outputs", "count"), [(2, 1, 7_875_905), (150, 150, 7_885_590)])
def test_segmentation_networks_have_the_papers_sizes(classes, outputs, count):
    pretext = build_pretext(SegmentationSettings(), NetworkSettings(width=64), classes)
    assert sum(p.numel() for p in pretext.parameters()) == count
    assert pretext.network.head.out_channels == outputs


def test_classifiers_are_the_encoder_and_one_layer():
    for classes, outputs in ((2, 1), (25, 25)):
        pretext = build_pretext(ClassificationSettings(), NetworkSettings(width=64), classes)
        assert sum(p.numel() for p in pretext.parameters()) == 4_689_216 + 513 * outputs


def batch_of(tensors, rows=slice(None)):
    images = tensors["images"][rows]
    return ImageBatch(
        images,
        torch.tensor([[0, 0, 32, 32]] * len(images)),
        32,
        masks=tensors["masks"][rows],
        labels=tensors["labels"][rows],
    )


def test_two_classes_have_a_logit_with_binary_cross_entropy_and_more_have_a_softmax():
    for classes in (2, 3):
        seed_everything(0, "init")
        pretext = build_pretext(ClassificationSettings(), NARROW, classes).eval()
        batch = batch_of(prepared(6) | {"labels": torch.tensor([0, 1, 1, 0, 1, 0])})
        loss = pretext.validate(batch, generator(0))[0]["loss"].item()
        logits = pretext.logits(batch.images.float() / 255).double()
        shares = torch.cat([torch.zeros_like(logits), logits], 1).softmax(1) if classes == 2 else logits.softmax(1)
        by_hand = [-math.log(shares[i, label].item()) for i, label in enumerate(batch.labels.tolist())]
        assert loss == pytest.approx(sum(by_hand) / 6, rel=1e-5)
        found = pretext.summarise(pretext.validate(batch, generator(0))[1])
        assert found["accuracy"] == (shares.argmax(1) == batch.labels).double().mean()


def test_validation_looks_at_the_images_as_they_are():
    """Dice loss of the whole, unflipped images; training draws crops."""
    pretext = build_pretext(SegmentationSettings(), NARROW, 2).eval()
    batch = batch_of(prepared(6))
    p = pretext.network(batch.images.float() / 255).sigmoid()[:, 0].double()
    y = batch.masks.double()
    by_hand = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    losses, rows = pretext.validate(batch, generator(0))
    assert losses["loss"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    hard = (p > 0.5).double()
    dice = (2 * (hard * y).sum((1, 2)) / (hard.sum((1, 2)) + y.sum((1, 2)))).mean()
    assert pretext.summarise(rows)["dice"] == pytest.approx(dice.item())


def test_padding_counts_in_no_loss():
    """A picture in the middle of its square: what stands in the masks' 255 changes nothing."""
    tensors = prepared(4)
    pretext = build_pretext(SegmentationSettings(crop_area=1.0, flip=0.0), NARROW, 3)
    masks = tensors["masks"].clone()
    masks[:, :8] = 255
    batch = replace(batch_of(tensors), masks=masks)
    loss = pretext.loss(batch, generator(0))["loss"]
    logits = pretext.network(batch.images.float() / 255)
    assert loss.item() == pytest.approx(F.cross_entropy(logits[:, :, 8:], masks[:, 8:].long()).item(), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_only_a_binary_head_is_handed_on(classes):
    seed_everything(0, "init")
    weights = build_pretext(SegmentationSettings(), NARROW, classes).weights()
    for outputs in {1, classes}:
        network = build_network(NARROW, out_channels=outputs)
        names = transfer(network, weights, "seg-enc-dec")
        assert ("head.weight" in names) is (classes == 2 and outputs == 1)
        assert {name.split(".")[0] for name in names} >= {"encoder", "skips", "decoder"}
    assert ("pretext.head.weight" in weights) is (classes == 3)


def test_two_classes_of_a_dataset(tmp_path):
    dials = {"steps": 60, "batch": 16, "report_every": 60, "optimizer": "adam", "learning_rate": 0.003}
    asked = spec("segmentation", count=160, **dials) | {"network": {"name": "conrec-unet", "width": 8}}
    result = pretrain(asked, context(tmp_path))
    assert result.facts["n_pretrain"] == 112 and result.facts["n_validation"] == 48
    assert set(result.metrics) == {"val_loss", "val_loss_start", "val_dice", "val_dice_start", "val_miou"}
    assert result.metrics["val_dice"] > result.metrics["val_dice_start"] + 0.1
    assert result.metrics["val_loss"] < result.metrics["val_loss_start"]
    assert "head.weight" in result.weights


def test_many_classes_learn_and_void_is_no_class(tmp_path):
    """The square's class is its colour, the ground is class 0, a rim of every image is void."""
    tensors = prepared(48)
    masks = tensors["masks"] * (1 + tensors["labels"]).to(torch.uint8)[:, None, None]
    masks[:, :2] = 255
    dials = {"steps": 100, "report_every": 100, "optimizer": "adam", "learning_rate": 0.01}
    result = pretrain(*from_tensors("segmentation", tmp_path, tensors | {"masks": masks}, **dials))
    assert result.weights["pretext.head.weight"].shape == (4, 4, 1, 1)
    assert result.metrics["val_dice"] > max(0.5, result.metrics["val_dice_start"])
    assert {"val_accuracy", "val_loss"} < set(result.metrics)


def test_labels_learn(tmp_path):
    dials = {"steps": 60, "report_every": 60, "optimizer": "adam", "learning_rate": 0.01}
    result = pretrain(*from_tensors("classification", tmp_path, prepared(48), **dials))
    assert result.weights["pretext.classifier.weight"].shape == (3, 32)
    assert result.metrics["val_accuracy"] > max(0.8, result.metrics["val_accuracy_start"])
    assert set(result.metrics) == {"val_loss", "val_loss_start", "val_accuracy", "val_accuracy_start"}


def test_labels_and_masks_of_a_dataset_and_images_that_lack_them(tmp_path, monkeypatch):
    listing = open_dataset("shapes", tmp_path, {"count": 40})
    labels = tuple(n % 2 if n < 30 else None for n in range(40))
    masks = tuple(name if n < 20 else None for n, name in enumerate(listing.masks))
    some = replace(listing, labels=labels, masks=masks, label_names=("no car", "car"), pool=tuple(range(20)))
    monkeypatch.setattr(samples_module, "open_dataset", lambda *_, **__: some)
    found = pretrain(spec("classification", steps=1), context(tmp_path, "labels"))
    assert found.facts["n_pretrain"] + found.facts["n_validation"] == 30
    assert found.weights["pretext.classifier.weight"].shape == (1, 32)
    found = pretrain(spec("segmentation", steps=1), context(tmp_path, "masks"))
    assert found.facts["n_pretrain"] + found.facts["n_validation"] == 20
    found = pretrain(spec("simclr", steps=1), context(tmp_path, "all"))
    assert found.facts["n_pretrain"] + found.facts["n_validation"] == 40


def test_prepared_parts_decide_the_hold_out(tmp_path):
    part = torch.tensor([0, 0, 1] * 8)
    tensors = prepared(24, part=part)
    result = pretrain(*from_tensors("classification", tmp_path, tensors, steps=2))
    assert (result.facts["n_pretrain"], result.facts["n_validation"]) == (16, 8)
    # Other pixels in what validates: other metrics, the same weights.
    images = tensors["images"].clone()
    images[part == 1] = 255 - images[part == 1]
    asked, _ = from_tensors("classification", tmp_path, {}, steps=2)
    other = pretrain(asked, context(tmp_path, "other", parents={"data": tensors | {"images": images}}))
    assert other.metrics != result.metrics
    assert all(torch.equal(tensor, other.weights[name]) for name, tensor in result.weights.items())


@pytest.mark.parametrize(("share", "held_out"), [(0.3, 7), (0.5, 12), (0.01, 2), (0.99, 22)])
def test_share_that_is_held_out(tmp_path, share, held_out):
    asked, stage = from_tensors("classification", tmp_path, prepared(24), steps=1)
    asked["pretext"]["validation_share"] = share
    assert pretrain(asked, stage).facts["n_validation"] == held_out


def test_prepared_images_of_another_size_are_brought_to_the_input_size(tmp_path):
    """At twice the size, of squares that halve exactly: the same images and masks, so the same result."""
    small = prepared(24)
    large = {
        name: t.repeat_interleave(2, -1).repeat_interleave(2, -2) if t.ndim > 1 else t for name, t in small.items()
    }
    samples = [
        samples_module.load_samples(
            {"reader": "x", "prepared": True}, frozenset({"masks", "colored"}), 32, 4,
            context(tmp_path, parents={"data": tensors}),
        )
        for tensors in (small, large)
    ]  # fmt: skip
    assert torch.equal(samples[0].masks, samples[1].masks) and torch.equal(samples[0].boxes, samples[1].boxes)
    inner = (samples[0].images.int() - samples[1].images.int()).abs().float().mean()
    assert samples[1].images.shape == samples[0].images.shape and inner < 25
    assert samples[1].colored.shape == samples[0].colored.shape


def seen_by(method, path, tensors, monkeypatch, **dials):
    """(batches, number of images) of a stage on prepared tensors: what it trains and what it validates on."""
    asked, where = from_tensors(method, path, tensors, report_every=3)
    asked["pretext"] |= dials
    seen, batch = [], samples_module.Samples.batch

    def spy(*args):
        seen.append(batch(*args))
        return seen[-1]

    with monkeypatch.context() as patched:
        patched.setattr(samples_module.Samples, "batch", spy)
        facts = pretrain(asked, where).facts
    return seen, facts["n_pretrain"] + facts["n_validation"]


def test_car_segmentation_sees_patches_with_cars_alone(tmp_path, monkeypatch):
    street(tmp_path / "street", count=48)
    tensors = car_patches(tmp_path).weights
    cars = int((tensors["masks"] == 1).flatten(1).any(1).sum())
    assert 10 < cars < len(tensors["masks"]) - 10
    for patches, count in (("with-object", cars), ("all", len(tensors["masks"]))):
        seen, images = seen_by("segmentation", tmp_path / patches, tensors, monkeypatch, patches=patches)
        with_cars = torch.cat([(batch.masks == 1).flatten(1).any(1) for batch in seen])
        assert images == count and bool(with_cars.all()) is (patches == "with-object")
    seen, images = seen_by("classification", tmp_path / "classification", tensors, monkeypatch)
    assert images == len(tensors["masks"]) and set(torch.cat([batch.labels for batch in seen]).tolist()) == {0, 1}


def test_only_a_binary_task_with_masks_and_labels_has_images_without_the_object(tmp_path, monkeypatch):
    three = prepared(24)
    binary = three | {"labels": three["labels"] % 2}
    for name, tensors, count in (
        ("binary", binary, 8),
        ("labels", three, 24),
        ("masks", binary | {"masks": 2 * three["masks"]}, 24),
        ("alone", without(binary, "labels"), 24),
    ):
        assert seen_by("segmentation", tmp_path / name, tensors, monkeypatch)[1] == count, name


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("method", "tensors", "message"),
    [
        ("segmentation", without(prepared(), "masks"), "prepared cityscapes-car: expected tensors images, masks, but "
         "got colored, images, labels, without masks"),
        ("classification", without(prepared(), "labels"), "expected tensors images, labels"),
        ("byol-color", without(prepared(), "colored"), "expected tensors images, colored"),
        ("simclr", without(prepared(), "images"), "expected tensors images, but got"),
        ("segmentation", prepared(6) | {"labels": torch.zeros(6).long()}, "needs at least 4 images with masks, 2 of "
         r"them for validation, but the prepare stage \(patches: with-object\) has 0"),
        ("segmentation", prepared(3), "needs at least 4 images with masks, 2 of them for validation, but the prepare "
         "stage has 3"),
        ("classification", prepared(6) | {"labels": torch.tensor([0, 1, -1, -1, -1, 1])}, "needs at least 4 images "
         "with image labels.* has 3"),
        ("classification", prepared(6, part=torch.tensor([0, 0, 0, 0, 0, 1])), "at least 2 images for training and for "
         "validation, but got 5 and 1"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_serve(tmp_path, method, tensors, message):
    with pytest.raises(StageError, match=message):
        pretrain(*from_tensors(method, tmp_path, tensors))


def test_no_prepare_stage(tmp_path):
    with pytest.raises(StageError, match="expected the tensors of a prepare stage, but none were given"):
        pretrain(from_tensors("segmentation", tmp_path, {})[0], context(tmp_path, "alone"))


def test_one_class_is_no_task(tmp_path, monkeypatch):
    listing = open_dataset("shapes", tmp_path, {"count": 40})
    one = replace(listing, labels=(0,) * 40)
    monkeypatch.setattr(samples_module, "open_dataset", lambda *_, **__: one)
    with pytest.raises(StageError, match=r"shapes: expected at least 2 classes, but .* has 1"):
        pretrain(spec("classification"), context(tmp_path))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("classification", "shapes: pretraining needs at least 4 images with image labels.* but .* has 0"),
        ("byol-color", "shapes: the pretext needs colorised images; expected those of a prepare stage"),
    ],
)
def test_a_dataset_that_has_no_such_targets(tmp_path, method, message):
    with pytest.raises(StageError, match=message):
        pretrain(spec(method), context(tmp_path))
