"""What a plan needs to know of the data. Reading it is the one effect; expansion takes the facts as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.keys import canonical
from trainables.data import AbsentData, DataError, Listing, WrongRequest, open_dataset, survey
from trainables.data.split import probe_size, training_size
from trainables.data.weight_files import weight_file

WEIGHTS = "weights "  # stands before the format where a file of weights is examined like data


@dataclass(frozen=True)
class DataFacts:
    """One dataset as the machine sees it.

    absent: why it cannot be used at all (missing, empty, not listable); stages on it are blocked.
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
            return training_size(self.listing, fraction, literal), None
        except DataError as error:
            return literal, str(error)

    def probe_size(self, fraction: float | None, shares: tuple[float, float, float]) -> tuple[int | None, str | None]:
        """How many labelled images a probe trains on, or why that is impossible."""
        if self.listing is None:
            return None, self.absent
        try:
            return probe_size(self.listing, fraction, shares), None
        except DataError as error:
            return None, str(error)

    def counts(self, n_train: int | None) -> dict[str, int]:
        """Images that pretraining sees, and those that evaluate where `n_train` train; for `cost.device_seconds`."""
        if self.listing is None:
            return {}
        n_eval = len(self.listing.pool) - (n_train or 0) if self.listing.pool else len(self.listing.evaluation)
        return {"n_pretrain": len(self.listing.pretrain), "n_eval": n_eval}


def _examine_weights(name: str, options: Mapping[str, Any], data_root: Path, cache_dir: Path | None) -> DataFacts:
    try:
        return DataFacts(f"{WEIGHTS}{name}", weight_file(data_root, name, options, cache_dir=cache_dir)[1])
    except DataError as error:
        return DataFacts(f"{WEIGHTS}{name}", f"absent:{name}:{canonical(dict(options))}", absent=str(error))


def examine(
    reader: str,
    options: Mapping[str, Any],
    data_root: Path,
    *,
    cache_dir: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DataFacts:
    """Find a dataset below `data_root`, decode every file once (cached), and fingerprint it.

    Raises:
        WrongRequest: the options ask for what cannot be, whatever the data hold.
    """
    if reader.startswith(WEIGHTS):
        return _examine_weights(reader.removeprefix(WEIGHTS), options, data_root, cache_dir)
    try:
        listing = open_dataset(reader, data_root, options, cache_dir=cache_dir)
    except WrongRequest:
        raise
    except DataError as error:
        faults = () if isinstance(error, AbsentData) else (str(error),)
        key = f"absent:{reader}:{canonical(dict(options))}"
        return DataFacts(reader, key, absent=str(error), faults=faults)
    found = survey(listing, cache_dir=cache_dir, on_progress=on_progress)
    return DataFacts(reader, found.fingerprint, listing, None, tuple(found.problems), tuple(listing.notes))
