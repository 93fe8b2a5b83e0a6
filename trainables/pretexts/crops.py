"""Random resized crops of a whole batch in one resampling [conrec: augmentations/contrastive.py].

Why by hand: the pictures sit in padded squares, and neither torchvision's nor kornia's RandomResizedCrop can keep its
crops inside a picture of the batch. Both take their draws from the global generator only, and torchvision draws one
crop for all images of a batch. Times: tests/benchmarks/augmentation.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.devices import move

AREA = (0.08, 1.0)
LEAST_COVERAGE = 0.1
ASPECT = (3 / 4, 4 / 3)
TRIES = 100
_USUAL_TRIES = 8  # after which hardly a picture is without a crop
_REACH = 2  # pixels that the bicubic kernel may look beyond the outermost sample


def draw_crops(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """One random crop for each picture, aspect ratio relative to a square target.

    The aspect ratio is uniform, then the height is uniform among the integers that keep area and picture, as TensorFlow
    draws them (torchvision draws the area uniformly). Where no draw fits, the whole picture.

    Args:
        boxes: int64 [N, 4] (top, left, height, width) of each picture inside its padded square, on the CPU.

    Returns:
        int64 [N, 4] (top, left, height, width), inside the boxes.
    """
    uniform = torch.rand((4, len(boxes), TRIES), generator=generator, dtype=torch.float64)
    crops, fits = _first_that_fits(boxes, uniform[..., :_USUAL_TRIES])
    if not fits.all():
        crops, fits = _first_that_fits(boxes, uniform)
    return torch.where(fits, crops, boxes)


def _first_that_fits(boxes: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first crop of each picture that keeps area and picture: int64 [N, 4], and whether there is one, [N, 1]."""
    top, left, high, wide = boxes.double().unsqueeze(-1).unbind(1)
    aspect, by_height, by_top, by_left = uniform.unbind()
    aspect = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * aspect
    lowest = (AREA[0] * high * wide / aspect).sqrt().round()
    highest = torch.minimum((AREA[1] * high * wide / aspect).sqrt(), torch.minimum(high, wide / aspect)).floor()
    height = _integer(by_height, lowest, highest)
    width = (height * aspect).round()
    area = height * width / (high * wide)
    fits = (highest >= lowest) & (height >= 1) & (width >= 1) & (height <= high) & (width <= wide)
    fits &= (area >= LEAST_COVERAGE) & (area <= AREA[1])
    first = fits.int().argmax(dim=1, keepdim=True)
    by_top, by_left, height, width = (tries.gather(1, first) for tries in (by_top, by_left, height, width))
    chosen = torch.cat(
        [top + _integer(by_top, 0.0, high - height), left + _integer(by_left, 0.0, wide - width), height, width], dim=1
    )
    return chosen.long(), fits.any(dim=1, keepdim=True)


def _integer(uniform: Tensor, lowest: Tensor | float, highest: Tensor) -> Tensor:
    """A uniform integer of lowest..highest, both included, from a uniform number in [0, 1)."""
    return lowest + (uniform * (highest - lowest + 1)).floor()


def resample(
    images: Tensor, boxes: Tensor, crops: Tensor, flips: Tensor, size: int, *, mode: str = "bicubic"
) -> Tensor:
    """Cut, mirror and resize: bicubic (a = -0.75) or bilinear, without antialiasing, values in [0, 1].

    Args:
        images: [N, 3, S, S] with values 0 to 255, on the device that computes.
        boxes: int64 [N, 4] of the pictures in the squares, on the CPU.
        crops: int64 [K, N, 4], K crops of each image, on the CPU.
        flips: bool [K, N], on the CPU.

    Returns:
        float32 [K * N, 3, size, size]: all first crops, then all second ones.
    """
    views, count = flips.shape
    grid = _grid(crops, flips, images.shape[-1], size, images.device)
    sampled = F.grid_sample(_with_edges(images, boxes), grid, mode=mode, padding_mode="border", align_corners=False)
    pixels = torch.empty((views, count, 3, size, size), dtype=torch.float32, device=images.device)
    torch.div(sampled.view(count, 3, views, size, size).permute(2, 0, 1, 3, 4), 255, out=pixels)
    return pixels.clamp_(0, 1).flatten(0, 1)


def _grid(crops: Tensor, flips: Tensor, side: int, size: int, device: torch.device) -> Tensor:
    """Where grid_sample is to look: [N, K * size, size, 2]. One tall picture per image holds all its crops, so that the
    images need no repeating.

    What `F.affine_grid` gives, but a crop is not turned, so columns and rows are computed each for itself.
    """
    top, left, height, width = crops.transpose(0, 1).double().div(side).unbind(2)
    targets = torch.linspace(-1, 1, size) * (size - 1) / size
    slopes = torch.where(flips.T, -width, width), height
    x, y = (
        move(targets * slope.float()[..., None] + (2 * start + length - 1).float()[..., None], device)
        for slope, start, length in zip(slopes, (left, top), (width, height), strict=True)
    )
    grid = torch.empty((*crops.shape[1::-1], size, size, 2), dtype=torch.float32, device=device)
    grid[..., 0], grid[..., 1] = x[:, :, None, :], y[:, :, :, None]
    return grid.flatten(1, 2)


def _with_edges(images: Tensor, boxes: Tensor) -> Tensor:
    """Float images whose outermost picture pixels are repeated into the padding as far as the kernel reaches."""
    side = images.shape[-1]
    padded = (boxes[:, 2:] < side).any(dim=1).nonzero()[:, 0].tolist()
    pixels = images.to(torch.float32, copy=bool(padded))
    for row in padded:
        picture, (top, left, height, width) = pixels[row], boxes[row].tolist()
        bottom, right = top + height, left + width
        if top > 0:
            picture[:, max(top - _REACH, 0) : top] = picture[:, top : top + 1]
        if bottom < side:
            picture[:, bottom : bottom + _REACH] = picture[:, bottom - 1 : bottom]
        if left > 0:
            picture[:, :, max(left - _REACH, 0) : left] = picture[:, :, left : left + 1]
        if right < side:
            picture[:, :, right : right + _REACH] = picture[:, :, right - 1 : right]
    return pixels
