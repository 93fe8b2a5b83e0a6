"""The context of a trial: its rungs are judged here, in the worker, by what the store knows of the other trials.

So no trial waits for the driver, and a trial given up has not trained a step too many.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch

from orchestrator.execute.context import StoreContext
from orchestrator.execute.outcome import Job
from orchestrator.execute.sampling import Rule, give_up
from orchestrator.plan.stages import Stage
from orchestrator.plan.studies import family
from orchestrator.record.leases import Lease
from orchestrator.record.store import Store


class TrialContext(StoreContext):
    """Hooks of a trial. Without a lease (a look at a finished trial) it ends where the record says that it ended."""

    def __init__(self, store: Store, stage: Stage, job: Job, lease: Lease | None) -> None:
        super().__init__(store, stage, job, lease)
        assert stage.study is not None
        self._study, self._family = stage.study, family(stage)
        self._began = 0
        if lease is not None:
            self.keep_at = frozenset(stage.hints.get("keep_at", ()))

    def prefix_state(self) -> dict[str, Any] | None:
        """The longest state that a trial of equal settings has left; one that cannot be read counts as none.

        `began`: the step at which this trial has begun to train; one that was interrupted finds its own states too.
        """
        if self._lease is None:
            return None
        data = self._store.state(self._study, self._family, int(self._stage.spec["pretrain"]["steps"]))
        try:
            state = None if data is None else dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        except Exception:  # torch raises many kinds for a damaged file; starting anew is right for all of them
            return None
        if state is None:
            return None
        own = state.get("by") == self._stage.key
        self._began = int(state["began"] if own else state["step"])
        return {**state, "began": self._began}

    def keep(self, step: int, state: dict[str, Any]) -> None:
        """Leave a state for trials that end here or go on from here."""
        buffer = io.BytesIO()
        torch.save({**state, "by": self._stage.key, "began": self._began}, buffer)
        self._store.save_state(self._study, self._family, step, buffer.getvalue())

    def give_up(self, step: int, value: float) -> bool:
        """By the study's pruning rule, over all trials that have reached this rung."""
        if self._lease is None:
            record = self._store.commits([self._stage.key]).get(self._stage.key, {})
            return bool(record.get("facts", {}).get("pruned_at") == step)
        pruning: Mapping[str, Any] | None = self._stage.hints.get("pruning")
        if pruning is None:
            return False
        self._store.put_value(self._study, self._stage.key, step, value)
        numbers: dict[str, int] = {}
        for proposal in self._store.proposals(self._study):
            numbers.setdefault(proposal["key"], proposal["number"])
        values = {numbers[key]: found for key, found in self._store.values(self._study).items() if key in numbers}
        own = numbers.get(self._stage.key)
        if own is None:
            return False
        complete = self._complete(numbers) if pruning["rule"] == "median" else set()
        direction = str(self._stage.spec["objective"]["direction"])
        return give_up(Rule(self._study, direction, pruning, self._stage.hints["rungs"]), own, values, complete)

    def _complete(self, numbers: Mapping[str, int]) -> set[int]:
        commits = self._store.commits(numbers)
        return {numbers[key] for key, record in commits.items() if record["facts"]["pruned_at"] is None}
