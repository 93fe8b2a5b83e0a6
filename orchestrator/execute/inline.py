"""The in-process executor: one stage after the other, no Ray. For debuggers, tests and small machines."""

from __future__ import annotations

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import Job
from orchestrator.execute.run_stage import run_stage


def run_inline(frontier: Frontier, job: Job, listener: Listener) -> None:
    """Run all stages of `frontier` here."""
    while pack := frontier.take():
        stage = pack[0]
        listener.started(stage)
        listener.settle(frontier, run_stage(stage, job))
