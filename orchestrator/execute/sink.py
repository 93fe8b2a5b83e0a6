"""Where ended stages are kept: in the store what has no result, in MLflow all of them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.outcome import Job, Outcome
from orchestrator.plan.diff import Diff
from orchestrator.plan.stages import Stage
from orchestrator.record.mlflow_writer import MlflowWriter
from orchestrator.record.store import Store, StoreError


class Sink:
    """Keeps ended stages: blocked ones in the store, all of them in MLflow."""

    def __init__(self, store: Store, writer: MlflowWriter, frontier: Frontier) -> None:
        self._store, self._writer, self._frontier = store, writer, frontier

    def put(self, stage: Stage, outcome: Outcome) -> None:
        if outcome.outcome == "succeeded":
            mine = outcome.executed and not outcome.wasted
            (self._writer.put if mine else self._writer.put_elsewhere)(stage.key)
            return
        record = {**stage.record(), **outcome.record(), "finished": datetime.now(UTC).isoformat()}
        if outcome.outcome == "blocked":
            record = _blocked(stage, outcome, self._frontier.roots[stage.key])
            with contextlib.suppress(StoreError):  # then the store is what failed; the outcome still counts
                self._store.fail(record)
        self._writer.put(record)


def tell_ended_before(found: Diff, store: Store, writer: MlflowWriter, frontier: Frontier, job: Job) -> None:
    """What has ended before the run begins: finished stages, failed ones, and those the data or a failure block.

    Blocked ones are kept in the store too. The key of one on absent data is provisional: it stands for this plan's cell
    and for nothing else, so that no later run can take it for anything. Its record says so, and `gc` removes it with
    its plan.
    """
    for key in found.keys("reused"):
        writer.put(key)
    if job.again:
        return  # a look at one stage
    try:
        known = store.failures([*found.keys("failed"), *found.keys("blocked")])
        for key in found.keys("failed"):
            writer.put(known[key])
        for key in found.keys("blocked"):
            outcome = Outcome(key, "blocked", error=found.reasons[key], executed=False)
            record = _blocked(found.stages[key], outcome, found.roots[key])
            same = ("outcome", "error", "blocked_by")
            if key in known and all(known[key].get(name) == record[name] for name in same):
                record = known[key]
            else:
                store.fail(record)
            writer.put(record)
    except StoreError as error:
        frontier.stop(str(error))


def _blocked(stage: Stage, outcome: Outcome, root: str) -> dict[str, Any]:
    """The record of a blocked stage. `blocked_by`: the stage at which the cause lies; when that is finished, or the
    stage itself where its data were absent, the record is out of date."""
    return {**stage.record(), **outcome.record(), "blocked_by": root, "finished": datetime.now(UTC).isoformat()}
