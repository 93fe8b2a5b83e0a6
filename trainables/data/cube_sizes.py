"""Volumes made smaller, so that small profiles can train on the real ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.listing import DataError

Sides = tuple[int, int, int]
_CHUNK = 64  # volumes resized at a time


def shrink_cubes(cubes: Tensor, size: int) -> Tensor:
    """Volumes [N, X, Y, Z], bytes or halves, with a longest side of `size` voxels, by averaging. Never enlarged."""
    return _shrunk(cubes, size, lambda part, sides: F.adaptive_avg_pool3d(part[:, None].float(), sides)[:, 0])


def shrink_masks(masks: Tensor, size: int) -> Tensor:
    """Class numbers uint8 [N, X, Y, Z] to go with `shrink_cubes`: those of the nearest voxel."""
    return _shrunk(
        masks, size, lambda part, sides: F.interpolate(part[:, None].float(), sides, mode="nearest-exact")[:, 0]
    )


def _shrunk(volumes: Tensor, size: int, resize: Callable[[Tensor, Sides], Tensor]) -> Tensor:
    sides = _scaled(volumes, size)
    if sides == volumes.shape[1:]:
        return volumes
    parts = (resize(part, sides) for part in torch.split(volumes, _CHUNK))
    return torch.cat([part.to(volumes.dtype) if volumes.is_floating_point() else part.round().to(volumes.dtype)
                      for part in parts])  # fmt: skip


def _scaled(volumes: Tensor, size: int) -> Sides:
    """All sides in proportion. Raises DataError where one would be no whole number."""
    x, y, z = sides = volumes.shape[1:]
    longest = max(sides)
    if size >= longest:
        return x, y, z
    if odd := [side for side in sides if side * size % longest]:
        shown = " x ".join(map(str, sides))
        raise DataError(
            f"input_size {size}: volumes of {shown} voxels cannot be made so small, as the side of {odd[0]} would be "
            f"no whole number; expected a size such as {longest // 2}"
        )
    return x * size // longest, y * size // longest, z * size // longest
