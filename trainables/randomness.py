"""Random numbers as a function of (seed, purpose, step), so that a resumed run draws what an undisturbed one drew."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch

KEPT_ORDERS = 4  # of epochs: a batch spans two; few, since an order takes 8 bytes an image


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from a cell's seed and what the numbers are for, the same on every machine."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose. Draws are made on the CPU, so that they are equal on every device."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def seed_everything(seed: int, *purpose: str | int) -> None:
    """Seed torch's own generators (initialisation, dropout), those of the accelerators included."""
    number = derive(seed, *purpose)
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # manual_seed would format a traceback at every step, for an accelerator that might still come to be
        torch.default_generator.manual_seed(number)


def batch_indices(count: int, batch: int, step: int, seed: int, *purpose: str | int) -> torch.Tensor:
    """The image numbers of training step `step` (from 0): shuffled epochs laid end to end, cut into batches.

    Args:
        count: number of images, at least 1.
        batch: images per step; a batch may span two epochs, so none is ever smaller than the others.

    Returns:
        int64 tensor of shape (batch,).
    """
    first = step * batch
    parts, position = [], first
    while position < first + batch:
        epoch, offset = divmod(position, count)
        order = _order(count, derive(seed, *purpose, "epoch", epoch))
        taken = order[offset : offset + first + batch - position]
        parts.append(taken)
        position += len(taken)
    return torch.cat(parts)  # a copy: nobody can change an order that is kept


@lru_cache(maxsize=KEPT_ORDERS)
def _order(count: int, number: int) -> torch.Tensor:
    """A permutation of 0 ... count - 1 by a derived seed. Kept, since it takes milliseconds where images are many."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(number))
