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
    top, left, high, wide = boxes.double().unsqueeze(-1).unbind(1)
    aspect, by_height, by_top, by_left = torch.rand(
        (4, len(boxes), TRIES), generator=generator, dtype=torch.float64
    ).unbind()
    aspect = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * aspect
    lowest = (AREA[0] * high * wide / aspect).sqrt().round()
    highest = torch.minimum((AREA[1] * high * wide / aspect).sqrt(), torch.minimum(high, wide / aspect)).floor()
    height = _integer(by_height, lowest, highest)
    width = (height * aspect).round()
    area = height * width / (high * wide)
    fits = (highest >= lowest) & (height >= 1) & (width >= 1) & (height <= high) & (width <= wide)
    fits &= (area >= LEAST_COVERAGE) & (area <= AREA[1])
    crops = torch.stack(
        [top + _integer(by_top, 0.0, high - height), left + _integer(by_left, 0.0, wide - width), height, width], dim=2
    )
    first = fits.int().argmax(dim=1)
    chosen = crops[torch.arange(len(boxes)), first].long()
    return torch.where(fits.any(dim=1, keepdim=True), chosen, boxes)


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
    side = images.shape[-1]
    maps = move(_affine(crops, flips, side), images.device)
    grid = F.affine_grid(maps, [views * count, 3, size, size], align_corners=False)
    # One tall picture per image holds all its crops, so that the images need no repeating.
    tall = grid.view(views, count, size, size, 2).transpose(0, 1).reshape(count, views * size, size, 2)
    pixels = F.grid_sample(_with_edges(images, boxes), tall, mode=mode, padding_mode="border", align_corners=False)
    pixels = pixels.view(count, 3, views, size, size).permute(2, 0, 1, 3, 4).reshape(-1, 3, size, size)
    return pixels.div_(255).clamp_(0, 1)


def _affine(crops: Tensor, flips: Tensor, side: int) -> Tensor:
    """Maps [-1, 1] of the output to the crop in [-1, 1] of the square: [K * N, 2, 3]."""
    top, left, height, width = crops.flatten(0, 1).double().div(side).unbind(1)
    theta = torch.zeros(len(top), 2, 3, dtype=torch.float64)
    theta[:, 0, 0] = torch.where(flips.flatten(), -width, width)
    theta[:, 0, 2] = 2 * left + width - 1
    theta[:, 1, 1] = height
    theta[:, 1, 2] = 2 * top + height - 1
    return theta.float()


def _with_edges(images: Tensor, boxes: Tensor) -> Tensor:
    """Float images whose outermost picture pixels are repeated into the padding as far as the kernel reaches."""
    side = images.shape[-1]
    pixels = images.to(torch.float32, copy=True)
    for picture, (top, left, height, width) in zip(pixels, boxes.tolist(), strict=True):
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
