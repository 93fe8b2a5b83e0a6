"""Work on many files at once. Threads do, since Pillow, hashing and reading let go of the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

_BATCH = 4096  # waiting jobs cost memory, and a dataset may have a million files


def in_threads(function: Callable[[Item], Made], items: Sequence[Item]) -> Iterator[Made]:
    """`function` of each item, in the order of the items. The first exception ends it."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for first in range(0, len(items), _BATCH):
            yield from pool.map(function, items[first : first + _BATCH])
