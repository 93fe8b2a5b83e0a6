"""The augmentations of BYOL and MoCo against torchvision's operators, with the same draws or in distribution."""

from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from trainables.pretexts.recipes import BYOL_RECIPE, MOCO_RECIPE, _blur, resized_crops, two_views_by
from trainables.randomness import generator

SIZE = 24
STILL = replace(BYOL_RECIPE, jitter=0.0, grayscale=0.0, blur=0.0, flip=0.0, area=1.0)
RECIPES = [pytest.param(BYOL_RECIPE, id="byol"), pytest.param(MOCO_RECIPE, id="moco")]


def pictures(count=6, side=SIZE):
    return torch.randint(0, 256, (count, 3, side, side), generator=generator(0), dtype=torch.uint8)


def whole(count=6, side=SIZE):
    return torch.tensor([[0, 0, side, side]] * count)


def tries(count, seed=0):
    return torch.rand((4, count, 10), generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize(("area", "height", "width"), [(0.08, 128, 128), (0.2, 60, 200), (0.08, 300, 40)])
def test_crops_are_distributed_as_torchvisions(area, height, width):
    count = 4000
    ours = resized_crops(torch.tensor([[0, 0, height, width]] * count), tries(count), area).double()
    torch.manual_seed(0)
    picture = torch.zeros(1, height, width)
    drawn = [
        v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(8, scale=(area, 1)), [picture]) for _ in range(count)
    ]
    theirs = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn]).double()
    for column in range(4):
        a, b = (x[:, column].sort().values for x in (ours, theirs))
        scale = max(height, width)
        assert (a - b).abs().mean() / scale < 0.012  # the Wasserstein distance; two samples of one law differ too
    areas = [x[:, 2] * x[:, 3] / (height * width) for x in (ours, theirs)]
    assert areas[0].mean() == pytest.approx(areas[1].mean().item(), abs=0.015)


def test_crops_stay_in_their_pictures():
    boxes = torch.tensor([[5, 0, 14, 24], [0, 7, 24, 11], [3, 4, 1, 17]]).repeat(500, 1)
    crops = resized_crops(boxes, tries(1500), 0.08)
    assert (crops[:, :2] >= boxes[:, :2]).all() and (crops[:, 2:] >= 1).all()
    assert (crops[:, :2] + crops[:, 2:] <= boxes[:, :2] + boxes[:, 2:]).all()


def test_a_picture_too_long_for_any_draw_gives_its_middle():
    """As torchvision: 4/3 is the longest, so 30 x 4 in the middle of 30 x 400 at most."""
    crops = resized_crops(torch.tensor([[10, 0, 30, 400]]), tries(1), 1.0)
    assert crops.tolist() == [[10, 180, 30, 40]]


def test_nothing_drawn_gives_the_images_back():
    for crop_first in (False, True):
        views = two_views_by(replace(STILL, crop_first=crop_first), pictures(), whole(), SIZE, generator(0))
        for view in views:
            torch.testing.assert_close(view, pictures() / 255, atol=1e-5, rtol=0)


def test_the_generator_fixes_the_views():
    for recipe in (BYOL_RECIPE, MOCO_RECIPE):
        first, again, other = (two_views_by(recipe, pictures(), whole(), 16, generator(s)) for s in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0]) and not torch.equal(first[0], first[1])
        assert all(v.shape == (6, 3, 16, 16) and v.dtype == torch.float32 for v in first)
        assert all(v.min() >= 0 and v.max() <= 1 for v in first)


def test_colours_are_of_the_whole_image_for_byol_and_of_the_crop_for_moco():
    """Full contrast reduction to the mean gray: of the image, or of what was cut out of it."""
    halves = torch.zeros(8, 3, SIZE, SIZE, dtype=torch.uint8)
    halves[..., SIZE // 2 :] = 200
    flat = replace(STILL, jitter=1.0, area=0.1, hue=0.0)
    for crop_first in (False, True):
        recipe = replace(flat, strength=(0.0, 1.0, 0.0), crop_first=crop_first)
        views = torch.cat(two_views_by(recipe, halves, whole(8), SIZE, generator(4)))
        one_colour = (views.amax((1, 2, 3)) - views.amin((1, 2, 3))) < 1e-3  # crops out of one half
        levels = views[one_colour].mean((1, 2, 3)) * 255
        untouched = ((levels < 0.5) | ((levels - 200).abs() < 0.5)).all()
        assert one_colour.any() and bool(untouched) is crop_first


def test_flips_and_grays_as_often_as_said():
    images, boxes = pictures(3000, 8), whole(3000, 8)
    still = replace(STILL, flip=0.5)
    views = two_views_by(still, images, boxes, 8, generator(0))[0]
    flipped = (views - images.flip(-1) / 255).abs().amax((1, 2, 3)) < 1e-4
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.03)
    gray = two_views_by(replace(STILL, grayscale=0.2), images, boxes, 8, generator(0))[0]
    equal = (gray[:, 0] - gray[:, 1]).abs().amax((1, 2)) < 1e-4
    assert equal.float().mean() == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(gray[equal], TF.rgb_to_grayscale(images[equal] / 255, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_blur_is_torchvisions(recipe):
    images = pictures() / 255
    sigmas = torch.linspace(*recipe.sigma, len(images))
    ours = _blur(images, sigmas, recipe.radius)
    for i, sigma in enumerate(sigmas.tolist()):
        theirs = TF.gaussian_blur(images[i], kernel_size=[2 * recipe.radius + 1] * 2, sigma=[sigma, sigma])
        torch.testing.assert_close(ours[i], theirs, atol=1e-5, rtol=0)


def test_jitter_is_torchvisions():
    """One operator at a time, so that the drawn factor can be read off the picture."""
    images, boxes = pictures() // 4 + 96, whole()
    for position, adjust in enumerate((TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)):
        strength = tuple(0.3 if position == other else 0.0 for other in range(3))
        recipe = replace(STILL, jitter=1.0, strength=strength, hue=0.0)
        view = two_views_by(recipe, images, boxes, SIZE, generator(5))[0]
        factors = 1 + 0.3 * (2 * torch.rand((6, 13), generator=generator(5))[:, 1 + position] - 1)
        for i, factor in enumerate(factors.tolist()):
            torch.testing.assert_close(view[i], adjust(images[i] / 255, factor), atol=2e-5, rtol=0)


def test_shared_draws_do_the_same_to_every_image():
    same = pictures(1).repeat(5, 1, 1, 1)
    for recipe in (BYOL_RECIPE, MOCO_RECIPE):
        for seed in range(4):
            own = two_views_by(recipe, same, whole(5), 16, generator(seed))
            shared = two_views_by(recipe, same, whole(5), 16, generator(seed), shared=True)
            for view in shared:
                torch.testing.assert_close(view, view[:1].expand_as(view), atol=1e-5, rtol=0)
            assert not torch.equal(own[0][0], own[0][1])
            assert not torch.equal(*shared)


def test_padding_changes_nothing():
    """A picture in the middle of its square looks after colours and crop as it does alone."""
    inner = pictures(8, 16) // 4 + 96
    padded = torch.zeros(8, 3, 24, 24, dtype=torch.uint8)
    padded[..., 4:20, 4:20] = inner
    recipe = replace(BYOL_RECIPE, blur=0.0, jitter=1.0, strength=(0.0, 0.5, 0.5), hue=0.0)
    alone = two_views_by(recipe, inner, whole(8, 16), 16, generator(2))
    framed = two_views_by(recipe, padded, torch.tensor([[4, 4, 16, 16]] * 8), 16, generator(2))
    for a, b in zip(alone, framed, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
