"""A run in words: before it starts, and after it has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.execute.driver import Report
from orchestrator.plan.diff import Diff, profiles
from orchestrator.plan.words import counted

SHOWN_FAILURES = 10


def headline(found: Diff) -> str:
    """`108 cells, 114 stages to run, 0 reused`."""
    parts = [counted(len(found.cells), "cell"), f"{counted(len(found.planned), 'stage')} to run"]
    parts.append(f"{len(found.keys('reused'))} reused")
    parts += [f"{len(keys)} {state}" for state in ("failed", "blocked") if (keys := found.keys(state))]
    return ", ".join(parts)


def totals(found: Diff, report: Report, **about: Any) -> dict[str, Any]:
    """The contract's object of a run; `about` holds plan, wall_seconds, store and tracking_uri."""
    return {
        "grids": [plan.grid for plan in found.plans],
        "profile": profiles(found),
        "cells": len(found.cells),
        "succeeded": report.succeeded,
        "failed": len(report.failed),
        "blocked": len(report.blocked),
        "failed_trials": len(report.failed_trials),
        "reused": len(found.keys("reused")),
        "executed": report.executed,
        "wasted": report.wasted,
        **about,
    }


def ending(found: Diff, report: Report, about: Mapping[str, Any]) -> Iterator[str]:
    """What happened, what failed and why, and which commands show the results."""
    executed = ", ".join(f"{n} {kind}" for kind, n in report.executed.items() if n) or "nothing"
    counts = f"{report.succeeded} succeeded, {len(report.failed)} failed, {len(report.blocked)} blocked"
    yield f"plan {about['plan']}: {counts}; executed {executed}; {about['wall_seconds']:.0f} s"
    if report.wasted:
        yield f"  {report.wasted} of them in vain: another run on this store had finished them before"
    for key, error in list(report.failed.items())[:SHOWN_FAILURES]:
        yield f"  failed: {report.names[key]} ({key}): {error}"
    if report.failed_trials:
        errors = Counter(report.failed_trials.values()).most_common(1)
        yield f"  trials that failed, without which their studies go on: {len(report.failed_trials)}; {errors[0][0]}"
    if report.stopped:
        yield f"stopped: {report.stopped}; after mending it, the same command goes on from here"
    if found.keys("failed"):
        yield "  stages that failed by their own fault are not tried again, unless with --retry-failed"
    if report.not_in_mlflow:
        lacking = counted(report.not_in_mlflow, "run")
        yield f"MLflow lacks {lacking}; the same command adds what it lacks when it answers again"
    for plan in found.plans:
        yield f"table:  python -m orchestrator.collect {plan.grid} --store {about['store']} --out results"
    uri = str(about["tracking_uri"])
    yield f"MLflow: {uri}" if uri.startswith("http") else f"MLflow: mlflow ui --backend-store-uri {uri}"


def comparison(report: Report, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """After a finished stage ran again: what it gave against what the store holds."""
    for key, record in records.items():
        pairs = [(name, value, record["metrics"].get(name)) for name, value in report.metrics[key].items()]
        apart = [f"{name} {value!r}, recorded {kept!r}" for name, value, kept in pairs if value != kept]
        if apart and (together := record["facts"].get("fused", 1)) > 1:
            apart.append(f"the recorded one was trained as one with {together - 1} others, which changes its digits")
        yield f"{key}: {'; '.join(apart) if apart else 'equal to the record, digit for digit'}"
