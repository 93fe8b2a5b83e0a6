"""Finetuning augmentation [P1 §2.3]: horizontal flip and a random crop, for a whole batch at once, on its device.

The crop covers at least `crop_area` of the picture and changes its aspect ratio by at most 3/4 to 4/3; it is stretched
back over the picture's box inside the padded square, so padding stays what and where it was. A crop is never smaller
than asked, so bilinear sampling needs no antialiasing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.devices import move
from trainables.losses.dice import IGNORED

MAX_ASPECT_CHANGE = 4 / 3


@dataclass(frozen=True)
class Crops:
    """One crop per image, float64 [N] each, as shares of the picture's sides; `flip` bool [N], after the crop."""

    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor
    flip: Tensor


def draw_crops(count: int, flip: float, crop_area: float, generator: torch.Generator) -> Crops:
    """Random crops: area uniform in [crop_area, 1]; aspect change log-uniform in the part of [3/4, 4/3] that fits.

    Args:
        count: number of images.
        flip: probability of a horizontal flip.
        crop_area: least area of a crop as a share of the picture's, in (0, 1].
        generator: CPU generator; the draws are a function of its seed alone.
    """
    u_area, u_aspect, u_left, u_top, u_flip = torch.rand(5, count, generator=generator, dtype=torch.float64)
    area = crop_area + (1 - crop_area) * u_area
    # A share q wider and 1/q lower fits while sqrt(area * q) and sqrt(area / q) are at most 1.
    largest = torch.minimum(torch.full_like(area, math.log(MAX_ASPECT_CHANGE)), -area.log())
    aspect = ((2 * u_aspect - 1) * largest).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    return Crops(u_left * (1 - width), u_top * (1 - height), width, height, u_flip < flip)


def augment(images: Tensor, masks: Tensor, boxes: Tensor, crops: Crops) -> tuple[Tensor, Tensor]:
    """Crop, stretch back and flip images and masks alike.

    Args:
        images: uint8 [N, 3, S, S].
        masks: uint8 [N, S, S] (0, 1, 255), on the device of `images`.
        boxes: int64 [N, 4] on the CPU: top, left, height, width of the picture in its square.
        crops: what to cut out of each picture.

    Returns:
        Images as float32 in [0, 1] (bilinear, rounded to 1/255 as 8-bit images are), masks uint8 (nearest).
    """
    size, device = images.shape[-1], images.device
    top, left, height, width = boxes.double().unbind(1)
    never = torch.zeros_like(crops.flip)
    x, inside_x = _sources(size, left, width, crops.left, crops.width, crops.flip)
    y, inside_y = _sources(size, top, height, crops.top, crops.height, never)
    x, y = move(x, device), move(y, device)
    inside = move(inside_y, device)[:, :, None] & move(inside_x, device)[:, None, :]

    grid = torch.stack([_normalised(x, size)[:, None, :].expand(-1, size, -1),
                        _normalised(y, size)[:, :, None].expand(-1, -1, size)], dim=-1)  # fmt: skip
    sampled = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=True)
    sampled = sampled.round_().mul_(inside[:, None]).div_(255)
    pixels = (y.round().long() * size)[:, :, None] + x.round().long()[:, None, :]
    picked = masks.flatten(1).gather(1, pixels.flatten(1)).view_as(masks)
    return sampled, picked.masked_fill_(~inside, IGNORED)


def _sources(
    size: int, start: Tensor, length: Tensor, crop_start: Tensor, crop_share: Tensor, flip: Tensor
) -> tuple[Tensor, Tensor]:
    """For each target pixel along one axis the source position (float32, in pixels), and whether it is in the box.

    Positions are kept inside the box, so that the picture's rim does not mix with the padding.
    """
    start, length = start[:, None], length[:, None]
    pixel = torch.arange(size, dtype=torch.float64).expand(len(start), size)
    inside = (pixel >= start) & (pixel < start + length)
    target = torch.where(flip[:, None], 2 * start + length - 1 - pixel, pixel)
    source = start + crop_start[:, None] * length + crop_share[:, None] * (target + 0.5 - start) - 0.5
    return torch.minimum(torch.maximum(source, start), start + length - 1).float(), inside


def _normalised(position: Tensor, size: int) -> Tensor:
    """Pixel positions as grid_sample wants them (align_corners: -1 and 1 are the outer pixels' centres)."""
    return position * (2 / (size - 1)) - 1
