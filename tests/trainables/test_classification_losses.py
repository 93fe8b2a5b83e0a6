"""The losses of classification by hand, and GradCAM of what they have trained."""

import math

import pytest
import torch
from torch import nn

from trainables.analyses import analyse
from trainables.analyses.gradcam import grad_cam, overlap
from trainables.analyses.models import load_classifier
from trainables.context import Context
from trainables.pretexts import build_pretext
from trainables.pretexts._base import ImageBatch
from trainables.pretexts.pretrain import pretrain
from trainables.randomness import generator, seed_everything
from trainables.settings import ClassificationSettings, NetworkSettings

NARROW = NetworkSettings(width=4)
NETWORK = {"name": "conrec-unet", "width": 4}
DATA = {"reader": "shapes", "options": {}, "prepared": True}
# loss, classes -> logits
LOGITS = {
    ("by-classes", 2): 1, ("by-classes", 3): 3, ("binary", 2): 1, ("binary", 3): 3, ("cross-entropy", 2): 2,
    ("cross-entropy", 3): 3,
}  # fmt: skip


def prepared(count, classes):
    """Pictures whose class is the place of a bright square, with masks, labels and parts."""
    images = torch.randint(60, 120, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    masks, labels = torch.zeros(count, 32, 32, dtype=torch.uint8), torch.arange(count) % classes
    for number, label in enumerate(labels.tolist()):
        if label:
            images[number, label - 1, 4:16, 8:20] = 250
            masks[number, 4:16, 8:20] = 1
    part = (torch.arange(count) >= count * 2 // 3).long()
    return {"images": images, "masks": masks, "labels": labels, "part": part}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(loss, logits, label):
    """The loss of one image from its logits, in plain numbers."""
    if len(logits) == 1:
        return -math.log(sigmoid(logits[0]) if label else 1 - sigmoid(logits[0]))
    if loss == "binary":  # one class against the rest, for each class
        each = [-math.log(sigmoid(x) if place == label else 1 - sigmoid(x)) for place, x in enumerate(logits)]
        return sum(each) / len(each)
    return -math.log(math.exp(logits[label]) / sum(map(math.exp, logits)))


@pytest.mark.parametrize(("loss", "classes"), LOGITS)
def test_the_loss_and_what_is_recognised_by_hand(loss, classes):
    seed_everything(0, "init")
    pretext = build_pretext(ClassificationSettings(loss=loss), NARROW, classes).eval()
    tensors = prepared(9, classes)
    boxes = torch.tensor([[0, 0, 32, 32]] * 9)
    batch = ImageBatch(tensors["images"], boxes, 32, labels=tensors["labels"])
    logits = pretext.logits(batch.images.float() / 255).double()
    assert logits.shape == (9, LOGITS[loss, classes])
    losses, rows = pretext.validate(batch, generator(0))
    each = [by_hand(loss, own, label) for own, label in zip(logits.tolist(), batch.labels.tolist(), strict=True)]
    assert losses["loss"].item() == pytest.approx(sum(each) / 9, rel=1e-5)
    predicted = [int(own[0] > 0) if len(own) == 1 else own.index(max(own)) for own in logits.tolist()]
    assert rows.tolist() == [float(p == label) for p, label in zip(predicted, batch.labels.tolist(), strict=True)]


def test_two_logits_that_mirror_one_have_its_loss():
    """Cross-entropy of (-x / 2, x / 2) is binary cross-entropy of x, so the choice is one of parameters."""
    one, two = (build_pretext(ClassificationSettings(loss=n), NARROW, 2).eval() for n in ("binary", "cross-entropy"))
    layer = one.pretext["classifier"]
    two.encoder.load_state_dict(one.encoder.state_dict())
    with torch.no_grad():
        two.pretext["classifier"].weight.copy_(torch.cat([-layer.weight, layer.weight]) / 2)
        two.pretext["classifier"].bias.copy_(torch.cat([-layer.bias, layer.bias]) / 2)
    tensors = prepared(6, 2)
    batch = ImageBatch(tensors["images"], torch.tensor([[0, 0, 32, 32]] * 6), 32, labels=tensors["labels"])
    (mine, _), (theirs, _) = (pretext.validate(batch, generator(0)) for pretext in (one, two))
    assert mine["loss"].item() == pytest.approx(theirs["loss"].item(), rel=1e-5)


@pytest.mark.parametrize(("loss", "classes"), LOGITS)
def test_a_classifier_is_built_again_from_its_weights(loss, classes):
    """With the probabilities that its loss means."""
    seed_everything(0, "init")
    pretext = build_pretext(ClassificationSettings(loss=loss), NARROW, classes).eval()
    again = load_classifier(NETWORK, pretext.weights(), "mine", torch.device("cpu"), binary=loss == "binary")
    images = prepared(4, classes)["images"].float() / 255
    assert again.classes == classes
    logits = again.logits(images)
    assert torch.equal(logits, pretext.logits(images))
    for own, found in zip(logits.tolist(), again.probabilities(logits).tolist(), strict=True):
        if len(own) == 1:
            expected = [1 - sigmoid(own[0]), sigmoid(own[0])]
        elif loss == "binary":
            expected = [sigmoid(x) for x in own]
        else:
            expected = [math.exp(x) / sum(map(math.exp, own)) for x in own]
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("loss", "classes"), [("cross-entropy", 2), ("binary", 2), ("binary", 3)])
def test_the_analysis_takes_what_each_loss_has_trained(tmp_path, loss, classes):
    """Of two classes the maps are those of the second one, of more each image's own."""
    tensors = prepared(60, classes)
    trained = pretrain(
        {
            "pretext": {"method": "classification", "crop_area": 1.0, "loss": loss},
            "network": NETWORK,
            "data": DATA,
            "pretrain": {"steps": 40, "batch": 16, "input_size": 32, "report_every": 40, "optimizer": "adam",
                         "learning_rate": 0.003},
            "backend": {"threads": 1},
            "seed": 0,
        },
        Context(tmp_path, tmp_path / "trained", parents={"data": tensors}, checkpoint_seconds=1e9),
    )  # fmt: skip
    result = analyse(
        {
            "analysis": {"kind": "gradcam", "input_size": 32, "labels": ["none", "red", "green"][:classes]},
            "network": NETWORK,
            "data": DATA,
            "backend": {"threads": 1},
            "seed": 0,
            **({"loss": "binary"} if loss == "binary" else {}),
        },
        Context(tmp_path, tmp_path / "seen", parents={"model": trained.weights, "data": tensors}),
    )
    assert result.metrics["accuracy"] == trained.metrics["val_accuracy"] > 0.9
    model = load_classifier(NETWORK, trained.weights, "mine", torch.device("cpu"))
    rows = tensors["part"] == 1
    with torch.no_grad():
        features = model.encoder(tensors["images"][rows].float() / 255)[-1]
    targets = tensors["labels"][rows] if classes > 2 else torch.tensor([0 if loss == "binary" else 1] * int(rows.sum()))
    maps, _ = grad_cam(features, lambda e: model.pretext["classifier"](model.pretext["pooling"](e)), targets)
    whole = nn.functional.interpolate(maps[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    expected, _ = overlap(whole, tensors["masks"][rows] == 1)
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
