"""The augmentation of P2 beyond the horizontal flip: vertical flip, rotation, Gaussian blur [P2 §V-B].

Its text names the operations and says that they were chosen at random; *open*: each on its own, angles within a quarter
turn, deviations of the blur as for BYOL and SimCLR. Why by hand: torchvision applies one draw to a whole batch, kornia
is not on every GPU machine, and neither takes a generator. The tests compare with torchvision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.losses.dice import IGNORED

LARGEST_ANGLE = 90.0
SIGMAS = (0.1, 2.0)
RADIUS = 6  # three of the largest deviations


@dataclass(frozen=True)
class Warps:
    """What is done to each of N pictures, on the CPU: `upside_down` bool [N]; `angle` float64 [N], counter-clockwise in
    degrees; `sigma` float64 [N], deviation of the blur in pixels. 0: nothing."""

    upside_down: Tensor
    angle: Tensor
    sigma: Tensor


def draw_warps(count: int, vertical_flip: float, rotation: float, blur: float, generator: torch.Generator) -> Warps:
    """Random warps; the arguments are probabilities. A function of the CPU generator's state alone."""
    u_flip, u_rotate, u_angle, u_blur, u_sigma = torch.rand(5, count, generator=generator, dtype=torch.float64)
    least, most = SIGMAS
    return Warps(
        upside_down=u_flip < vertical_flip,
        angle=torch.where(u_rotate < rotation, LARGEST_ANGLE * (2 * u_angle - 1), 0.0),
        sigma=torch.where(u_blur < blur, least + (most - least) * u_sigma, 0.0),
    )


def warp(images: Tensor, masks: Tensor, warps: Warps) -> tuple[Tensor, Tensor]:
    """Flip, rotate and blur images, and masks alike but for the blur.

    Args:
        images: float32 [N, 3, S, S] in [0, 1].
        masks: uint8 [N, S, S] (0, 1, 255), on the device of `images`.

    Returns:
        New tensors, or the given ones where nothing was drawn. What a rotation brings in from outside is zero and not
        counted (255).
    """
    if rows := _drawn(warps.upside_down):
        images, masks = images.clone(), masks.clone()
        images[rows], masks[rows] = images[rows].flip(-2), masks[rows].flip(-2)
    if rows := _drawn(warps.angle != 0):
        images, masks = images.clone(), masks.clone()
        images[rows], masks[rows] = rotate(images[rows], masks[rows], warps.angle[rows])
    if rows := _drawn(warps.sigma > 0):
        images = images.clone()
        images[rows] = blur(images[rows], warps.sigma[rows])
    return images, masks


def rotate(images: Tensor, masks: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Turn about the middle by `angles` [N] degrees: images bilinearly, masks by the nearest pixel."""
    radians = angles * (math.pi / 180)
    zero = torch.zeros_like(radians)
    turn = torch.stack([radians.cos(), -radians.sin(), zero, radians.sin(), radians.cos(), zero], dim=1)
    matrices = turn.view(-1, 2, 3).to(images.device, images.dtype)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    outside = (grid.abs() > 1).any(dim=-1)
    pictures = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    truth = F.grid_sample(masks[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return pictures.masked_fill(outside[:, None], 0), truth[:, 0].byte().masked_fill(outside, IGNORED)


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Convolve with Gaussians of deviations `sigmas` [N] in pixels; the picture is mirrored beyond its border."""
    count, channels, height, width = images.shape
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=sigmas.dtype)
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(images.device, images.dtype)
    kernel = weights.repeat_interleave(channels, dim=0)[:, None]
    planes = F.pad(images, [RADIUS] * 4, mode="reflect").reshape(1, count * channels, height + 2 * RADIUS, -1)
    planes = F.conv2d(planes, kernel[:, :, None, :], groups=count * channels)
    planes = F.conv2d(planes, kernel[:, :, :, None], groups=count * channels)
    return planes.view(count, channels, height, width)


def _drawn(which: Tensor) -> list[int]:
    return [int(row) for row in which.nonzero()[:, 0]]
