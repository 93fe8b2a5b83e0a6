"""The pretexts: the contract, the papers' parameter counts, and what their losses are made of."""

import pytest
import torch

from tests.contracts.pretext_contract import PretextContract
from trainables.losses.ntxent import ntxent
from trainables.pretexts import build_pretext
from trainables.pretexts.decoding import TASKS, DecodingHeads
from trainables.pretexts.masks import Masked, apply_masks, draw_masks
from trainables.pretexts.views import Views, two_views
from trainables.randomness import generator
from trainables.settings import (
    BYOLColorSettings,
    BYOLSettings,
    ClassificationSettings,
    ConRecSettings,
    MoCoSettings,
    NetworkSettings,
    ReconstructionSettings,
    SegmentationSettings,
    SimCLRSettings,
)

WHOLE = ("encoder", "skips", "decoder")


class TestSimCLR(PretextContract):
    settings = SimCLRSettings()
    parts = ("encoder",)

    def test_loss_is_the_contrast_of_first_and_second_views(self, batch):
        pretext = self.fresh().eval()
        views = two_views(batch.images, batch.boxes, batch.size, generator(5)).augmented
        z = pretext.pretext["projection"](pretext.encoder(views)[-1].mean((2, 3)))
        assert pretext.loss(batch, generator(5))["loss"].item() == pytest.approx(ntxent(z[:8], z[8:], 0.5).item())


class TestReconstruction(PretextContract):
    settings = ReconstructionSettings()
    parts = WHOLE


class TestVanillaConRec(PretextContract):
    settings = ConRecSettings(tasks=("reconstruction",))
    parts = WHOLE


class TestConRec(PretextContract):
    settings = ConRecSettings()
    parts = WHOLE

    def test_loss_adds_a_hundred_mean_errors_and_the_contrast(self, batch):
        losses = self.fresh().eval().loss(batch, generator(5))
        errors = [losses[task].item() for task in TASKS]
        assert losses["loss"].item() == pytest.approx(100 * sum(errors) / 4 + losses["contrast"].item())

    def test_errors_are_those_of_the_masked_views(self, batch):
        """From the parts, by hand: encode masked views, compare each head with its own target."""
        pretext, g = self.fresh().eval(), generator(5)
        v, u = two_views(batch.images, batch.boxes, batch.size, g)
        x, m = apply_masks(v, draw_masks(len(v), batch.size, g))
        decoded = pretext.network.decode(pretext.network.encoder(x))
        targets = {"reconstruction": v, "color": u, "mask": m, "fill": v * (1 - m)}
        losses = pretext.loss(batch, generator(5))
        for task, target in targets.items():
            output = torch.sigmoid(pretext.pretext["decoding"][task](decoded))
            assert output.shape == target.shape
            assert losses[task].item() == pytest.approx((output - target).square().mean().item(), rel=1e-5)


class TestSegmentation(PretextContract):
    settings = SegmentationSettings()
    parts = (*WHOLE, "head")
    classes = 2


class TestSegmentationOfThreeClasses(PretextContract):
    settings = SegmentationSettings()
    parts = WHOLE
    classes = 3


class TestClassification(PretextContract):
    settings = ClassificationSettings()
    parts = ("encoder",)
    classes = 2


class TestClassificationOfFourClasses(PretextContract):
    settings = ClassificationSettings()
    parts = ("encoder",)
    classes = 4


class TestBYOL(PretextContract):
    settings = BYOLSettings(hidden=64, projection=16)
    parts = ("encoder",)


class TestBYOLWithSharedDraws(PretextContract):
    settings = BYOLSettings(hidden=64, projection=16, shared_draws=True)
    parts = ("encoder",)


class TestBYOLColor(PretextContract):
    settings = BYOLColorSettings(hidden=64, projection=16)
    parts = ("encoder",)


class TestMoCo(PretextContract):
    settings = MoCoSettings(queue=24, projection=16, momentum=0.9)
    parts = ("encoder",)

    def test_training_lowers_the_loss(self, batch):
        """The validation loss: that of training rises while the queue fills with keys that are like the queries."""
        pretext = self.fresh()
        before = pretext.validate(batch, generator(7))[0]["loss"]
        self.steps(pretext, torch.optim.Adam(pretext.parameters(), lr=3e-3), batch, range(25))
        assert pretext.validate(batch, generator(7))[0]["loss"] < 0.95 * before


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (SimCLRSettings(), 5_281_216),
        (ReconstructionSettings(), 7_876_035),
        (ConRecSettings(tasks=("reconstruction",)), 8_641_476),
        (ConRecSettings(), 8_641_931),
    ],
)
def test_trainable_parameters_of_the_paper(settings, count):
    pretext = build_pretext(settings, NetworkSettings(width=64))
    assert sum(p.numel() for p in pretext.parameters() if p.requires_grad) == count


def test_vanilla_conrec_has_the_total_of_the_papers_8_65_million():
    pretext = build_pretext(ConRecSettings(tasks=("reconstruction",)), NetworkSettings(width=64))
    statistics = [b for name, b in pretext.named_buffers() if "running" in name]
    frozen_ones = 512  # of Keras' broadcasting convolution, which torch does without
    total = sum(t.numel() for t in [*pretext.parameters(), *statistics]) + frozen_ones
    assert total == 8_651_716


def test_targets_of_the_tasks():
    v, u = torch.rand(2, 2, 3, 8, 8)
    mask = (torch.rand(2, 1, 8, 8) < 0.5).float()
    views, masked = Views(v, u), Masked(torch.zeros_like(v), mask)
    targets = {task: target(views, masked) for task, (_, target) in TASKS.items()}
    assert targets["reconstruction"] is v and targets["color"] is u and targets["mask"] is mask
    hidden = mask.bool().expand_as(v)
    assert (targets["fill"][hidden] == 0).all() and torch.equal(targets["fill"][~hidden], v[~hidden])


@pytest.mark.parametrize("tasks", [(), ("mask", "mask"), ("mask", "depth")])
def test_tasks_must_be_different_known_ones(tasks):
    with pytest.raises(ValueError, match="different ones of reconstruction, color, mask, fill, but got"):
        DecodingHeads(4, tasks)
