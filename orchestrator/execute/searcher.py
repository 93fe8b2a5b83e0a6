"""The searcher that hands out packs of stages to Tune, and settles what becomes of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.search import Searcher

from orchestrator.execute.deaths import Inquest, Verdict
from orchestrator.execute.elsewhere import Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.fusing import Fusing
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import Job, Outcome
from orchestrator.execute.resources import MeasuredShares, Shape, shape_of
from orchestrator.grid.schema import Run
from orchestrator.plan.stages import Stage
from orchestrator.record.store import StoreError, open_store

MOST_NODES_LOST = 20  # under one stage: then it is no longer chance


@dataclass(frozen=True)
class Packing:
    """How stages are handed out.

    slots: workers that share what is ready; devices: the same where each has a GPU of its own.
    outstanding: packs at a time. gpus: whether the cluster has any. largest: CPUs of the largest node on which a stage
    can run. shares: of a GPU, as measured so far.
    """

    run: Run
    slots: int
    devices: int
    outstanding: int
    gpus: bool
    largest: float
    shares: MeasuredShares = field(default_factory=MeasuredShares)

    def shape(self, pack: list[Stage], alone: str | None) -> Shape:
        """What a pack occupies. `alone`: the cause for which its stage is to have no neighbours, if there is one."""
        shape = shape_of(pack[0].kind, self.run, gpus=self.gpus, share=self.shares.share(pack))
        if alone is None:
            return shape
        return shape.whole_device() if alone == "device" else shape.whole_node(self.largest)


class GraphSearcher(Searcher):  # type: ignore[misc]
    """Hands out packs whose parents are done; None while waiting; FINISHED when all stages have ended."""

    def __init__(
        self, frontier: Frontier, job: Job, listener: Listener, elsewhere: Elsewhere, packing: Packing
    ) -> None:
        super().__init__(metric="seconds", mode="min")
        self._frontier, self._job, self._listener, self._elsewhere = frontier, job, listener, elsewhere
        self._packing = packing
        self._fusing = Fusing(packing.run.fusing)
        self._fused: set[str] = set()  # packs whose stages are trained as one
        self._packs: dict[str, list[Stage]] = {}
        self._broken: dict[str, list[Stage]] = {}  # what a dead worker has left; Tune tells the reason a moment later
        self._inquests: list[tuple[Inquest, list[Stage]]] = []
        self._deaths: Counter[tuple[str, Verdict]] = Counter()
        self._alone: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack as a trial's config."""
        self._judge()
        self._listener.pump(self._frontier)
        if self._frontier.done:
            return str(Searcher.FINISHED)
        self._elsewhere.look(self._frontier, self._listener)
        if len(self._packs) >= self._packing.outstanding:
            return None
        pack, fused = self._take()
        if not pack:
            return None
        self._packs[trial_id] = pack
        for stage in pack:
            self._listener.started(stage)
        alone = self._alone.get(pack[0].key, "memory") if pack[0].key in self._frontier.alone else None
        shape = self._packing.shape(pack, alone)
        if fused:
            self._fused.add(trial_id)
            shape = shape.whole_device()
        self._fusing.handed_out(pack, shape.gpus or 1.0, fused=fused)
        return {
            "cpus": shape.cpus,
            "gpus": shape.gpus,
            "urgency": self._frontier.urgency(pack),
            "fused": fused,
            "pack": json.dumps([[stage.record(), self._elsewhere.over(stage.key)] for stage in pack]),
            "job": json.dumps(replace(self._job, device_share=shape.gpus).__dict__),
        }

    def _take(self) -> tuple[list[Stage], bool]:
        """The next pack, and whether its stages are to be trained as one."""
        first, packing = self._frontier.next, self._packing
        if first is not None and not self._job.again and self._fusing.pays(first):
            most = self._fusing.most(first, packing.run)
            pack = self._frontier.take(slots=packing.devices, most=most, shape=self._fusing.shape)
            return pack, len(pack) > 1
        return self._frontier.take(slots=packing.slots, most=packing.run.pack), False

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Stages of a pack have ended."""
        self._settle(result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A pack has ended, or its worker has died."""
        if result is not None:
            self._settle(result)
        left = [s for s in self._packs.pop(trial_id, []) if s.key in self._frontier.running]
        if left and error:
            self._broken[trial_id] = left
        elif left:
            self._settle_left(left, None)

    def worker_died(self, trial_id: str, error: BaseException | None) -> None:
        """Why the worker of a pack has died, as far as Ray knows."""
        left = self._without_committed(self._broken.pop(trial_id, []))
        if left and trial_id in self._fused:
            self._fusing.refuse([stage.key for stage in left])
            self._settle_left(left, None)  # alone, the one at fault will show itself
        elif left:
            self._inquests.append((Inquest(error), left[:1]))
            self._settle_left(left[1:], None)  # those had not begun

    def _judge(self) -> None:
        """Settle the packs of dead workers whose cause of death is known by now."""
        for trial_id in list(self._broken):
            self.worker_died(trial_id, None)
        waiting = []
        for inquest, left in self._inquests:
            if inquest.verdict() is None:
                waiting.append((inquest, left))
            else:
                self._settle_left(left, inquest)
        self._inquests = waiting

    def _without_committed(self, left: list[Stage]) -> list[Stage]:
        """Settle what the worker had finished and not reported. The first of the rest is what it was at."""
        try:
            committed = open_store(self._job.store).commits(stage.key for stage in left)
        except StoreError:
            return left  # told by whoever settles these
        for key in committed:
            self._listener.settle(self._frontier, Outcome(key, "succeeded"))
        return [stage for stage in left if stage.key not in committed]

    def _settle_left(self, left: list[Stage], inquest: Inquest | None) -> None:
        """What is left of a pack: finished all the same, to be tried again, or failed with its worker too often."""
        left = [stage for stage in left if stage.key in self._frontier.running]
        try:
            store = open_store(self._job.store)
            committed = store.commits(stage.key for stage in left)
            for number, stage in enumerate(left):
                if stage.key in committed:
                    self._listener.settle(self._frontier, Outcome(stage.key, "succeeded"))
                    continue
                self._elsewhere.worker_died(stage.key)
                outcome = self._outcome(stage, inquest) if inquest is not None and number == 0 else None
                if outcome is None:
                    self._frontier.give_back(stage.key)
                    continue
                if outcome.outcome == "failed":
                    store.fail({**stage.record(), **outcome.record()})
                self._settle_outcome(outcome)
        except StoreError as fault:
            self._frontier.stop(str(fault))
            for stage in left:
                self._frontier.give_back(stage.key)

    def _outcome(self, stage: Stage, inquest: Inquest) -> Outcome:
        """How the stage ended that the worker was at when it died."""
        verdict = inquest.verdict()
        assert verdict is not None
        self._deaths[stage.key, verdict] += 1
        times = self._deaths[stage.key, verdict]
        if verdict == "memory":
            text = f"Ray ended its worker: the memory of node {inquest.node} was nearly used up"
            return Outcome(stage.key, "failed", error=text, cause="memory", node=inquest.node)
        if verdict == "node":
            if times < MOST_NODES_LOST:
                return Outcome(stage.key, "preempted", error=f"node {inquest.node} died", cause="worker")
            text = f"{times} nodes died while it ran on them, the last {inquest.node}"
            return Outcome(stage.key, "failed", error=text, cause="worker")
        if times <= self._packing.run.max_failures:
            return Outcome(stage.key, "preempted", error=inquest.words, cause="worker")
        text = f"its worker process died {times} times ({inquest.reason})"
        return Outcome(stage.key, "failed", error=text, cause="worker")

    def _settle(self, result: Mapping[str, Any]) -> None:
        for outcome in json.loads(result.get("outcomes", "[]")):
            self._settle_outcome(Outcome(**outcome))

    def _settle_outcome(self, outcome: Outcome) -> None:
        self._alone[outcome.key] = outcome.cause
        stage = self._frontier.stages[outcome.key]
        self._fusing.learn(stage, outcome)
        if outcome.peak_device_bytes and outcome.fused == 1:
            self._packing.shares.learn(stage, outcome.peak_device_bytes, outcome.device_bytes)
        self._listener.settle(self._frontier, outcome)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for `Tuner.restore`; here the store is what a run resumes from."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store is what a run is resumed from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class TellsDeaths(tune.Callback):  # type: ignore[misc]
    """Tells the searcher the error of a trial, which Tune itself keeps from it."""

    def __init__(self, searcher: GraphSearcher) -> None:
        self._searcher = searcher

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed: its worker died, or never came up."""
        self._searcher.worker_died(trial.trial_id, _error_of(trial))

    def __getstate__(self) -> dict[str, Any]:
        """See `GraphSearcher`."""
        return {}


def _error_of(trial: Any) -> BaseException | None:
    """The error that Tune has just written down for a trial; None where it could not."""
    try:
        error: BaseException = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # none was written, or the disk is full: the cause stays unknown
        return None
    return error
