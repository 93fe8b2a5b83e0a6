"""The pretexts: the contract, the papers' parameter counts, and what their losses are made of."""

import math
from dataclasses import replace

import pytest
import torch

from tests.contracts.pretext_contract import NETWORK, PretextContract
from trainables.context import StageError
from trainables.losses.ntxent import ntxent
from trainables.pretexts import build_pretext
from trainables.pretexts.decoding import TASKS, DecodingHeads, mean_error
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


class TestConRecWithWeights(PretextContract):
    settings = ConRecSettings(task_weights=(4.0, 0.0, 1.0, 3.0), mask_loss="bce")
    parts = WHOLE

    def test_loss_adds_a_hundred_weighted_means_and_the_contrast(self, batch):
        losses = self.fresh().eval().loss(batch, generator(5))
        r, c, m, f = (losses[task].item() for task in TASKS)
        weighted = (4 * r + 0 * c + 1 * m + 3 * f) / 8
        assert losses["loss"].item() == pytest.approx(100 * weighted + losses["contrast"].item())
        twice = replace(self.settings, task_weights=(8.0, 0.0, 2.0, 6.0))  # only the proportions count
        pretext = build_pretext(twice, NETWORK, 0)
        pretext.load_state_dict(self.fresh().state_dict())
        assert pretext.eval().loss(batch, generator(5))["loss"].item() == pytest.approx(losses["loss"].item())


class TestReconstructionOfTheMask(PretextContract):
    settings = ReconstructionSettings(tasks=("mask", "fill"), task_weights=(3.0, 1.0), mask_loss="dice")
    parts = WHOLE

    def test_loss_is_a_hundred_weighted_means(self, batch):
        losses = self.fresh().eval().loss(batch, generator(5))
        assert losses["loss"].item() == pytest.approx(100 * (3 * losses["mask"].item() + losses["fill"].item()) / 4)


@pytest.mark.parametrize("settings", [ConRecSettings(), ConRecSettings(tasks=("mask",)), ReconstructionSettings()])
def test_equal_weights_are_the_plain_mean(settings):
    """Also for one task: the scale of a single one stays, whatever its weight."""
    errors = {task: torch.rand((), dtype=torch.float64) for task in settings.tasks}
    plain = mean_error(errors)
    assert plain.item() == pytest.approx(sum(e.item() for e in errors.values()) / len(errors))
    assert mean_error(errors, [7.0] * len(errors)).item() == pytest.approx(plain.item(), rel=1e-12)


def test_mask_losses_by_hand():
    """Of p = sigmoid(x) and the mask y, in plain numbers; the other tasks keep the squared error."""
    torch.manual_seed(0)
    decoded, mask = torch.randn(2, 4, 8, 8), (torch.rand(2, 1, 8, 8) < 0.3).float()
    views, masked = Views(*torch.rand(2, 2, 3, 8, 8)), Masked(torch.zeros(2, 3, 8, 8), mask)
    found = {}
    for loss in ("mse", "bce", "dice"):
        torch.manual_seed(1)
        heads = DecodingHeads(4, ("reconstruction", "mask"), loss)
        found[loss] = {task: error.item() for task, error in heads(decoded, views, masked).items()}
    logits = heads["mask"](decoded).double().flatten().tolist()
    pairs = [(1 / (1 + math.exp(-x)), y) for x, y in zip(logits, mask.flatten().tolist(), strict=True)]
    squared = sum((p - y) ** 2 for p, y in pairs) / len(pairs)
    crossed = sum(-math.log(p if y else 1 - p) for p, y in pairs) / len(pairs)
    dice = 1 - (2 * sum(p * y for p, y in pairs) + 1) / (sum(p + y for p, y in pairs) + 1)
    assert [found[loss]["mask"] for loss in found] == pytest.approx([squared, crossed, dice], rel=1e-5)
    assert len({errors["reconstruction"] for errors in found.values()}) == 1


@pytest.mark.parametrize("cls", [ConRecSettings, ReconstructionSettings])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "expected a number in task_weights for each of the tasks mask, fill"),
        ((0.0, 0.0), "not all of them 0"),
        ((2.0, -1.0), "expected task_weights of 0 or more"),
    ],
)
def test_weights_that_do_not_fit_the_tasks_are_refused(cls, weights, message):
    with pytest.raises(StageError, match=message):
        build_pretext(cls(tasks=("mask", "fill"), task_weights=weights), NETWORK, 0)


def test_a_loss_that_is_none():
    with pytest.raises(ValueError, match="no mask_loss 'l1'; there are mse, bce, dice"):
        DecodingHeads(4, ("mask",), "l1")


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


class TestClassificationOneAgainstTheRest(PretextContract):
    settings = ClassificationSettings(loss="binary")
    parts = ("encoder",)
    classes = 4


class TestClassificationOfTwoLogits(PretextContract):
    settings = ClassificationSettings(loss="cross-entropy")
    parts = ("encoder",)
    classes = 2


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
