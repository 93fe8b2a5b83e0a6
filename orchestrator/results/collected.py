"""All that is known of one plan: its cells, their records and its table. What every view of the results starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from orchestrator.plan.diff import standing
from orchestrator.record.cell_reader import profiles_of, read_results
from orchestrator.record.mlflow_connection import TrackingError
from orchestrator.record.mlflow_reader import TrackedRun, read_runs, read_tracked
from orchestrator.record.store import Store
from orchestrator.results import ResultsError
from orchestrator.results.cells import CELL_AXES, STATUSES, tidy
from orchestrator.results.references import load
from orchestrator.results.table import Table, summarise

From = Literal["store", "mlflow"]
Records = Mapping[str, Mapping[str, Any]]
WORST_FIRST = ("failed", "blocked", "missing", "constant", "succeeded")


@dataclass(frozen=True)
class Collected:
    """A plan of a store with its results.

    commits, failures: records by key, as `read_results` gives them. runs: MLflow's runs by key, none where it does not
    answer. warnings: what the reader should know, each one message.
    """

    store: Store
    plan: Mapping[str, Any]
    cells: pd.DataFrame
    table: Table
    commits: Records
    failures: Records
    runs: Mapping[str, TrackedRun]
    warnings: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Cells by status; a cell with several asked metrics counts once, by its worst."""
        asked = self.cells[self.cells["metric"].isin(self.plan["table"]["value"])]
        order = {status: n for n, status in enumerate(WORST_FIRST)}
        by_cell: dict[tuple[Any, ...], str] = {}
        for *cell, status in zip(*(asked[axis].tolist() for axis in (*CELL_AXES, "status")), strict=True):
            place = tuple(cell)
            by_cell[place] = min(by_cell.get(place, "succeeded"), status, key=order.__getitem__)
        statuses = list(by_cell.values())
        return {"cells": len(statuses), **{status: statuses.count(status) for status in STATUSES}}

    @property
    def state(self) -> str:
        """How complete it is, in one sentence."""
        counts = self.counts
        gaps = ", ".join(f"{counts[status]} {status}" for status in ("failed", "blocked", "missing") if counts[status])
        there = counts["succeeded"] + counts["constant"]
        if not counts["cells"]:
            return "the plan has no cells"
        if not counts["succeeded"] and gaps:
            return f"no cell has a result yet: {gaps} of {counts['cells']}"
        if gaps:
            return f"{there} of {counts['cells']} cells have a result; {gaps}"
        return "its only cell has a result" if there == 1 else f"all {there} cells have a result"


def collected(store: Store, plan: Mapping[str, Any], uri: str, experiment: str, source: From = "store") -> Collected:
    """Read the results of a plan's cells and put them into its table.

    Args:
        uri, experiment: MLflow, for the run of each cell and, with source `mlflow`, for the results themselves.

    Raises:
        StoreError, ResultsError: the request cannot be met; the text is the message for the user.
    """
    keys = sorted({cell["key"] for cell in plan["cells"] if cell.get("key")})
    commits, failures, runs, warnings = _records(store, keys, uri, experiment, source)
    references, complaints = _references(plan)
    cells = tidy(plan, commits, failures, {key: run.run_id for key, run in runs.items()})
    table = summarise(plan, cells, references)
    told = (*warnings, *complaints, *_other_profiles(store, plan), *table.warnings)
    return Collected(store, plan, cells, table, commits, failures, runs, told)


def _records(
    store: Store, keys: list[str], uri: str, experiment: str, source: From
) -> tuple[Records, Records, Mapping[str, TrackedRun], list[str]]:
    if source == "mlflow":
        try:
            runs = read_runs(uri, experiment, keys)
        except TrackingError as error:
            raise ResultsError(f"--from mlflow: {error}") from error
        return *read_tracked(runs), runs, []
    commits, failures = read_results(store, keys)
    overcome = store.commits({record["blocked_by"] for record in failures.values() if "blocked_by" in record})
    failures = standing(failures, overcome)
    if not commits and not failures:
        return commits, failures, {}, []
    try:
        return commits, failures, read_runs(uri, experiment, keys, metrics=False), []
    except TrackingError as error:
        return commits, failures, {}, [f"run_id stays empty: {error}"]


def _references(plan: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    if not plan.get("references"):
        return [], []
    try:
        return load(plan["references"]), []
    except ResultsError as error:
        return [], [str(error)]


def _other_profiles(store: Store, plan: Mapping[str, Any]) -> list[str]:
    """One sentence where the store holds plans of this grid under another profile: they are never mixed."""
    there = profiles_of(store, plan["grid"])
    others = {profile: plan_id for plan_id, profile in there.items() if profile != plan["profile"]}
    if not others:
        return []
    listed = ", ".join(f"{profile} (newest: --plan {plan_id})" for profile, plan_id in others.items())
    return [f"this is plan {plan['plan']} of profile {plan['profile']}; the store also holds plans of profile {listed}"]
