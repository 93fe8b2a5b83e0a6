"""Flip and crop: exact where exactness is possible, mask with image, padding untouched, sizes as the paper asks."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from trainables.downstream.augment import Crops, augment, draw_crops
from trainables.randomness import generator

SIZE = 24
# Wide, high, whole, and a box that touches no side of its square: top, left, height, width.
BOXES = torch.tensor([[5, 0, 14, 24], [0, 7, 24, 11], [0, 0, 24, 24], [3, 4, 15, 17]])


def padded(seed=0):
    """Random pictures whose mask is the parity of the red channel, zero / 255 outside their boxes."""
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    masks = images[:, 0] % 2
    for i, (top, left, height, width) in enumerate(BOXES.tolist()):
        inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        images[i] *= inside
        masks[i][~inside] = 255
    return images, masks


def crops(left=0.0, top=0.0, width=1.0, height=1.0, flip=False):
    shares = [torch.full((4,), v, dtype=torch.float64) for v in (left, top, width, height)]
    return Crops(*shares, flip=torch.full((4,), flip))


def picture(tensor, i):
    top, left, height, width = BOXES[i].tolist()
    return tensor[i][..., top : top + height, left : left + width]


def test_whole_picture_without_flip_is_returned_exactly():
    images, masks = padded()
    out, truth = augment(images, masks, BOXES, crops())
    assert torch.equal(out, images.float() / 255)
    assert torch.equal(truth, masks)


@pytest.mark.parametrize("size", [8, 64, 128, 224, 512])
def test_exact_at_every_size(size):
    torch.manual_seed(1)
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    masks = images[:, 0] % 2
    whole = Crops(*(torch.tensor([v], dtype=torch.float64) for v in (0, 0, 1, 1)), flip=torch.tensor([True]))
    out, truth = augment(images, masks, torch.tensor([[0, 0, size, size]]), whole)
    assert torch.equal(out, images.flip(-1).float() / 255)
    assert torch.equal(truth, masks.flip(-1))


def test_flip_mirrors_the_picture_inside_its_box():
    images, masks = padded()
    out, truth = augment(images, masks, BOXES, crops(flip=True))
    for i in range(4):
        assert torch.equal(picture(out, i), picture(images, i).flip(-1).float() / 255)
        assert torch.equal(picture(truth, i), picture(masks, i).flip(-1))


def test_crop_is_a_bilinear_resize_of_the_cut_out_part():
    """Against torch's interpolation; the rim differs, since ours sees the pixels beyond the cut and theirs does not."""
    images, masks = padded()
    out, truth = augment(images, masks, BOXES, crops(left=0.25, top=1 / 3, width=0.5, height=0.5))
    whole = 2  # the picture without padding: columns 6 to 17, rows 8 to 19
    cut = images[whole, :, 8:20, 6:18].float()[None]
    expected = F.interpolate(cut, size=(SIZE, SIZE), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(out[whole, :, 1:-1, 1:-1] * 255, expected[:, 1:-1, 1:-1], rtol=0, atol=0.51)
    nearest = F.interpolate(masks[whole, 8:20, 6:18][None, None].float(), size=(SIZE, SIZE), mode="nearest")[0, 0]
    assert torch.equal(truth[whole].float(), nearest)


def test_padding_stays_zero_and_not_counted():
    images, masks = padded()
    drawn = draw_crops(4, 0.5, 0.5, generator(3, "augment", 0))
    out, truth = augment(images, masks, BOXES, drawn)
    outside = masks == 255
    assert (out.movedim(1, -1)[outside] == 0).all() and (truth[outside] == 255).all()
    assert (truth[~outside] != 255).all()


def test_padding_does_not_darken_the_picture():
    images, masks = padded()
    images[:] = torch.where((masks == 255)[:, None], 0, 200).to(torch.uint8)
    out, truth = augment(images, masks, BOXES, draw_crops(4, 0.5, 0.5, generator(4)))
    assert (out.movedim(1, -1)[truth != 255] * 255 == 200).all()


def test_mask_follows_the_image():
    """Masks that are thresholded smooth images stay so, except where the image is near the threshold."""
    y, x = np.mgrid[0:64, 0:64] / 64
    levels = (127.5 + 127.5 * np.sin(7 * x + 3 * y)).round().astype(np.uint8)
    images = torch.from_numpy(levels)[None, None].repeat(32, 3, 1, 1)
    masks = (images[:, 0] > 127).to(torch.uint8)
    drawn = draw_crops(32, 0.5, 0.5, generator(0))
    out, truth = augment(images, masks, torch.tensor([[0, 0, 64, 64]]).repeat(32, 1), drawn)
    level = out[:, 0] * 255
    sure = (level - 127.5).abs() > 20
    assert sure.float().mean() > 0.7
    assert torch.equal((level > 127.5)[sure], (truth == 1)[sure])
    assert not torch.equal(truth, masks)


def test_void_pixels_move_with_the_picture():
    images, masks = padded()
    masks[2, 3, 5] = 255
    _, truth = augment(images, masks, BOXES, crops(flip=True))
    assert truth[2, 3, SIZE - 1 - 5] == 255 and truth[2, 3, 5] != 255


def test_sizes_of_drawn_crops():
    drawn = draw_crops(20_000, 0.3, 0.5, generator(0))
    area, aspect = drawn.width * drawn.height, drawn.width / drawn.height
    assert area.min() >= 0.5 - 1e-12 and area.max() <= 1
    assert aspect.min() >= 3 / 4 - 1e-12 and aspect.max() <= 4 / 3 + 1e-12
    assert aspect.min() < 0.77 and aspect.max() > 1.3 and area.min() < 0.51 and area.max() > 0.99
    assert (drawn.left >= 0).all() and (drawn.left + drawn.width <= 1 + 1e-12).all()
    assert (drawn.top >= 0).all() and (drawn.top + drawn.height <= 1 + 1e-12).all()
    assert drawn.flip.double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert area.mean().item() == pytest.approx(0.75, abs=0.01)  # uniform in [0.5, 1]
    assert aspect.log().mean().item() == pytest.approx(0, abs=0.01)  # as often wider as higher


def test_no_cropping_and_no_flipping_on_demand():
    drawn = draw_crops(100, 0.0, 1.0, generator(0))
    assert (drawn.width == 1).all() and (drawn.height == 1).all() and not drawn.flip.any()
    assert draw_crops(100, 1.0, 1.0, generator(0)).flip.all()


def test_draws_are_a_function_of_the_seed_and_differ_by_image_and_step():
    first, again, later = (draw_crops(8, 0.5, 0.5, generator(0, "augment", s)) for s in (5, 5, 6))
    assert torch.equal(first.left, again.left) and torch.equal(first.flip, again.flip)
    assert not torch.equal(first.left, later.left)
    assert len(set(first.width.tolist())) == 8
    assert math.isclose(float(first.width.max()), float(again.width.max()))
