"""The Tune trainable: a warm worker that runs the stages of a pack one after the other."""

from __future__ import annotations

import json
from typing import Any

from ray import tune

from orchestrator.execute.outcome import Job
from orchestrator.plan.stages import Stage


class PackTrainable(tune.Trainable):  # type: ignore[misc]
    """Each `step` runs one stage of the pack, so each cell commits and reports on its own."""

    def setup(self, config: dict[str, Any]) -> None:
        """Read the pack; stages that are already committed will end at once."""
        self._pack = [(Stage.from_record(record), over) for record, over in json.loads(config["pack"])]
        self._job = Job(**json.loads(config["job"]))
        self._next = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run the next stage."""
        from orchestrator.execute.run_stage import run_stage  # torch is imported in workers, not in the driver

        stage, over = self._pack[self._next]
        outcome = run_stage(stage, self._job, over)
        self._next += 1
        return {
            "outcome": json.dumps(outcome.record()),
            "seconds": outcome.seconds,
            "done": self._next >= len(self._pack),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Tune asks for one; the stages keep their own in the store."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """The stages resume from the store."""
