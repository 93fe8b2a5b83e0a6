"""Local pixel shuffling, in-painting, out-painting [P1 §2.2; conrec: augmentations/masking.py, after Models Genesis].

Each view gets one of the three kinds. The rules work in whole pixels: a share of the side is cut to an integer, and the
upper end of a range is never drawn. torchvision and kornia have neither of them (random erasing paints a single block).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.devices import move

SMALLEST_SIDE = 32  # below, the windows of out-painting no longer fit between the borders
KINDS = ("shuffle", "in-paint", "out-paint")
PROBABILITIES = (0.33, 0.33, 0.34)
_SHUFFLED = 255  # in a region map; 1, 2, ... is the number of the colour that is painted
_BLOCKS = 15
_COLORS = 5
_BORDER = 3

Block = tuple[int, int, int, int]  # top, left, height, width
Map = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskDraws:
    """Masks of V views as lists of pixels, CPU tensors. Pixels of a view are numbered row by row.

    kinds: int64 [V], the place in KINDS; masked: bool [V, 1, H, W]; shuffled: int64 [3, A], (view, pixel, pixel that is
    read); painted: int64 [3, B], (view, pixel, row of colors); colors: float32 [V * 5, 3].
    """

    kinds: Tensor
    masked: Tensor
    shuffled: Tensor
    painted: Tensor
    colors: Tensor


class Masked(NamedTuple):
    """images: x, float32 [V, 3, H, W]; mask: M, float32 [V, 1, H, W], 1 where x is not the picture."""

    images: Tensor
    mask: Tensor


def draw_masks(count: int, size: int, generator: torch.Generator) -> MaskDraws:
    """Masks for `count` square views of side `size`, each on its own.

    Raises:
        ValueError: a side below 32 pixels.
    """
    if size < SMALLEST_SIDE:
        raise ValueError(f"masks need views of at least {SMALLEST_SIDE} pixels a side, but got {size}")
    shares = torch.tensor(PROBABILITIES, dtype=torch.float64)
    kinds = torch.multinomial(shares, count, replacement=True, generator=generator)
    uniform = torch.rand((count, _BLOCKS, 5), generator=generator, dtype=torch.float64).numpy()
    colors = torch.rand((count * _COLORS, 3), generator=generator)
    regions = np.zeros((count, size, size), dtype=np.uint8)
    sources = np.zeros((count, size, size), dtype=np.int64)
    for view, kind in enumerate(kinds.tolist()):
        if KINDS[kind] == "shuffle":
            _shuffle(regions[view], sources[view], uniform[view], generator)
        elif KINDS[kind] == "in-paint":
            _inpaint(regions[view], uniform[view])
        else:
            _outpaint(regions[view], uniform[view])
    return _as_draws(kinds, regions.reshape(count, -1), sources.reshape(count, -1), colors, size)


def _shuffle(region: Map, source: NDArray[np.int64], uniform: NDArray[np.float64], generator: torch.Generator) -> None:
    size = len(region)
    pixels = np.arange(size * size).reshape(size, size)
    sides = (1, int(0.2 * size))
    for top, left, height, width in _blocks(uniform, size, sides, border=0, go_on=0.99):
        block = np.s_[top : top + height, left : left + width]
        order = torch.randperm(height * width, generator=generator).numpy()
        source[block] = pixels[block].ravel()[order].reshape(height, width)
        region[block] = _SHUFFLED


def _inpaint(region: Map, uniform: NDArray[np.float64]) -> None:
    size = len(region)
    sides = (int(0.14 * size), int(0.2 * size))
    for number, (top, left, height, width) in enumerate(
        _blocks(uniform[:_COLORS], size, sides, border=_BORDER, go_on=0.95)
    ):
        region[top : top + height, left : left + width] = 1 + number


def _outpaint(region: Map, uniform: NDArray[np.float64]) -> None:
    size = len(region)
    cut = (2 * size // 7, 3 * size // 7)
    sides = (size - cut[1] + 1, size - cut[0] + 1)  # size - randint(cut)
    region[:] = 1
    uniform[0, 0] = 0.0  # the first window is certain
    for top, left, height, width in _blocks(uniform[:5], size, sides, border=_BORDER, go_on=0.95):
        region[top : top + height, left : left + width] = 0


def _blocks(
    uniform: NDArray[np.float64], size: int, sides: tuple[int, int], border: int, go_on: float
) -> Iterator[Block]:
    """Blocks from rows of five uniform numbers, until one of them says stop."""
    for proceed, *numbers in uniform.tolist():
        if proceed >= go_on:
            return
        height = _randint(numbers[0], *sides)
        width = _randint(numbers[1], *sides)
        top = _randint(numbers[2], border, size - height - border)
        left = _randint(numbers[3], border, size - width - border)
        yield top, left, height, width


def _randint(uniform: float, low: int, high: int) -> int:
    return low + int(uniform * (high - low))


def _as_draws(kinds: Tensor, regions: Map, sources: NDArray[np.int64], colors: Tensor, size: int) -> MaskDraws:
    shuffled = np.nonzero(regions == _SHUFFLED)
    painted = np.nonzero((regions > 0) & (regions < _SHUFFLED))
    rows = painted[0] * _COLORS + regions[painted] - 1
    return MaskDraws(
        kinds=kinds,
        masked=torch.from_numpy(regions != 0).view(-1, 1, size, size),
        shuffled=torch.from_numpy(np.stack([*shuffled, sources[shuffled]])),
        painted=torch.from_numpy(np.stack([*painted, rows])),
        colors=colors,
    )


def apply_masks(images: Tensor, draws: MaskDraws) -> Masked:
    """Mask views [V, 3, H, W]; gives new tensors on their device. Shuffled pixels are always read from `images`."""
    device = images.device
    view, pixel, origin = move(draws.shuffled, device)
    painted_view, painted_pixel, row = move(draws.painted, device)
    before = images.flatten(2)
    after = before.clone()
    after[view, :, pixel] = before[view, :, origin]
    after[painted_view, :, painted_pixel] = move(draws.colors, device)[row]
    return Masked(after.view_as(images), move(draws.masked, device).to(images.dtype))
