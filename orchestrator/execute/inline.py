"""The in-process executor: one stage after the other, no Ray. For debuggers, tests and small machines."""

from __future__ import annotations

import time

from orchestrator.execute.elsewhere import LOOK_SECONDS, Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import Job
from orchestrator.execute.run_stage import run_stage


def run_inline(frontier: Frontier, job: Job, listener: Listener, elsewhere: Elsewhere) -> None:
    """Run all stages of `frontier` here."""
    while not frontier.done:
        elsewhere.look(frontier, listener)
        listener.pump(frontier)
        pack = frontier.take()
        if not pack:
            time.sleep(LOOK_SECONDS / 4)  # all that is left is in work elsewhere
            continue
        stage = pack[0]
        listener.started(stage)
        listener.settle(frontier, run_stage(stage, job, elsewhere.over(stage.key)))
