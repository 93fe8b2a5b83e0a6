"""Which images an analysis looks at, and the tables and names of what it found."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainables.context import Context, StageError
from trainables.data import Listing, Survey, open_dataset, survey
from trainables.data.split import drawn_order
from trainables.data.survey import combined_fingerprint

Data = Mapping[str, Any]


def open_checked(data: Data, context: Context) -> tuple[Listing, Survey]:
    """One dataset, found sound, and what the plan was made for."""
    listing, found = _opened(data, context)
    context.check_data(data["reader"], found.fingerprint)
    return listing, found


def open_all(sets: Sequence[Data], context: Context) -> list[tuple[Listing, Survey] | None]:
    """Several datasets of one stage; None for those that a prepare stage gives (`prepared: true`).

    The stage's fingerprint is that of all of them together (`combined_fingerprint`).
    """
    opened = [None if data.get("prepared") else _opened(data, context) for data in sets]
    there = [pair[1].fingerprint for pair in opened if pair is not None]
    if there:
        readers = ", ".join(dict.fromkeys(data["reader"] for data in sets))
        context.check_data(readers, combined_fingerprint(there))
    return opened


def _opened(data: Data, context: Context) -> tuple[Listing, Survey]:
    options = data.get("options")
    listing = open_dataset(data["reader"], context.data_root, options, cache_dir=context.cache_dir)
    found = survey(listing, cache_dir=context.cache_dir)
    found.check()
    if listing.kind != "pictures":
        raise StageError(f"{data['reader']}: holds volumes; expected a dataset of pictures here")
    return listing, found


def members(listing: Listing, part: str) -> tuple[int, ...]:
    """The image numbers of a part (`trainables.settings.analyses.Part`). Raises StageError where it is empty."""
    numbers: tuple[int, ...] = getattr(listing, part)
    if not numbers:
        raise StageError(f"{listing.reader} ({listing.folder}): its part {part} is empty; expected images there")
    return numbers


def drawn(listing: Listing, numbers: Sequence[int], count: int, seed: int) -> list[int]:
    """The first `count` of `numbers` in drawn order, 0: all; a larger count holds a smaller one's images."""
    ordered = drawn_order(listing, tuple(numbers), seed)
    return ordered[:count] if count else ordered


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file; numbers with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def metric_name(*parts: str) -> str:
    """`cka/car-segmentation/simclr`: a name that every tracking server takes."""
    return "/".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts)
