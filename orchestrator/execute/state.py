"""How the plans of a store stand: counts by state, what a key stands for, the command that runs one stage again."""

from __future__ import annotations

import heapq
import shlex
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from orchestrator.execute.trials import unfolded_record
from orchestrator.grid.load import SPACES
from orchestrator.plan.diff import diff, standing
from orchestrator.plan.stages import Plan, Stage
from orchestrator.plan.studies import Trial
from orchestrator.plan.study_state import part_in_studies, study_state
from orchestrator.record.leases import process_is_gone
from orchestrator.record.store import Store

STALE_SECONDS = 60.0
SAMPLE = 300  # finished stages whose records are read: thousands would take longer than all else
Record = dict[str, Any]


class Unknown(Exception):
    """The store has no such plan or key. The message is for the user."""


def newest_grid(store: Store) -> str:
    """The grid of the store's newest plan.

    Raises:
        Unknown: the store holds no plan.
    """
    newest = max(((store.plans(grid)[-1], grid) for grid in store.grids()), default=None)
    if newest is None:
        raise Unknown(f"store {store.uri} holds no plan yet; run a grid first")
    return newest[1]


def plan_state(store: Store, record: Record) -> Record:
    """How a stored plan stands now, as `status --json` tells it."""
    plan, known = unfolded_record(record, store)
    stages = plan.stages
    finished = store.finished() & stages.keys()
    beats = _beats(store, stages, finished)
    running = {beat["key"] for beat in beats}
    failed_trials = {trial.key for trials in known.values() for trial in trials if trial.state == "FAIL"}
    failures = standing(store.failures(stages.keys() - finished - running - failed_trials), finished | running)
    failed = {k for k, f in failures.items() if f["outcome"] == "failed"}
    blocked = {k for k, s in stages.items() if s.blocked is not None or k in failures} - finished - running - failed
    unneeded = set(diff([plan], finished).keys("unneeded"))
    waiting = stages.keys() - finished - running - failed - blocked - unneeded - failed_trials
    left = sum(stages[k].cost for k in running | waiting)
    return {
        "grid": record["grid"],
        "plan": record["plan"],
        "profile": record["profile"],
        "stages": {
            "succeeded": len(finished),
            "running": len(running),
            "failed": len(failed),
            "blocked": len(blocked),
            "waiting": len(waiting),
        },
        "running": beats,
        "eta_seconds": _eta(store, stages, finished, left, len(running)),
        "studies": [study_state(study, known[key]) for key, study in plan.studies.items()],
        "failures": [
            {"key": k, "name": stages[k].name, "outcome": f["outcome"], "error": f["error"]}
            for k, f in failures.items()
        ],
    }


def _beats(store: Store, stages: Mapping[str, Stage], finished: set[str]) -> list[Record]:
    """The leases under which somebody works at a stage."""
    now = time.time()
    return [b for k, b in store.leases().items() if k in stages and k not in finished and _alive(b, now)]


def _alive(lease: Mapping[str, Any], now: float) -> bool:
    """Whether somebody works under a lease, as far as can be told from here."""
    return not lease.get("released") and now - lease["beat"] < STALE_SECONDS and not process_is_gone(dict(lease))


def _eta(store: Store, stages: Mapping[str, Stage], finished: set[str], left: float, workers: int) -> float | None:
    """Cost left, at the speed at which finished stages of this plan went, on the workers that run now."""
    sample = heapq.nlargest(SAMPLE, finished, key=lambda key: stages[key].cost)  # these say most of the time it takes
    spent = sum(c["seconds"] for c in store.commits(sample).values())
    done = sum(stages[key].cost for key in sample)
    return round(left * spent / done / workers, 1) if done and workers else None


def every_stage(store: Store, *, grids: Collection[str] | None = None) -> dict[str, Stage]:
    """The stages of all plans, or of those of these grids, by key; parents before children."""
    return {stage.key: stage for _, plan, _ in _plans(store, grids) for stage in plan.stages.values()}


def find_stage(prefix: str, store: Store) -> tuple[Stage, Record, list[str]]:
    """The stage, the record of the newest plan that holds it, and what it has to do with studies.

    Raises:
        Unknown: no stage's key begins so, or several do.
    """
    found: dict[str, tuple[Stage, Record, list[str]]] = {}
    for record, plan, known in _plans(store):
        for stage in plan.stages.values():
            if stage.key.startswith(prefix) and stage.key not in found:
                found[stage.key] = stage, record, part_in_studies(stage, plan.studies, known)
    if not found:
        raise Unknown(f"no stage in a plan of {store.uri} has a key that begins with {prefix!r}")
    if len(found) > 1:
        raise Unknown(f"{len(found)} keys begin with {prefix!r}: {', '.join(sorted(found)[:5])}")
    return next(iter(found.values()))


def _plans(store: Store, grids: Collection[str] | None = None) -> Iterator[tuple[Record, Plan, dict[str, list[Trial]]]]:
    """Each stored plan as record, unfolded, and with the trials of its studies; of each grid the newest first."""
    for grid in store.grids() if grids is None else [grid for grid in store.grids() if grid in grids]:
        for plan_id in store.plans(grid)[::-1]:
            record = store.load_plan(grid, plan_id)
            yield record, *unfolded_record(record, store)


def replay(stage: Stage, plan: Record, store: str) -> str:
    """The command that runs a stage again: the plan's own request, cut down to one stage and kept in one process."""
    words = ["python", "-m", "orchestrator.run_grid", plan["grid"] if _is_builtin(plan) else plan["source"]]
    words += ["--profile", plan["profile"]]
    words += [word for text in plan["overrides"] for word in ("--set", text)]
    words += [word for text in plan["only"] for word in ("--only", text)]
    words += ["--data-root", plan["data_root"], "--store", store, "--executor", "inline", "--stage", stage.key]
    return shlex.join(words)


def _is_builtin(plan: Record) -> bool:
    """A user's file may bear the name of a built-in grid."""
    return bool(plan["source"] == str(SPACES / "grids" / f"{plan['grid']}.yaml"))
