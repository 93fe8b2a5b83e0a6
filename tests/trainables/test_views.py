"""Two-view augmentation: pixels against torchvision's operators on fixed draws, and draws against their ranges."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from trainables.pretexts import crops, photometric, views
from trainables.pretexts.crops import draw_crops, resample
from trainables.pretexts.views import Photometry, adjust, draw_photometry, two_views

SIDE, SIZE = 96, 40


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def photographs(count, side=SIDE, seed=0):
    """Smooth uint8 images, so that interpolation is not all rounding."""
    coarse = torch.rand((count, 3, side // 6, side // 6), generator=generator(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (smooth * 255).byte()


def whole(count, side=SIDE):
    return torch.tensor([[0, 0, side, side]]).repeat(count, 1)


def no_photometry(count, **changes):
    left_alone = {
        "factors": torch.ones(count, 3),
        "shifts": torch.zeros(count),
        "order": torch.arange(4).repeat(count, 1),
        "gray": torch.zeros(count, dtype=torch.bool),
        "sigmas": torch.zeros(count),
    }
    return Photometry(**(left_alone | changes))


# Crops


def test_crops_are_those_of_torchvision():
    """Away from the rim: torchvision repeats the rim of a crop, ours looks at the picture beyond it."""
    images, boxes = photographs(3), whole(3)
    crops = torch.stack([draw_crops(boxes, generator(seed)) for seed in (1, 2)])
    flips = torch.tensor([[False, True, False], [True, True, False]])
    ours = resample(images, boxes, crops, flips, SIZE).view(2, 3, 3, SIZE, SIZE)
    for view in range(2):
        for number in range(3):
            theirs = TF.resized_crop(
                images[number].float() / 255, *crops[view, number].tolist(), size=[SIZE, SIZE],
                interpolation=InterpolationMode.BICUBIC, antialias=False,
            )  # fmt: skip
            theirs = TF.horizontal_flip(theirs) if flips[view, number] else theirs
            inside = (slice(None), slice(3, -3), slice(3, -3))
            torch.testing.assert_close(ours[view, number][inside], theirs.clamp(0, 1)[inside], atol=2e-5, rtol=0)


@pytest.mark.parametrize("box", [(0, 0, 96, 96), (20, 0, 56, 96), (0, 33, 96, 30), (95, 0, 1, 96)])
def test_the_whole_picture_is_exactly_torchvisions_and_its_padding_never_shows(box):
    top, left, height, width = box
    images = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    picture = photographs(1)[:, :, :height, :width]
    images[:, :, top : top + height, left : left + width] = picture
    boxes = torch.tensor([box])
    ours = resample(images, boxes, boxes[None], torch.zeros(1, 1, dtype=torch.bool), SIZE)
    theirs = TF.resize(picture.float() / 255, [SIZE, SIZE], InterpolationMode.BICUBIC, antialias=False).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_a_white_picture_stays_white():
    boxes = torch.tensor([[12, 0, 72, 96], [0, 40, 96, 17], [0, 0, 96, 96], [1, 0, 94, 96]])
    images = torch.zeros(4, 3, SIDE, SIDE, dtype=torch.uint8)
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        image[:, top : top + height, left : left + width] = 255
    for seed in range(10):
        cropped = two_views(images, boxes, SIZE, generator(seed)).cropped
        torch.testing.assert_close(cropped, torch.ones_like(cropped), atol=1e-5, rtol=0)


def test_crops_keep_area_ratio_and_picture():
    boxes = torch.tensor([[30, 0, 140, 200]]).repeat(4000, 1)
    top, left, height, width = draw_crops(boxes, generator()).unbind(1)
    assert ((top >= 30) & (top + height <= 170) & (left >= 0) & (left + width <= 200)).all()
    area, ratio = (height * width) / (140 * 200), width / height
    assert area.min() >= 0.1 and area.min() < 0.11 and area.max() <= 1.0 and area.max() > 0.85
    assert ratio.min() > 0.73 and ratio.max() < 1.37 and ratio.min() < 0.76 and ratio.max() > 1.32
    assert abs((top - 30).double().mean() - ((140 - height) / 2).double().mean()) < 2  # anywhere, without a bias
    assert (top + height == 170).any() and (left + width == 200).any() and (top == 30).any() and (left == 0).any()


def test_the_whole_picture_where_no_crop_fits():
    boxes = torch.tensor([[0, 98, 200, 4], [0, 0, 200, 200]])  # 4 by 5 pixels at most, a fortieth of the first picture
    crops = draw_crops(boxes, generator())
    assert torch.equal(crops[0], boxes[0]) and not torch.equal(crops[1], boxes[1])


# Colours


def chain(image, factors, shift, order):
    """The jitter by torchvision's operators, one after the other."""
    operators = [
        lambda x: TF.adjust_brightness(x, factors[0]),
        lambda x: TF.adjust_contrast(x, factors[1]),
        lambda x: TF.adjust_saturation(x, factors[2]),
        lambda x: TF.adjust_hue(x, shift),
    ]
    for operator in order:
        image = operators[operator](image).clamp(0, 1)
    return image


