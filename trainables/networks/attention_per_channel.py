"""Local attention with a softmax for each channel, as the code of [sasa] computes it, fast in memory.

Nothing is contracted over channels, so that there is no matrix product: the sums over the window are taken shift by
shift, in tiles that fit the cache, and the backward pass computes the weights again. Offsets depend on the row of the
window alone, or on its column, which is the same with the axes exchanged; so the largest logit, which the softmax takes
off, follows from the extremes of rows and needs no pass over the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHANNELS = 128  # of a tile on a CPU
# Bytes of a tile of queries: about ten of them fit a core's cache; one fills a GPU.
TILE_BYTES = {"cpu": 1 << 17, "cuda": 1 << 27}


def per_channel_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """For each channel: softmax over the window of query * (key + offset), times the values.

    Keys and values beyond the border are zero, but take part in the softmax.

    Args:
        query, key, value: [N, H, W, C].
        rows: [kernel, C / 2], offsets of the first half of the channels for the rows of the window; `kernel` is odd.
        columns: [kernel, C / 2], offsets of the second half for its columns.

    Returns:
        [N, H, W, C].
    """
    inputs = [x.chunk(2, dim=-1) for x in (query, key, value)]
    by_row: Tensor = _PerChannel.apply(*(x[0] for x in inputs), rows)
    by_column: Tensor = _PerChannel.apply(*(x[1].transpose(1, 2) for x in inputs), columns)
    return torch.cat([by_row, by_column.transpose(1, 2)], dim=-1)


class _Tile(NamedTuple):
    images: slice
    rows: slice
    channels: slice

    def of(self, x: Tensor, rim: int = 0) -> Tensor:
        """View of [N, H, W, C], with `rim` more rows."""
        return x[self.images, self.rows.start : self.rows.stop + rim, :, self.channels]


def _tiles(like: Tensor) -> Iterator[_Tile]:
    images, height, width, channels = like.shape
    device = like.device.type
    deep = min(channels, CHANNELS) if device == "cpu" else channels
    at_once = max(1, TILE_BYTES.get(device, TILE_BYTES["cuda"]) // (width * deep * like.element_size()))
    step, several = min(at_once, height), max(1, at_once // height)
    for i, c, y in product(range(0, images, several), range(0, channels, deep), range(0, height, step)):
        yield _Tile(slice(i, i + several), slice(y, min(y + step, height)), slice(c, c + deep))


def _extreme(pick: Callable[[Tensor, Tensor], Tensor], key: Tensor, offsets: Tensor) -> Tensor:
    """The largest (smallest) key + offset in the window of each query."""
    kernel, height, width = len(offsets), key.shape[1] - len(offsets) + 1, key.shape[2] - len(offsets) + 1
    across = key[:, :, :width]
    for dx in range(1, kernel):
        across = pick(across, key[:, :, dx : dx + width])
    both = across[:, :height] + offsets[0]
    for dy in range(1, kernel):
        both = pick(both, across[:, dy : dy + height] + offsets[dy])
    return both


class _PerChannel(torch.autograd.Function):
    """For maps [N, H, W, C] and offsets [kernel, C] of the window's rows."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
        kernel, width = len(offsets), query.shape[2]
        result, scale = (torch.empty_like(query, memory_format=torch.contiguous_format) for _ in range(2))
        padded_key, padded_value = _pad(key, kernel), _pad(value, kernel)
        for tile in _tiles(query):
            q = tile.of(query).contiguous()
            k, v = (tile.of(x, kernel - 1).contiguous() for x in (padded_key, padded_value))
            r, height = offsets[:, tile.channels], q.shape[1]
            least = torch.maximum(q * _extreme(torch.maximum, k, r), q * _extreme(torch.minimum, k, r)).neg_()
            total, mixed = torch.zeros_like(q), torch.zeros_like(q)
            base, weight = torch.empty_like(q), torch.empty_like(q)
            for dy in range(kernel):
                torch.addcmul(least, q, r[dy], out=base)
                for dx in range(kernel):
                    near = slice(None), slice(dy, dy + height), slice(dx, dx + width)
                    torch.addcmul(base, q, k[near], out=weight).exp_()
                    total += weight
                    mixed.addcmul_(weight, v[near])
            tile.of(result).copy_(mixed.div_(total))
            tile.of(scale).copy_(least.sub_(total.log_()))
        ctx.save_for_backward(query, key, value, offsets, result, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, offsets, result, scale = ctx.saved_tensors
        kernel, rim, (height, width) = len(offsets), len(offsets) // 2, query.shape[1:3]
        padded_key, padded_value = _pad(key, kernel), _pad(value, kernel)
        by_query, by_offset = torch.empty_like(result), torch.zeros_like(offsets)
        by_key, by_value = torch.zeros_like(padded_key), torch.zeros_like(padded_value)
        for tile in _tiles(query):
            q, g, out, s = (tile.of(x).contiguous() for x in (query, gradient, result, scale))
            k, v = (tile.of(x, kernel - 1).contiguous() for x in (padded_key, padded_value))
            r, less = offsets[:, tile.channels], out.mul(g).neg_()
            to_query, to_key, to_value = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
            base, weight, slope, row = (torch.empty_like(q) for _ in range(4))
            for dy in range(kernel):
                torch.addcmul(s, q, r[dy], out=base)
                row.zero_()
                for dx in range(kernel):
                    near = slice(None), slice(dy, dy + q.shape[1]), slice(dx, dx + width)
                    torch.addcmul(base, q, k[near], out=weight).exp_()
                    to_value[near].addcmul_(weight, g)
                    torch.addcmul(less, v[near], g, out=slope).mul_(weight)  # the gradient of the logit
                    to_query.addcmul_(slope, k[near])
                    to_key[near].addcmul_(slope, q)
                    row += slope
                to_query.addcmul_(row, r[dy])
                by_offset[dy, tile.channels] += row.mul_(q).sum(dim=(0, 1, 2))
            tile.of(by_query).copy_(to_query)
            tile.of(by_key, kernel - 1).add_(to_key)
            tile.of(by_value, kernel - 1).add_(to_value)
        by_key, by_value = (x[:, rim : rim + height, rim : rim + width] for x in (by_key, by_value))
        return by_query, by_key, by_value, by_offset


def _pad(x: Tensor, kernel: int) -> Tensor:
    rim = kernel // 2
    return F.pad(x, (0, 0, rim, rim, rim, rim))
