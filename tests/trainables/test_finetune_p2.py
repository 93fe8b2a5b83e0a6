"""Finetuning as paper 2 does it: Dice plus cross-entropy, its augmentation, epochs, a plateau, a frozen encoder."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from trainables.context import Context, StageError
from trainables.data import hold_out, open_dataset, split
from trainables.downstream.examples import load_parts
from trainables.downstream.finetune import finetune, lengths
from trainables.downstream.selection import Selection
from trainables.downstream.warp import Warps, blur, draw_warps, rotate, warp
from trainables.losses.dice import dice_loss
from trainables.losses.dice_bce import dice_bce_loss
from trainables.networks import build_network
from trainables.randomness import generator, seed_everything
from trainables.settings import FinetuneSettings, parse_network

P2 = {"batch": 4, "learning_rate": 5e-4, "loss": "dice-bce", "input_size": 32, "crop_area": 1.0, "vertical_flip": 0.5}
P2 |= {"rotation": 0.5, "blur": 0.5, "validation_share": 0.25, "plateau": 15, "plateau_factor": 0.1, "curve_images": 4}


def spec(network="casser-unet", *, scenario="random-init", frozen=False, width=4, count=16, **finetune):
    return {
        "scenario": scenario,
        "frozen": frozen,
        "network": {"name": network, "width": width},
        "data": {"reader": "textures", "options": {"count": count, "size": 32}, "fraction": None, "n_train": None},
        "finetune": P2 | {"epochs": 2} | finetune,
        "backend": {"threads": 1},
        "seed": 0,
    }


def fresh(network, width, seed=7):
    seed_everything(seed, "init")
    return build_network(parse_network({"name": network, "width": width}), 1).state_dict()


# The loss ------------------------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    torch.manual_seed(0)
    logits = torch.randn(3, 1, 5, 4, dtype=torch.float64)
    masks = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(3, (3, 5, 4))]
    entropy, counted, hit, predicted, true = 0.0, 0, 0.0, 0.0, 0
    for logit, y in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        if y == 255:
            continue
        p = 1 / (1 + math.exp(-logit))
        entropy -= math.log(p if y == 1 else 1 - p)
        counted, hit, predicted, true = counted + 1, hit + p * y, predicted + p, true + y
    expected = 1 - (2 * hit + 1) / (predicted + true + 1) + entropy / counted
    assert float(dice_bce_loss(logits, masks)) == pytest.approx(expected, abs=1e-12)


def test_the_loss_without_void_is_dice_plus_torchs_cross_entropy():
    torch.manual_seed(1)
    logits, masks = torch.randn(2, 1, 8, 8), torch.randint(2, (2, 8, 8), dtype=torch.uint8)
    entropy = F.binary_cross_entropy_with_logits(logits[:, 0], masks.float())
    torch.testing.assert_close(dice_bce_loss(logits, masks), dice_loss(logits, masks) + entropy)
    void = torch.full_like(masks, 255)
    assert float(dice_bce_loss(logits, void)) == float(dice_loss(logits, void))


# The augmentation ----------------------------------------------------------------------------------------------------


def pictures(count=4, size=48):
    torch.manual_seed(2)
    small = torch.rand(count, 3, 6, 6)
    images = F.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)
    return images, (images[:, 0] > 0.5).byte()


def test_rotation_is_torchvisions_away_from_the_rim():
    images, masks = pictures()
    angles = torch.tensor([90.0, -37.0, 12.5, -90.0], dtype=torch.float64)
    turned, truth = rotate(images, masks, angles)
    for i, angle in enumerate(angles.tolist()):
        ones = TF.rotate(torch.ones(1, 48, 48), angle, InterpolationMode.BILINEAR)[0]
        expected = TF.rotate(images[i], angle, InterpolationMode.BILINEAR)
        inside = ones == 1
        assert (turned[i] - expected)[:, inside].abs().max() < 1e-4
        nearest = TF.rotate(masks[i][None], angle, InterpolationMode.NEAREST)[0]
        assert (truth[i] == nearest)[inside].float().mean() > 0.995  # a pixel midway between two may go either way
        assert (truth[i][ones == 0] == 255).all() and (turned[i][:, ones == 0] == 0).all()


def test_a_quarter_turn_moves_every_pixel_exactly():
    images, masks = pictures()
    turned, truth = rotate(images, masks, torch.full((4,), 90.0, dtype=torch.float64))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    assert torch.equal(truth, masks.rot90(1, (1, 2)))


def test_blur_is_torchvisions_with_a_deviation_for_each_picture():
    images, _ = pictures()
    sigmas = torch.tensor([0.1, 0.7, 1.3, 2.0], dtype=torch.float64)
    blurred = blur(images, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        torch.testing.assert_close(blurred[i], TF.gaussian_blur(images[i], [13, 13], [sigma]), atol=1e-5, rtol=0)


def test_only_what_is_drawn_is_changed_and_the_given_tensors_stay():
    images, masks = pictures()
    before = images.clone(), masks.clone()
    none = torch.zeros(4, dtype=torch.float64)
    same = warp(images, masks, Warps(none > 0, none, none))
    assert same[0] is images and same[1] is masks
    only = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    for warps in (Warps(only > 0, none, none), Warps(none > 0, 20 * only, none), Warps(none > 0, none, only)):
        changed, truth = warp(images, masks, warps)
        assert [torch.equal(changed[i], images[i]) for i in range(4)] == [True, False, True, True]
        assert torch.equal(truth[[0, 2, 3]], masks[[0, 2, 3]])
        assert torch.equal(images, before[0]) and torch.equal(masks, before[1])
    flipped, truth = warp(images, masks, Warps(only > 0, none, none))
    assert torch.equal(flipped[1], images[1].flip(1)) and torch.equal(truth[1], masks[1].flip(0))


def test_the_draws():
    drawn = draw_warps(20_000, 0.5, 0.25, 0.75, generator(0, "x"))
    turned, blurred = drawn.angle[drawn.angle != 0], drawn.sigma[drawn.sigma != 0]
    shares = [drawn.upside_down.double().mean(), len(turned) / 20_000, len(blurred) / 20_000]
    assert [float(s) for s in shares] == pytest.approx([0.5, 0.25, 0.75], abs=0.02)
    assert turned.min() < -89 and turned.max() > 89 and turned.abs().max() <= 90
    assert 0.1 <= blurred.min() < 0.12 and 1.98 < blurred.max() <= 2
    again = draw_warps(20_000, 0.5, 0.25, 0.75, generator(0, "x"))
    assert torch.equal(drawn.angle, again.angle) and torch.equal(drawn.sigma, again.sigma)


# Length, validation part, plateau ------------------------------------------------------------------------------------


def test_epochs_go_before_steps_and_a_point_follows_each():
    """Lucchi++: 124 of 165 slices train, so that 200 epochs are 200 x 31 steps; Kasthuri++: 64 of 85."""
    p2 = FinetuneSettings(epochs=200, batch=4)
    assert lengths(p2, 124) == (6200, 31) and lengths(p2, 64) == (3200, 16)
    assert lengths(FinetuneSettings(epochs=1.5, batch=4), 10) == (4, 3)
    assert lengths(FinetuneSettings(epochs=3, batch=16), 5) == (3, 1)
    assert lengths(FinetuneSettings(), 124) == (5000, 50)


def test_a_quarter_of_the_training_part_validates_and_no_evaluation_image(tmp_path):
    context = Context(tmp_path, tmp_path, cache_dir=tmp_path)
    wanted = spec(count=48)
    settings = FinetuneSettings(**wanted["finetune"])
    parts = load_parts(wanted["data"], settings, 0, context, validate=True)
    assert (len(parts.training), len(parts.validation), len(parts.evaluation)) == (27, 9, 12)
    listing = open_dataset("textures", tmp_path, wanted["data"]["options"])
    drawn = split(listing, None, None, 0)
    held = hold_out(drawn, 0.25)
    assert set(held.train) | set(held.evaluation) == set(listing.train) and not set(held.train) & set(held.evaluation)
    assert drawn.evaluation == listing.evaluation and not set(held.evaluation) & set(listing.evaluation)
    result = finetune(wanted, context)
    assert {name: result.facts[name] for name in ("n_train", "n_validation", "n_eval")} == {
        "n_train": 27, "n_validation": 9, "n_eval": 12,
    }  # fmt: skip
    assert [point["step"] for point in context.history] == [0, 7, 14]
    assert all("val_loss" in point for point in context.history)


def test_too_few_images_for_a_validation_part(tmp_path):
    data = {"reader": "shapes", "options": {"count": 8, "size": 32}, "n_train": 1}
    with pytest.raises(StageError, match="held out, but there are 1"):
        finetune(spec() | {"data": data}, Context(tmp_path, tmp_path, cache_dir=tmp_path))


def test_the_rate_falls_to_a_tenth_after_15_epochs_without_change():
    """Epoch 1 sets the loss that the next 15 do not improve; then 15 more, and the least rate."""
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    selection = Selection(FinetuneSettings(**P2), network, optimizer)
    rates = []
    for epoch in range(1, 50):
        selection.point(epoch, 0.7)
        rates.append(optimizer.param_groups[0]["lr"])
    lowered = [epoch for epoch in range(2, 50) if rates[epoch - 1] != rates[epoch - 2]]
    assert lowered == [16, 31, 46] and [rates[15], rates[30]] == pytest.approx([5e-5, 5e-6])


class Interrupted(Exception):
    pass


class LostAtStep5(Context):
    def progress(self, step, steps):
        if step == 5:
            raise Interrupted


def test_resumed_equals_undisturbed(tmp_path):
    asked = spec("resnet50-unet", width=8, count=16, epochs=3)
    undisturbed = Context(tmp_path, tmp_path / "a", cache_dir=tmp_path)
    expected = finetune(asked, undisturbed)
    with pytest.raises(Interrupted):
        finetune(asked, LostAtStep5(tmp_path, tmp_path / "b", cache_dir=tmp_path, checkpoint_seconds=0))
    resumed = Context(tmp_path, tmp_path / "b", cache_dir=tmp_path)
    found = finetune(asked, resumed)
    assert found.facts["resumed_from"] == 5
    assert found.metrics == expected.metrics and resumed.history == undisturbed.history


# A frozen encoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("network", "width"), [("resnet50-unet", 8), ("sasa-resnet50-unet", 16)])
def test_frozen_means_frozen(tmp_path, network, width, frozen):
    """Parameters and batch-norm statistics, bit for bit; trained, every one of them moves."""
    parent = fresh(network, width)
    context = Context(tmp_path, tmp_path, cache_dir=tmp_path, checkpoint_seconds=0, parents={"pretrain": parent})
    finetune(spec(network, scenario="cls-enc", frozen=frozen, width=width, count=12, epochs=2), context)
    after = context.resume()["modules"][0]
    encoder = {name for name in parent if name.startswith("encoder.")}
    assert any(name.endswith("running_var") for name in encoder)
    same = {name for name in encoder if torch.equal(after[name], parent[name])}
    assert same == (encoder if frozen else set())
    statistics = [name for name in parent if name.startswith("decoder.") and name.endswith("running_mean")]
    assert statistics and not any(torch.equal(after[name], parent[name]) for name in statistics)


def test_a_plateau_without_a_validation_part_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"no validation part.*a validation_share"):
        finetune(spec(validation_share=0.0), Context(tmp_path, tmp_path, cache_dir=tmp_path))