def test_jitter_is_torchvisions_in_every_order():
    orders = torch.tensor([[a, b, c, d] for a in range(4) for b in range(4) for c in range(4) for d in range(4)
                           if {a, b, c, d} == {0, 1, 2, 3}])  # fmt: skip
    images = torch.rand((24, 3, 17, 23), generator=generator())
    factors = 0.2 + 1.6 * torch.rand((24, 3), generator=generator(1))
    shifts = 0.4 * torch.rand(24, generator=generator(2)) - 0.2
    ours = adjust(images, no_photometry(24, factors=factors, shifts=shifts, order=orders))
    for number in range(24):
        theirs = chain(images[number], factors[number].tolist(), shifts[number].item(), orders[number].tolist())
        torch.testing.assert_close(ours[number], theirs, atol=2e-5, rtol=0)
    assert (ours - adjust(images, no_photometry(24, factors=factors, shifts=shifts))).abs().max() > 0.1  # order matters


@pytest.mark.parametrize("jittered", [[], [4], [0, 3, 5], [0, 1, 2, 3, 4]])
def test_views_that_are_left_alone_keep_every_digit_and_change_nothing_for_the_others(jittered):
    images = photographs(6).float() / 255
    photometry = no_photometry(6)
    drawn = draw_photometry(60, generator(4))
    strong = (drawn.factors != 1).any(dim=1).nonzero()[:6, 0]
    photometry.factors[jittered] = drawn.factors[strong][jittered]
    photometry.shifts[jittered] = drawn.shifts[strong][jittered]
    adjusted = adjust(images, photometry)
    for row in range(6):
        alone = adjust(images[row : row + 1], photometry[row : row + 1])
        torch.testing.assert_close(adjusted[row : row + 1], alone, atol=1e-6, rtol=0)
        assert torch.equal(adjusted[row], images[row]) == (row not in jittered)


def test_hue_is_torchvisions_for_grays_primaries_and_ties():
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 8, 8)
    for shift in (-0.5, -0.2, -1 / 6, 0.1, 1 / 3, 0.5):
        ours = colours.clone()
        photometric.hue_(ours.flatten(2), torch.tensor([shift]))
        torch.testing.assert_close(ours, TF.adjust_hue(colours, shift), atol=5e-6, rtol=0)


def test_grayscale_is_torchvisions():
    images = torch.rand((5, 3, 9, 9), generator=generator())
    gray = torch.tensor([True, False, True, False, False])
    ours = adjust(images, no_photometry(5, gray=gray))
    torch.testing.assert_close(ours[gray], TF.rgb_to_grayscale(images[gray], num_output_channels=3))
    assert torch.equal(ours[~gray], images[~gray])  # digit for digit: untouched


