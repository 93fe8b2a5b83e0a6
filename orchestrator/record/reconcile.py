"""Make MLflow complete from the store alone: after an outage, or into an empty new server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from orchestrator.record.mlflow_writer import History, MlflowWriter
from orchestrator.record.store import Store
from orchestrator.record.tracking import Tracker

Record = Mapping[str, Any]


def grids_of(plans: Iterable[Record]) -> dict[str, list[str]]:
    """Stage key -> the grids whose plans hold it."""
    grids: dict[str, list[str]] = {}
    for plan in plans:
        for key in plan["stages"]:
            named = grids.setdefault(key, [])
            if plan["grid"] not in named:
                named.append(plan["grid"])
    return grids


def load(store: Store, key: str) -> tuple[Record, History] | None:
    """A finished stage with its pictures (`files`, by name) and its curves; None where it is not finished.

    Raises:
        StoreError: its record or its curves cannot be read.
    """
    record = store.commits([key]).get(key)
    if record is None:
        return None
    path = record["artifacts"].get("history", "")
    files = {name: store.artifact(place) for name, place in store.files(record).items()}
    try:
        return {**record, "files": files}, json.loads(store.artifact(path))
    except ValueError as error:
        raise store.damaged(path, f"no valid JSON ({error})") from error


def _with_trials(store: Store, settle: Callable[[Record], Record]) -> Iterator[Record]:
    """The store's plans, with the trials that their studies have added since."""
    for grid in store.grids():
        for name in store.plans(grid):
            plan = settle(store.load_plan(grid, name))
            added = {proposal["key"] for study in plan.get("studies", ()) for proposal in store.proposals(study)}
            yield {**plan, "stages": [*plan["stages"], *added]}


def sync(
    store: Store, tracker: Tracker, warn: Callable[[str], None], settle: Callable[[Record], Record] = dict
) -> tuple[int, int]:
    """Write every ended stage of the store's plans that MLflow lacks. Returns (stages that ended, not taken).

    Args:
        settle: a plan -> the same with what its studies have decided since; planning knows how.
    """
    grids = grids_of(_with_trials(store, settle))
    finished = store.finished() & grids.keys()
    failures = store.failures(grids.keys() - finished)
    writer = MlflowWriter(tracker, grids, lambda key: load(store, key), warn)
    for key in sorted(finished):
        writer.put(key)
    for record in failures.values():
        writer.put(record)
    writer.start()
    return len(finished) + len(failures), len(writer.finish())
