"""The Tune trainable: a warm worker that runs the stages of a pack one after the other."""

from __future__ import annotations

import json
import time
from typing import Any

from ray import tune

from orchestrator.execute.outcome import Job, Outcome
from orchestrator.plan.stages import Stage

REPORT_SECONDS = 0.25  # stages shorter than this share a report: each costs Tune some milliseconds of the driver's time


class PackTrainable(tune.Trainable):  # type: ignore[misc]
    """Each `step` runs the next stage of the pack, or the next few of very short ones, or all where they are trained
    as one. Each commits on its own."""

    def setup(self, config: dict[str, Any]) -> None:
        """Read the pack; stages that are already committed will end at once."""
        self._pack = [(Stage.from_record(record), over) for record, over in json.loads(config["pack"])]
        self._job = Job(**json.loads(config["job"]))
        self._fused = bool(config["fused"])
        self._next = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run the next stage. What runs well and is over in no time shares its report with those that follow."""
        began, outcomes = time.monotonic(), self._run_all() if self._fused else [self._run_next()]
        while self._next < len(self._pack) and _was_short(outcomes[-1]) and time.monotonic() < began + REPORT_SECONDS:
            outcomes.append(self._run_next())
        return {
            "outcomes": json.dumps([outcome.record() for outcome in outcomes]),
            "seconds": sum(outcome.seconds for outcome in outcomes),
            "done": self._next >= len(self._pack),
        }

    def _run_next(self) -> Outcome:
        from orchestrator.execute.run_stage import run_stage  # torch is imported in workers, not in the driver

        stage, over = self._pack[self._next]
        outcome = run_stage(stage, self._job, over)
        self._next += 1
        return outcome

    def _run_all(self) -> list[Outcome]:
        from orchestrator.execute.run_stage import run_fused

        self._next = len(self._pack)
        return run_fused(self._pack, self._job)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Tune asks for one; the stages keep their own in the store."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """The stages resume from the store."""


def _was_short(outcome: Outcome) -> bool:
    """Whether the next stage of the pack, which is like this one, will be over in no time too. What was finished or
    held elsewhere tells nothing of that, and a fault is told before anything else is begun."""
    return outcome.outcome == "succeeded" and outcome.executed and outcome.seconds < REPORT_SECONDS
