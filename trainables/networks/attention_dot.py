"""Local dot-product attention, fast in time and memory: queries in small blocks, each against its block with a rim.

A block of queries shares most of its keys, so that one matrix product serves all of them; logits of keys outside a
query's own window are pushed to where their softmax is zero. Blocks are worked off in chunks that fit the cache, in
buffers that are used again, and the backward pass computes the softmax anew, so that nothing of the size of the logits
is ever kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGEST_BLOCK = 8
FETCH = 20  # cost of fetching a key, in multiplications with a query (measured on a CPU)
OUTSIDE = -1e30
# Bytes of logits at a time: what fits a core's cache beside the operands; what fills a GPU.
CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}


def dot_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """softmax over the window of (query . key + rows[dy] + columns[dx]), times the values.

    Keys and values beyond the border are zero, but take part in the softmax.

    Args:
        query, key, value: [N, H, W, heads, C].
        rows, columns: [N, H, W, heads, kernel], what a query adds for the row and the column of its window that a key
            is in; `kernel` is odd.

    Returns:
        [N, H, W, heads, C].
    """
    result: Tensor = _DotAttention.apply(query, key, value, rows, columns)
    return result


@dataclass(frozen=True)
class Blocks:
    """How maps are cut: `down` x `across` blocks of `height` x `width` queries, which see `tall` x `wide` keys."""

    down: int
    across: int
    height: int
    width: int
    tall: int
    wide: int

    @staticmethod
    def of(height: int, width: int, kernel: int) -> Blocks:
        """The blocks of least cost: a function of the sizes alone, so that digits repeat."""

        def cost(a: int, b: int) -> int:
            keys = (a + kernel - 1) * (b + kernel - 1)
            return -(-height // a) * -(-width // b) * keys * (a * b + FETCH)

        sides = range(1, LARGEST_BLOCK + 1)
        _, a, b = min((cost(a, b), a, b) for a, b in product(sides, sides))
        return Blocks(-(-height // a), -(-width // b), a, b, a + kernel - 1, b + kernel - 1)

    def queries(self, x: Tensor) -> Tensor:
        """View of [n, heads, rows, W, C] as [n, heads, down, across, height, width, C]; all blocks are whole."""
        n, heads, rows, columns, channels = x.shape
        shape = (n, heads, rows // self.height, self.height, columns // self.width, self.width, channels)
        return x.view(shape).transpose(3, 4)

    def keys(self, x: Tensor) -> Tensor:
        """View of [n, heads, rows, W, C] with a rim as [n, heads, down, across, tall, wide, C]; blocks overlap."""
        return x.unfold(2, self.tall, self.height).unfold(3, self.wide, self.width).permute(0, 1, 2, 3, 5, 6, 4)

    def add_keys(self, x: Tensor, parts: Tensor) -> None:
        """The adjoint of `keys`: add what belongs to blocks to maps that have room for a block at their end."""
        for top, left in product(range(0, self.tall, self.height), range(0, self.wide, self.width)):
            bottom, right = min(top + self.height, self.tall), min(left + self.width, self.wide)
            area = x[:, :, top : top + parts.shape[2] * self.height, left : left + parts.shape[3] * self.width]
            cells = self.queries(area)[..., : bottom - top, : right - left, :]
            cells += parts[..., top:bottom, left:right, :]

    def zeros(self, like: Tensor) -> Tensor:
        """Room for maps [N, H, W, heads, C] as [N, heads, rows, columns, C] with a rim and a block at the end."""
        count, _, _, heads, channels = like.shape
        tall, wide = self.down * self.height + self.tall, self.across * self.width + self.wide
        return like.new_zeros((count, heads, tall, wide, channels))

    def inside(self, x: Tensor, like: Tensor) -> Tensor:
        """View of what `zeros` made, as [N, H, W, heads, C], without the rim."""
        rim = (self.tall - self.height) // 2
        return x[:, :, rim : rim + like.shape[1], rim : rim + like.shape[2]].permute(0, 2, 3, 1, 4)

    def framed(self, x: Tensor) -> Tensor:
        """[N, H, W, heads, C] as [N, heads, rows, columns, C], zero around."""
        frame = self.zeros(x)
        self.inside(frame, x).copy_(x)
        return frame


class _Chunk:
    """Some images and some rows of blocks of them, between maps and stacks of blocks.

    A stack of queries is [blocks, height x width, C], one of keys [blocks, tall x wide, C]; the heads of a block count
    as blocks of their own. Maps of queries are [N, H, W, heads, C], those of keys are framed.
    """

    def __init__(self, blocks: Blocks, like: Tensor, images: slice, row: int, down: int) -> None:
        count, height, self.width, heads, _ = like.shape
        self.blocks, self.images, self.first, self.last = (
            blocks,
            images,
            row * blocks.height,
            (row + down) * blocks.height,
        )
        self.rows = slice(self.first, min(self.last, height))
        self.cut = (min(images.stop, count) - images.start, heads, down, blocks.across)

    def queries(self, x: Tensor) -> Tensor:
        """The stack of the chunk's pixels; zero beyond the map."""
        part = x[self.images, self.rows].permute(0, 3, 1, 2, 4)
        below, right = self.last - self.rows.stop, self.blocks.across * self.blocks.width - self.width
        return _stack(self.blocks.queries(F.pad(part, (0, 0, 0, right, 0, below)) if below or right else part))

    def put_queries(self, x: Tensor, stack: Tensor) -> None:
        """The inverse of `queries`: write a stack to its pixels."""
        part = x[self.images, self.rows].permute(0, 3, 1, 2, 4)
        cells = stack.view(*self.cut, self.blocks.height, self.blocks.width, -1)
        if part.shape[2] == self.last - self.first and self.width == self.blocks.across * self.blocks.width:
            self.blocks.queries(part).copy_(cells)
        else:
            part.copy_(cells.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, : part.shape[2], : self.width])

    def keys(self, x: Tensor) -> Tensor:
        """The stack of what each block sees."""
        seen = x[self.images, :, self.first : self.last + self.blocks.tall - self.blocks.height]
        return _stack(self.blocks.keys(seen[:, :, :, : -self.blocks.width]))

    def add_keys(self, x: Tensor, stack: Tensor) -> None:
        """The adjoint of `keys`: the blocks' shares of a pixel come together."""
        parts = stack.view(*self.cut, self.blocks.tall, self.blocks.wide, -1)
        self.blocks.add_keys(x[self.images, :, self.first :], parts)


