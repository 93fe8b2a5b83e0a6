"""The deformations of Models Genesis [genesis: config.py, utils.py; P1 §4]: what the network sees, and is to undo.

In this order, each cube on its own: flips (of target and input alike), local pixel shuffling, an intensity curve, and
in- or out-painting with noise. Ranges are in whole voxels and hold both ends. All random numbers are drawn on the CPU.
Elastic or intensity transforms of MONAI or torchio exist, but neither library has these four.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.context import StageError
from trainables.devices import move
from trainables.settings.pretexts import ModelsGenesisSettings

SMALLEST_SIDE = 16  # below, the windows of out-painting no longer fit between the borders
MOST_FLIPS = 3
SHUFFLED_BLOCKS = 10_000
_LARGEST_BLOCK = 10  # a shuffled block has at most a tenth of each side
_PAINTED, _GO_ON, _BORDER = 5, 0.95, 3
_CURVE_POINTS, _CELLS = 1000, 4096

Sides = tuple[int, int, int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Deformations:
    """What happens to N cubes of V = X * Y * Z voxels; CPU tensors. A voxel's number counts z fastest.

    flipped: int64, for x and y the numbers of the cubes that are flipped along it; shuffled: int64 [A], numbers of
    cubes, and sources: int32 [A, V], the voxel that each takes its value from; bent: int64 [B], and curves: float32
    [B, cells + 1], the new intensity of 0, 1 / cells, ... 1; painted: int64 [C], noise: float32 [C, X, Y, Z] in [0, 1),
    and where it stands: bool [C, X, Y, Z].
    """

    flipped: tuple[Tensor, Tensor]
    shuffled: Tensor
    sources: Tensor
    bent: Tensor
    curves: Tensor
    painted: Tensor
    noise: Tensor
    where: Tensor


def draw_deformations(
    count: int, sides: Sides, settings: ModelsGenesisSettings, generator: torch.Generator
) -> Deformations:
    """Deformations of `count` cubes.

    Raises:
        StageError: a side below 16 voxels.
    """
    if min(sides) < SMALLEST_SIDE:
        shown = " x ".join(map(str, sides))
        raise StageError(f"models-genesis: expected cubes of at least {SMALLEST_SIDE} voxels a side, but got {shown}")
    chances = torch.rand(4, count, generator=generator, dtype=torch.float64)
    shuffled, bent, painted = (
        (chances[row] < share).nonzero()[:, 0]
        for row, share in enumerate((settings.shuffle, settings.nonlinear, settings.paint))
    )
    outside = (chances[3] < settings.outpaint)[painted].tolist()
    flipped = _flips(count, settings.flip, generator)
    sources = [shuffled_sources(sides, generator) for _ in shuffled]
    curves = [intensity_curve(generator) for _ in bent]
    where = [_outside_windows(sides, generator) if out else _inside_blocks(sides, generator) for out in outside]
    return Deformations(
        flipped=flipped,
        shuffled=shuffled,
        sources=_stacked(sources, (int(np.prod(sides)),), np.int32),
        bent=bent,
        curves=_stacked(curves, (_CELLS + 1,), np.float32),
        painted=painted,
        noise=torch.rand((len(painted), *sides), generator=generator),
        where=_stacked(where, sides, np.bool_),
    )


def deform(cubes: Tensor, draws: Deformations) -> tuple[Tensor, Tensor]:
    """(input, target) of cubes float [N, 1, X, Y, Z] in [0, 1], on their device: new tensors of the same shape."""
    device = cubes.device
    target = cubes[:, 0].clone()
    for axis, numbers in enumerate(draws.flipped):
        numbers = move(numbers, device)
        target[numbers] = target[numbers].flip(axis + 1)
    x = target.clone()
    shuffled = move(draws.shuffled, device)
    before = x[shuffled]
    x[shuffled] = before.flatten(1).gather(1, move(draws.sources, device).long()).view_as(before)
    bent = move(draws.bent, device)
    x[bent] = bend(x[bent], move(draws.curves, device))
    painted = move(draws.painted, device)
    x[painted] = torch.where(move(draws.where, device), move(draws.noise, device).to(x.dtype), x[painted])
    return x[:, None], target[:, None]


def bend(cubes: Tensor, curves: Tensor) -> Tensor:
    """Intensities in [0, 1] of cubes [B, X, Y, Z] through their curves [B, cells + 1], linear between its points."""
    place = cubes.flatten(1).clamp(0, 1) * (curves.shape[1] - 1)
    left = place.long().clamp(max=curves.shape[1] - 2)
    share = place - left
    bent = curves.gather(1, left) * (1 - share) + curves.gather(1, left + 1) * share
    return bent.view_as(cubes)


def shuffled_sources(sides: Sides, generator: torch.Generator) -> NDArray[np.int32]:
    """For each voxel the one whose value it takes: 10,000 blocks, each permuted within itself.

    Blocks are read from the original, so where they overlap the last one stands. A random order of all voxels of all
    blocks, sorted by block, is a random order within each.
    """
    limits = np.array(sides)
    uniform = torch.rand((2, SHUFFLED_BLOCKS, 3), generator=generator, dtype=torch.float64).numpy()
    size = _whole(uniform[0], 1, np.maximum(1, limits // _LARGEST_BLOCK))
    start = _whole(uniform[1], 0, limits - size)
    counts = size.prod(axis=1)
    block = np.repeat(np.arange(SHUFFLED_BLOCKS, dtype=np.uint16), counts)
    within = np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
    depth, height = size[block, 2], size[block, 1]
    x, rest = np.divmod(within, height * depth)
    y, z = np.divmod(rest, depth)
    first = (start[:, 0] * sides[1] + start[:, 1]) * sides[2] + start[:, 2]
    voxel = (first[block] + (x * sides[1] + y) * sides[2] + z).astype(np.int32)
    order = torch.randperm(len(block), generator=generator).numpy()
    taken = order[np.argsort(block[order], kind="stable")]
    sources = np.arange(int(limits.prod()), dtype=np.int32)
    sources[voxel] = voxel[taken]
    return sources


def intensity_curve(generator: torch.Generator) -> NDArray[np.float32]:
    """New intensities of 0, 1 / cells, ... 1: a cubic Bezier curve from (0, 0) by two random points to (1, 1).

    Half of the time it runs from (0, 1) to (1, 0), which turns bright and dark around.
    """
    *points, turned = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    t = np.linspace(0, 1, _CURVE_POINTS)
    near, far, end = 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    x, y = (near * points[axis] + far * points[axis + 2] + end for axis in (0, 1))
    if turned < 0.5:
        y = y[::-1]  # x and y rise with t, so this is what sorting x alone gives in the original
    curve: NDArray[np.float32] = np.interp(np.linspace(0, 1, _CELLS + 1), x, y).astype(np.float32)
    return curve


def _flips(count: int, go_on: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to three flips, each with probability `go_on` after the one before, along a random axis of [1, X, Y, Z] but
    the last: that of the channel changes nothing, and z is never flipped."""
    chance = torch.rand((count, MOST_FLIPS), generator=generator, dtype=torch.float64)
    axis = torch.randint(0, 3, (count, MOST_FLIPS), generator=generator)
    done = (chance < go_on).int().cumprod(dim=1).bool()
    x, y = (((done & (axis == along)).sum(dim=1) % 2).nonzero()[:, 0] for along in (1, 2))
    return x, y


