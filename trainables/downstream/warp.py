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

from trainables.devices import move
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
    if (rows := _rows(warps.upside_down, images.device)) is not None:
        flipped = images.index_select(0, rows).flip(-2), masks.index_select(0, rows).flip(-2)
        images, masks = images.index_copy(0, rows, flipped[0]), masks.index_copy(0, rows, flipped[1])
    turned, blurred = warps.angle != 0, warps.sigma > 0
    if (rows := _rows(turned, images.device)) is not None:
        rotated = rotate(images.index_select(0, rows), masks.index_select(0, rows), warps.angle[turned])
        images, masks = images.index_copy(0, rows, rotated[0]), masks.index_copy(0, rows, rotated[1])
    if (rows := _rows(blurred, images.device)) is not None:
        images = images.index_copy(0, rows, blur(images.index_select(0, rows), warps.sigma[blurred]))
    return images, masks


def rotate(images: Tensor, masks: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Turn about the middle by `angles` [N] degrees, on the CPU: images bilinearly, masks by the nearest pixel."""
    radians = angles * (math.pi / 180)
    zero = torch.zeros_like(radians)
    turn = torch.stack([radians.cos(), -radians.sin(), zero, radians.sin(), radians.cos(), zero], dim=1)
    matrices = move(turn.view(-1, 2, 3).to(images.dtype), images.device)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    outside = (grid.abs() > 1).any(dim=-1)
    pictures = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    truth = F.grid_sample(masks[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return pictures.masked_fill(outside[:, None], 0), truth[:, 0].byte().masked_fill(outside, IGNORED)


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Convolve with Gaussians of deviations `sigmas` [N] in pixels, on the CPU; the picture is mirrored beyond its
    border."""
    count, channels, height, width = images.shape
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=sigmas.dtype)
    weights = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    weights = move((weights / weights.sum(dim=1, keepdim=True)).to(images.dtype), images.device)
    kernel = weights.repeat_interleave(channels, dim=0)[:, None]
    planes = F.pad(images, [RADIUS] * 4, mode="reflect").reshape(1, count * channels, height + 2 * RADIUS, -1)
    planes = F.conv2d(planes, kernel[:, :, None, :], groups=count * channels)
    planes = F.conv2d(planes, kernel[:, :, :, None], groups=count * channels)
    return planes.view(count, channels, height, width)


def _rows(chosen: Tensor, device: torch.device) -> Tensor | None:
    """Row numbers of a CPU mask, on the device; None for no row. Known on the CPU, so the device need not be asked."""
    rows = chosen.nonzero()[:, 0]
    return move(rows, device) if len(rows) else None
