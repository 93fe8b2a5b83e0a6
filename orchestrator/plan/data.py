"""What a plan needs to know of the data. Reading it is the one effect; expansion takes the facts as a value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.keys import canonical
from trainables.data import AbsentData, DataError, Listing, WrongRequest, open_dataset, survey
from trainables.data.split import held_count, probe_size, training_size, why_not_validated
from trainables.data.suited import why_not_prepared, why_not_pretrained
from trainables.data.weight_files import weight_file
from trainables.settings import AnyNetworkSettings, FinetuneSettings
from trainables.settings.fitting import why_not_cubed, why_not_shown
from trainables.settings.later import options_as_before
from trainables.settings.networks import Held

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

    def why_not_pretrained(self, needs: Collection[str], prepare: Mapping[str, Any] | None = None) -> str | None:
        """Why nothing can be pretrained on it: it is absent, or too few images have what that needs.

        Args:
            needs: of the method's settings.
            prepare: the complete dials of the prepare stage between the two, where there is one.
        """
        if self.listing is None:
            return self.absent
        if prepare is not None:
            return why_not_prepared(self.reader, self.listing, prepare)
        return why_not_pretrained(self.reader, self.listing, needs)

    def why_not_shown(self, network: AnyNetworkSettings) -> str | None:
        """Why a network cannot look at it; None where it can, or where that is not known."""
        return None if self.listing is None else why_not_shown(network, self._holds, self.reader)

    def why_not_finetuned(
        self,
        network: AnyNetworkSettings,
        settings: FinetuneSettings,
        n_train: int | None,
        options: Mapping[str, Any],
        held_out: float | None = None,
    ) -> str | None:
        """Why a network cannot be finetuned on it, beside `train_size`; None where it can, or where that is not known.

        Args:
            options: of the data set.
            held_out: the share of the `n_train` images that evaluates, in a study.
        """
        if self.listing is None or n_train is None:
            return None
        if problem := self.why_not_shown(network) or self.why_not_cubed(network, settings.input_size, options):
            return problem
        try:
            images = n_train if held_out is None else n_train - held_count(n_train, held_out)
        except DataError as error:
            return str(error)
        share = settings.validation_share
        return why_not_validated(self.reader, self.listing, images, share) if settings.validates else None

    def why_not_cubed(
        self, network: AnyNetworkSettings, size: int, given: Mapping[str, Any], least: int = 1
    ) -> str | None:
        """Why its volumes do not fit a network at that input size; None where they do, or where that is not known.

        Args:
            given: the dials that say the volumes' `width` and `depth`; of files that hold volumes nothing does.
        """
        if self.listing is None or self._holds == "pictures" or not {"width", "depth"} <= given.keys():
            return None
        return why_not_cubed(network, (given["width"], given["width"], given["depth"]), size, least)

    @property
    def _holds(self) -> Held:
        return "pictures" if self.listing is None or self.listing.kind == "pictures" else "volumes"

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
        key = f"absent:{reader}:{canonical(options_as_before(reader, options))}"
        return DataFacts(reader, key, absent=str(error), faults=faults)
    found = survey(listing, cache_dir=cache_dir, on_progress=on_progress)
    return DataFacts(reader, found.fingerprint, listing, None, tuple(found.problems), tuple(listing.notes))