def _inside_blocks(sides: Sides, generator: torch.Generator) -> NDArray[np.bool_]:
    """In-painting: up to five blocks of noise, possibly none."""
    noise = np.zeros(sides, np.bool_)
    limits = np.array(sides)
    for box in _boxes(limits, limits // 6, limits // 3, 0, generator):
        noise[box] = True
    return noise


def _outside_windows(sides: Sides, generator: torch.Generator) -> NDArray[np.bool_]:
    """Out-painting: noise but for one to five windows."""
    noise = np.ones(sides, np.bool_)
    limits = np.array(sides)
    for box in _boxes(limits, limits - 4 * limits // 7, limits - 3 * limits // 7, 1, generator):
        noise[box] = False
    return noise


def _boxes(
    limits: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    certain: int,
    generator: torch.Generator,
) -> Iterator[Box]:
    """Up to five boxes with sides in [low, high], three voxels from the border; the first `certain` always come."""
    uniform = torch.rand((_PAINTED, 7), generator=generator, dtype=torch.float64).numpy()
    for number, row in enumerate(uniform):
        if number >= certain and row[6] >= _GO_ON:
            return
        size = _whole(row[:3], low, high)
        start = _whole(row[3:6], _BORDER, limits - size - _BORDER)
        x, y, z = (slice(s, s + n) for s, n in zip(start.tolist(), size.tolist(), strict=True))
        yield x, y, z


def _whole(
    uniform: NDArray[np.float64], low: int | NDArray[np.int64], high: int | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Whole numbers in [low, high] from uniform ones in [0, 1)."""
    return low + (uniform * (high - low + 1)).astype(np.int64)


def _stacked(arrays: Sequence[NDArray[Any]], shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.stack(arrays) if arrays else np.zeros((0, *shape), dtype))
