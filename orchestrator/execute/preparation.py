"""From requests to what is to run: data examined, plans built and unfolded, and all of it held against a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.state import every_stage
from orchestrator.execute.trials import unfolded
from orchestrator.grid.load import Request
from orchestrator.plan.build import Plans, build
from orchestrator.plan.diff import Diff, all_stages, diff, restrict
from orchestrator.plan.durations import costed, device_of, timed, worth_reading
from orchestrator.plan.makespan import all_known
from orchestrator.plan.makespan import forecast as simulated
from orchestrator.plan.weights_again import looked_at, with_weights
from orchestrator.record.store import Store

SHOWN_FAULTS = 20


class CannotRun(Exception):
    """Nothing of the request can be run. The message is for the user."""


def examined(requests: Sequence[Request], data_root: Path, say: Callable[[str], object]) -> Plans:
    """The plans of the requests, their data examined; `say` hears of it where it takes long.

    Raises:
        WrongRequest: an option asks for what cannot be, whatever the data hold.
    """
    last = [time.monotonic()]

    def progress(reader: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 2 or (done == total and total > 500):
            last[0] = time.monotonic()
            say(f"checking {reader}: {done} of {total} files")

    return build(requests, data_root, on_progress=progress)


def unfold(built: Plans, store: Store, *, retry_failed: bool = False) -> Plans:
    """The plans with the trials that the store knows, and with the cells that lack the weights a figure needs."""
    plans = unfolded(built.plans, store, retry_failed=retry_failed)
    asked = {key for plan in plans for key in looked_at(plan)}
    done = store.commits(asked) if asked else {}
    lacking = {key for key, commit in done.items() if "weights" not in commit["artifacts"]}
    return replace(built, plans=tuple(with_weights(plan, lacking) for plan in plans))


def compare(built: Plans, store: Store, *, retry_failed: bool = False, stage: str | None = None) -> Diff:
    """What the plans have to do that the store does not hold, with costs learned from what it does hold.

    Args:
        retry_failed: stages that failed by their own fault are to be tried again.
        stage: the beginning of a key: only that stage, and what it needs. Where these plans have none such, one of
            earlier plans of their grids: what was below the winner of a study that has another one now.

    Raises:
        StoreError: the store cannot be read; CannotRun: `stage` is none, or several, or one that has no settings yet.
    """
    if stage is not None and not any(key.startswith(stage) for plan in built.plans for key in plan.stages):
        built = _with_earlier(built, store, stage)
    stages = all_stages(built.plans)
    finished = store.finished()
    records = timed(store.commits(worth_reading(stages, finished)).values())
    learned = costed(stages, records)
    failures = {} if retry_failed else store.failures(stages.keys() - finished)
    failed = {k: f["error"] for k, f in failures.items() if f["outcome"] == "failed" and f.get("cause") == "stage"}
    plans = [replace(plan, stages={key: learned[key] for key in plan.stages}) for plan in built.plans]
    found = replace(diff(plans, finished, failed), timed_on=device_of(records[0]) if records else None)
    return found if stage is None else restrict(found, _key_of(found, stage))


def _with_earlier(built: Plans, store: Store, prefix: str) -> Plans:
    """The plans, the first of them with those stages of earlier ones whose keys begin so, and with what they need."""
    earlier = every_stage(store, grids=[plan.grid for plan in built.plans])
    needed, waiting = set[str](), [key for key in earlier if key.startswith(prefix)]
    while waiting:
        needed.add(key := waiting.pop())
        waiting.extend(earlier[key].parents.values())
    first, *others = built.plans
    stages = {**first.stages, **{key: stage for key, stage in earlier.items() if key in needed}}
    return replace(built, plans=(replace(first, stages=stages), *others))


def _key_of(found: Diff, prefix: str) -> str:
    matches = [key for key in found.stages if key.startswith(prefix)]
    if len(matches) != 1:
        some = f" ({', '.join(matches[:3])}{', ...' if len(matches) > 3 else ''})" if matches else ""
        raise CannotRun(f"--stage {prefix}: {len(matches)} stages of this plan have such a key{some}; expected one")
    stage = found.stages[matches[0]]
    if stage.awaits or not stage.proposed:
        lacks = "waits for its study to end" if stage.awaits else "has no settings yet"
        raise CannotRun(f"--stage {prefix}: {stage.kind} {stage.name} {lacks}; run the grid first")
    return matches[0]


def refuse_bad_data(built: Plans, found: Diff) -> None:
    """Files that are there and wrong stop everything; absent data stop only when nothing else is left to do.

    Raises:
        CannotRun: so it is.
    """
    if built.faults:
        shown = "\n  ".join(built.faults[:SHOWN_FAULTS])
        more = len(built.faults) - SHOWN_FAULTS
        raise CannotRun(
            f"the data have faults; nothing was run:\n  {shown}" + (f"\n  ... {more} more" if more > 0 else "")
        )
    if found.causes and not (found.planned or found.keys("reused") or found.keys("failed")):
        raise CannotRun("nothing can run:\n  " + "\n  ".join(found.causes))


def forecast(found: Diff, devices: int, pack: int) -> dict[str, Any]:
    """How long a run takes on so many devices, by the policy of a run."""
    stages = all_known(found)
    return simulated(Frontier(stages, finished=found.keys("reused")), stages, devices, most=pack)