class _Positions:
    """Logits of rows and columns, [blocks, queries, kernel], spread over the keys of a block; OUTSIDE off the window.

    Each query has a slot for each row and each column of keys; `places` [tall + wide, keys] says which key is in which,
    so that a matrix product spreads them.
    """

    def __init__(self, blocks: Blocks, like: Tensor) -> None:
        self.blocks, self.kernel = blocks, blocks.tall - blocks.height + 1
        # Made on the device: a copy from the CPU would wait for all that the device has still to do.
        tall, wide = (torch.eye(side, dtype=like.dtype, device=like.device) for side in (blocks.tall, blocks.wide))
        by_row = tall[:, :, None].expand(-1, -1, blocks.wide).flatten(1)
        self.places = torch.cat([by_row, wide.repeat(1, blocks.tall)])

    def spread(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[blocks, queries, keys]."""
        slots = rows.new_full((*rows.shape[:2], len(self.places)), OUTSIDE)
        for diagonal, logits in zip(self._diagonals(slots), (rows, columns), strict=True):
            diagonal.copy_(logits.view_as(diagonal))
        return (slots.flatten(0, 1) @ self.places).view(*slots.shape[:2], -1)

    def gather(self, gradient: Tensor) -> list[Tensor]:
        """The adjoint of `spread`: what comes to rows and columns."""
        slots = (gradient.flatten(0, 1) @ self.places.T).view(*gradient.shape[:2], -1)
        return [diagonal.reshape(*slots.shape[:2], self.kernel) for diagonal in self._diagonals(slots)]

    def _diagonals(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Views [blocks, height, width, kernel]: the query in row y of a block has its rows at slot y and after."""
        b, size = self.blocks, slots.shape[-1]
        shape = (len(slots), b.height, b.width, self.kernel)
        block = b.height * b.width * size
        rows = slots.as_strided(shape, (block, b.width * size + 1, size, 1))
        return rows, slots.as_strided(shape, (block, b.width * size, size + 1, 1), b.tall)


def _stack(x: Tensor) -> Tensor:
    """[n, heads, down, across, rows, columns, C] -> [n x heads x down x across, rows x columns, C]."""
    return x.reshape(-1, x.shape[4] * x.shape[5], x.shape[6])


def _chunks(blocks: Blocks, like: Tensor) -> Iterator[_Chunk]:
    images, heads, device = like.shape[0], like.shape[3], like.device.type
    row_bytes = blocks.across * heads * blocks.height * blocks.width * blocks.tall * blocks.wide * like.element_size()
    at_once = max(1, CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // row_bytes)
    step, several = min(at_once, blocks.down), max(1, at_once // blocks.down)
    for image, row in product(range(0, images, several), range(0, blocks.down, step)):
        yield _Chunk(blocks, like, slice(image, image + several), row, min(step, blocks.down - row))


class _DotAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        result = torch.empty_like(query, memory_format=torch.contiguous_format)
        work = _Work(query, key, value, rows, columns)
        for chunk in _chunks(work.blocks, query):
            _, _, values, weights = work.attend(chunk)
            chunk.put_queries(result, torch.bmm(weights, values))
        ctx.save_for_backward(query, key, value, rows, columns, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, rows, columns, result = ctx.saved_tensors
        work = _Work(query, key, value, rows, columns)
        blocks = work.blocks
        by_query, by_rows, by_columns = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, rows, columns)
        )
        by_key, by_value = blocks.zeros(key), blocks.zeros(value)
        # What the softmax takes off the gradient of each logit: the sum of weight x gradient over the window.
        common = (gradient * result).sum(dim=-1, keepdim=True)
        for chunk in _chunks(blocks, query):
            queries, keys, values, weights = work.attend(chunk)
            given = chunk.queries(gradient)
            chunk.add_keys(by_value, torch.bmm(weights.mT, given))
            slopes = torch.bmm(given, values.mT).sub_(chunk.queries(common)).mul_(weights)
            chunk.add_keys(by_key, torch.bmm(slopes.mT, queries))
            chunk.put_queries(by_query, torch.bmm(slopes, keys))
            for target, stack in zip((by_rows, by_columns), work.positions.gather(slopes), strict=True):
                chunk.put_queries(target, stack)
        return by_query, blocks.inside(by_key, key), blocks.inside(by_value, value), by_rows, by_columns


class _Work:
    """The inputs of the attention, keys and values framed."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> None:
        self.blocks = Blocks.of(query.shape[1], query.shape[2], rows.shape[-1])
        self.query, self.rows, self.columns = query, rows, columns
        self.key, self.value = self.blocks.framed(key), self.blocks.framed(value)
        self.positions = _Positions(self.blocks, query)

    def attend(self, chunk: _Chunk) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The stacks of queries, keys and values, and the weights [blocks, queries, keys]."""
        queries, keys, values = chunk.queries(self.query), chunk.keys(self.key), chunk.keys(self.value)
        logits = self.positions.spread(chunk.queries(self.rows), chunk.queries(self.columns))
        return queries, keys, values, torch.softmax(logits.baddbmm_(queries, keys.mT), dim=-1)
