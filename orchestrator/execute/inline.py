"""The in-process executor: one stage after the other, no Ray. For debuggers, tests and small machines."""

from __future__ import annotations

import contextlib
import time

from orchestrator.execute.elsewhere import LOOK_SECONDS, Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import DeviceLost, Job, Outcome
from orchestrator.execute.run_stage import run_stage
from orchestrator.plan.stages import Stage
from orchestrator.record.store import StoreError, open_store


def run_inline(frontier: Frontier, job: Job, listener: Listener, elsewhere: Elsewhere) -> None:
    """Run all stages of `frontier` here. Where this process loses its GPU, the run stops: it cannot be another one."""
    while not frontier.done:
        elsewhere.look(frontier, listener)
        listener.pump(frontier)
        pack = frontier.take()
        if not pack:
            time.sleep(LOOK_SECONDS / 4)  # all that is left is in work elsewhere
            continue
        stage = pack[0]
        listener.started(stage)
        try:
            outcome = run_stage(stage, job, elsewhere.over(stage.key))
        except DeviceLost as error:
            outcome = _failed(stage, job, str(error))
            frontier.stop(f"this process can run nothing more on its GPU, {stage.name!r} failed: {error}")
        listener.settle(frontier, outcome)


def _failed(stage: Stage, job: Job, error: str) -> Outcome:
    """A fault that may be the GPU's: the next run tries again."""
    outcome = Outcome(stage.key, "failed", error=error, cause="worker")
    with contextlib.suppress(StoreError):  # the outcome itself still reaches the driver, which keeps it
        open_store(job.store).fail({**stage.record(), **outcome.record()})
    return outcome
