"""GradCAM against hand computations, finite differences and captum, and on a classifier whose evidence is known."""

import pytest
import torch
from torch import nn

from trainables.analyses import analyse
from trainables.analyses.gradcam import grad_cam, overlap
from trainables.context import Context, StageError
from trainables.pretexts.classification import Classification
from trainables.pretexts.pretrain import pretrain
from trainables.randomness import seed_everything
from trainables.settings import ClassificationSettings, NetworkSettings


class Head(nn.Module):
    """Global average pooling and a linear layer, as a classifier's."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.tensor(weight)

    def forward(self, features):
        return features.mean(dim=(2, 3)) @ self.weight.T


def test_by_hand_on_two_channels():
    """d logit / d E_k = w_k / 4 at each of the four places; so the map is ReLU((2 E_1 - 4 E_2) / 4)."""
    features = torch.tensor([[[[1.0, 2.0], [0.0, 4.0]], [[1.0, 0.0], [3.0, 1.0]]]])
    maps, logits = grad_cam(features, Head([[0.5, 0.5], [2.0, -4.0]]), torch.tensor([1]))
    assert logits[0].tolist() == [0.5 * 7 / 4 + 0.5 * 5 / 4, 2 * 7 / 4 - 4 * 5 / 4]
    assert maps[0].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert not maps.requires_grad


def test_weights_are_the_derivatives_of_the_chosen_logit():
    """A head that is not linear, against central differences in float64."""
    seed_everything(0, "test")
    head = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 2)).double()
    features = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    maps, _ = grad_cam(features, head, torch.tensor([1]))
    slopes = torch.zeros_like(features)
    with torch.no_grad():
        for place in range(features.numel()):
            step = torch.zeros_like(features)
            step.view(-1)[place] = 1e-5
            slopes.view(-1)[place] = (head(features + step) - head(features - step))[0, 1] / 2e-5
    expected = (slopes.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()
    assert float(expected.max()) > 0
    assert torch.allclose(maps, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("loss", "targets"), [("by-classes", [0, 0, 0]), ("by-classes", [3, 0, 1]), ("cross-entropy", [1, 1, 0])]
)
def test_equals_captum(loss, targets):
    attr = pytest.importorskip("captum.attr", reason="captum (extra peers) is not installed")
    seed_everything(0, "init")
    classes, targets = 4 if max(targets) > 1 else 2, torch.tensor(targets)
    model = Classification(ClassificationSettings(loss=loss), NetworkSettings(width=4), classes).eval()

    class Whole(nn.Module):
        """captum hooks layers that give one tensor."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return model.logits(images)

    images = torch.rand(3, 3, 32, 32)
    theirs = attr.LayerGradCam(Whole(), model.encoder.blocks[-1]).attribute(
        images, target=targets, relu_attributions=True
    )
    with torch.no_grad():
        features = model.encoder(images)[-1]
    ours, logits = grad_cam(features, lambda e: model.pretext["classifier"](model.pretext["pooling"](e)), targets)
    assert torch.allclose(ours, theirs[:, 0].detach(), atol=1e-7)
    assert float(ours.max()) > 0
    assert torch.allclose(logits, model.logits(images), atol=1e-6)


def test_overlap_by_hand():
    maps = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], [[0.0] * 2] * 2, [[9.0] * 2] * 2])
    objects = torch.tensor([[[1, 0], [0, 0]], [[1, 0], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
    metrics, count = overlap(maps, objects)  # the last one has no object; the third map is empty
    assert count == 3
    assert metrics == pytest.approx({"inside": 0.75 / 3, "area": (0.25 + 0.5 + 0.5) / 3, "pointing": 1 / 3})
    assert overlap(maps[:1], objects[:1] & False) == ({}, 0)


NETWORK = {"name": "conrec-unet", "width": 4}
DATA = {"reader": "shapes", "options": {}, "prepared": True}


@pytest.fixture(scope="module")
def prepared():
    """Noise, half of it with a red square, which is what "car" means here: images, masks, labels and parts."""
    random = torch.Generator().manual_seed(0)
    count, size = 80, 32
    images = torch.randint(60, 120, (count, 3, size, size), generator=random, dtype=torch.uint8)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    for n in range(1, count, 2):
        top, left = torch.randint(0, size - 12, (2,), generator=random).tolist()
        images[n, 0, top : top + 12, left : left + 12] = 250
        masks[n, top : top + 12, left : left + 12] = 1
    part = (torch.arange(count) >= 56).long()
    return {"images": images, "masks": masks, "labels": labels, "part": part}


@pytest.fixture
def context(tmp_path):
    return lambda **parents: Context(tmp_path, tmp_path / "work", parents=parents, checkpoint_seconds=1e9)


def spec(**settings):
    return {
        "analysis": {"kind": "gradcam", "input_size": 32, **settings},
        "network": NETWORK,
        "data": DATA,
        "backend": {"threads": 1},
        "seed": 0,
    }


def test_a_trained_classifier_looks_at_the_object(context, prepared):
    trained = pretrain(
        {
            "pretext": {"method": "classification", "crop_area": 1.0},
            "network": NETWORK,
            "data": DATA,
            "pretrain": {"steps": 150, "batch": 16, "input_size": 32, "report_every": 150, "learning_rate": 0.005},
            "backend": {"threads": 1},
            "seed": 0,
        },
        context(data=prepared),
    )
    where = context(model=trained.weights, data=prepared)
    result = analyse(spec(), where)
    assert result.facts == {"images": 24, "with_object": 12}  # the validation part alone
    assert result.metrics["accuracy"] == trained.metrics["val_accuracy"] > 0.9
    assert result.metrics["area"] == pytest.approx(144 / 1024)
    # A map of 4 x 4 places cannot lie on 12 pixels of 32 alone.
    assert result.metrics["inside"] > 1.4 * result.metrics["area"]
    assert result.metrics["pointing"] > 2 * result.metrics["area"]
    assert set(result.files) == {"gradcam.png"}
    assert analyse(spec(), where).files == result.files
    noted = analyse({**spec(), "note": "shapes in place of streets"}, where)
    assert noted.files != result.files and noted.metrics == result.metrics
    assert analyse(spec(images=10), where).facts["images"] == 10


def test_what_does_not_fit_is_told(context, prepared):
    seed_everything(0, "init")
    weights = Classification(ClassificationSettings(), NetworkSettings(width=4), 2).weights()
    with pytest.raises(StageError, match=r"expected names for 2 classes, but labels are \['car'\]"):
        analyse(spec(labels=["car"]), context(model=weights, data=prepared))
    encoder = {name: t for name, t in weights.items() if name.startswith("encoder.")}
    with pytest.raises(StageError, match="expected the weights of a classification pretext"):
        analyse(spec(), context(model=encoder, data=prepared))
