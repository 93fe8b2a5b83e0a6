"""A worker that stops itself by SIGSTOP just before it writes, run as a process by `test_two_runs`.

Usage: python -m tests.orchestrator.stopping_worker JOB STAGE OVER CHECKPOINT   (JSON, JSON, lease number, which one; 0:
never). It prints its outcome as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from orchestrator.execute.outcome import Job
from orchestrator.execute.run_stage import run_stage
from orchestrator.plan.stages import Stage
from orchestrator.record.store import Store


def stop_before_checkpoint(which: int) -> None:
    """Let the process stop between its look at the lease and the write."""
    whole, count = Store.save_checkpoint, 0

    def stopping(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == which:
            os.kill(os.getpid(), signal.SIGSTOP)
        whole(*args)

    Store.save_checkpoint = stopping  # type: ignore[method-assign]


def main(job: str, stage: str, over: str, which: str) -> None:
    stop_before_checkpoint(int(which))
    outcome = run_stage(Stage.from_record(json.loads(stage)), Job(**json.loads(job)), int(over))
    print(json.dumps(outcome.record()))


if __name__ == "__main__":
    main(*sys.argv[1:])