@pytest.mark.parametrize(("size", "radius"), [(64, 3), (128, 6), (224, 11)])
def test_blur_is_torchvisions_on_a_zero_padded_image(size, radius):
    images = torch.rand((3, 3, size, size), generator=generator())
    sigmas = torch.tensor([0.1, 0.0, 1.7])
    ours = adjust(images, no_photometry(3, sigmas=sigmas))
    for number in (0, 2):
        wide = torch.nn.functional.pad(images[number], [2 * radius] * 4)
        theirs = TF.gaussian_blur(wide, [2 * radius + 1] * 2, [sigmas[number].item()] * 2)
        torch.testing.assert_close(ours[number], TF.center_crop(theirs, [size, size]), atol=1e-5, rtol=0)
    assert torch.equal(ours[1], images[1])
    assert ours[2, :, 0].mean() < 0.8 * ours[2, :, size // 2].mean()  # the border darkens


def test_draws_have_the_papers_probabilities_and_ranges():
    count = 20_000
    draws = draw_photometry(count, generator())
    jittered = (draws.factors != 1).any(1)
    shares = {0.8: jittered, 0.2: draws.gray, 0.5: draws.sigmas > 0}
    for probability, happened in shares.items():
        assert abs(happened.float().mean() - probability) < 4 * (probability * (1 - probability) / count) ** 0.5
    assert torch.equal(draws.shifts != 0, jittered)
    for values, low, high in (
        (draws.factors[jittered], 0.2, 1.8),
        (draws.shifts[jittered], -0.2, 0.2),
        (draws.sigmas[draws.sigmas > 0], 0.1, 2.0),
    ):
        margin = 0.001 * (high - low)
        assert low - 1e-6 <= values.min() < low + margin and high - margin < values.max() <= high + 1e-6
    orders = draws.order.unique(dim=0, return_counts=True)[1]
    assert len(orders) == 24 and (abs(orders - count / 24) < 5 * (count / 24) ** 0.5).all()


# Views


def test_first_and_second_views_are_drawn_apart_and_follow_from_the_generator():
    images, boxes = photographs(4), whole(4)
    made, again, other = (two_views(images, boxes, SIZE, generator(seed)) for seed in (1, 1, 2))
    assert made.augmented.shape == made.cropped.shape == (8, 3, SIZE, SIZE)
    assert torch.equal(made.augmented, again.augmented) and torch.equal(made.cropped, again.cropped)
    assert not torch.equal(made.augmented, other.augmented)
    assert all(not torch.equal(made.cropped[i], made.cropped[i + 4]) for i in range(4))
    assert made.augmented.min() >= 0 and made.augmented.max() <= 1


def test_cropped_and_augmented_are_the_same_draw():
    """Of many views some keep their colours (0.2 * 0.8 * 0.5): there u and v are the same picture."""
    images, boxes = photographs(60), whole(60)
    made = two_views(images, boxes, SIZE, generator())
    same = (made.augmented == made.cropped).flatten(1).all(1)
    assert 0.02 < same.float().mean() < 0.16
    u, v = (x.mean(1).flatten(1) for x in (made.cropped, made.augmented))
    own, foreign = (torch.corrcoef(torch.cat([u, v]))[:120, 120:].roll(k, 1).diagonal() for k in (0, 1))
    assert (own > foreign).float().mean() > 0.95


def test_half_of_the_views_are_mirrored():
    ramp = torch.linspace(0, 255, SIDE).byte().expand(500, 3, SIDE, SIDE)
    cropped = two_views(ramp, whole(500), 8, generator()).cropped
    mirrored = (cropped[..., 0] > cropped[..., -1]).flatten(1).all(1)
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / 1000**0.5


def test_pieces_give_what_the_whole_batch_gives(monkeypatch):
    images, draws = torch.rand((7, 3, 32, 32), generator=generator()), draw_photometry(7, generator(3))
    expected = adjust(images, draws)
    monkeypatch.setattr(views, "_CHUNK_PIXELS", 1)
    assert torch.equal(adjust(images, draws), expected)


def test_crops_are_the_first_that_fit_however_many_are_looked_at(monkeypatch):
    boxes = torch.tensor([[0, 0, 96, 96], [30, 0, 7, 96], [0, 41, 96, 5], [3, 4, 40, 11]]).repeat(50, 1)
    expected = draw_crops(boxes, generator(5))
    for few in (1, 100):
        monkeypatch.setattr(crops, "_USUAL_TRIES", few)
        assert torch.equal(draw_crops(boxes, generator(5)), expected)
    assert not torch.equal(expected, boxes)


def test_the_grid_is_affine_grids():
    """Digit for digit: weights of finished stages depend on it."""
    boxes, flips = whole(5), torch.tensor([[False, True, True, False, True], [True, False, True, False, False]])
    drawn = torch.stack([draw_crops(boxes, generator(seed)) for seed in (1, 2)])
    top, left, height, width = drawn.flatten(0, 1).double().div(SIDE).unbind(1)
    theta = torch.zeros(10, 2, 3, dtype=torch.float64)
    theta[:, 0, 0], theta[:, 0, 2] = torch.where(flips.flatten(), -width, width), 2 * left + width - 1
    theta[:, 1, 1], theta[:, 1, 2] = height, 2 * top + height - 1
    theirs = torch.nn.functional.affine_grid(theta.float(), [10, 3, SIZE, SIZE], align_corners=False)
    ours = crops._grid(drawn, flips, SIDE, SIZE, torch.device("cpu")).view(5, 2, SIZE, SIZE, 2).transpose(0, 1)
    assert torch.equal(ours.flatten(0, 1), theirs)


def test_no_view_at_all_is_nothing_to_do_on_a_gpu_too():
    """Where no picture of a batch changes its colours; `meta` stands for any device that is not the CPU."""
    nothing = draw_photometry(0, torch.Generator())
    assert adjust(torch.empty(0, 3, 8, 8, device="meta"), nothing).shape == (0, 3, 8, 8)
