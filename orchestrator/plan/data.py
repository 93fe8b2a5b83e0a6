"""What a plan needs to know of the data. Reading it is the one effect; expansion takes the facts as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.keys import canonical
from trainables.data import DataError, Listing, open_dataset, split, survey


@dataclass(frozen=True)
class DataFacts:
    """One dataset as the machine sees it.

    absent: why it cannot be used at all (missing, empty); stages on it are blocked.
    faults: files that are there and wrong; nothing runs before they are mended.
    """

    reader: str
    fingerprint: str
    listing: Listing | None = None
    absent: str | None = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def train_size(self, fraction: float | None, literal: int | None) -> tuple[int | None, str | None]:
        """How many images a fraction trains on, or why that is impossible."""
        if self.listing is None:
            return literal, self.absent
        try:
            return len(split(self.listing, fraction, literal, seed=0).train), None
        except DataError as error:
            return literal, str(error)


def examine(
    reader: str,
    options: Mapping[str, Any],
    data_root: Path,
    *,
    cache_dir: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DataFacts:
    """Find a dataset below `data_root`, decode every file once (cached), and fingerprint it."""
    try:
        listing = open_dataset(reader, data_root, options)
    except DataError as error:
        return DataFacts(reader, f"absent:{reader}:{canonical(dict(options))}", absent=str(error))
    found = survey(listing, cache_dir=cache_dir, on_progress=on_progress)
    return DataFacts(reader, found.fingerprint, listing, None, tuple(found.problems), tuple(listing.notes))
