"""The Ray executor: one Tuner over the whole graph. A searcher releases packs of stages when their parents are done."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray reads these when it is imported. Its own loggers, progress tables and snapshots would only cost time here:
# the store is what a run is resumed from.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray import tune
from ray.tune.search import Searcher

from orchestrator.execute.elsewhere import Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import ClusterError, Job, Outcome
from orchestrator.execute.ray_node import stopped_with_its_node
from orchestrator.execute.resources import shape_of
from orchestrator.grid.schema import Run
from orchestrator.plan.stages import Stage
from orchestrator.record.store import StoreError, open_store


def connect(address: str | None) -> bool:
    """Join the Ray cluster at `address`, or start one on this machine. True: it was started here.

    Raises:
        ClusterError: nothing answers at `address`, or the token is not the cluster's.
    """
    try:
        if address:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            return False
        ray.init(
            address="local",  # without it, Ray would join whatever cluster `ray start` has begun on this machine
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        return True
    except Exception as error:  # Ray raises many kinds here; each means that there is no cluster to work on
        where = f"at {address}" if address else "on this machine"
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(f"no Ray cluster {where}: {text}") from error


def run_on_ray(
    frontier: Frontier,
    job: Job,
    listener: Listener,
    elsewhere: Elsewhere,
    run: Run,
    *,
    local: bool,
    max_concurrent: int | None,
) -> None:
    """Run all stages of `frontier` on the connected cluster."""
    totals = ray.cluster_resources()
    gpus = totals.get("GPU", 0) > 0
    kinds = {stage.kind for stage in frontier.stages.values()}
    usual = {kind: shape_of(kind, run, gpus=gpus) for kind in kinds}
    largest = max((node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"]), default=1.0)
    shapes = {(kind, False): shape for kind, shape in usual.items()}
    shapes |= {(kind, True): shape.whole(largest) for kind, shape in usual.items()}
    slots = max(1, min(int(totals.get("CPU", 1) // shape.cpus) for shape in usual.values()))
    slots = min(slots, max_concurrent or slots)
    outstanding = max_concurrent or (slots + 1 if local else max(64, 2 * slots))
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(outstanding)
    packing = Packing(most=run.pack, slots=slots, outstanding=outstanding, retries=run.max_failures)
    searcher = GraphSearcher(frontier, job, listener, elsewhere, packing)
    scratch = Path(tempfile.mkdtemp(prefix="transfergrid-tune-"))
    try:
        tuner = tune.Tuner(
            tune.with_resources(PackTrainable, lambda config: shapes[config["kind"], config["alone"]].placement()),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"pack_{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"pack_{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands out what is to be tried again
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        with stopped_with_its_node(frontier):
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_fits(kinds: Iterable[str], run: Run) -> None:
    """Raise ClusterError where a kind of stage asks for more than this machine has."""
    totals = ray.cluster_resources()
    for kind in kinds:
        shape = shape_of(kind, run, gpus=totals.get("GPU", 0) > 0)
        for name, asked in (("CPU", shape.cpus), ("GPU", shape.gpus)):
            if asked > totals.get(name, 0):
                raise ClusterError(
                    f"run.resources.{kind}: a stage asks for {asked:g} {name}, but this machine has "
                    f"{totals.get(name, 0):g}; lower it, or start on a cluster with --address"
                )


@dataclass(frozen=True)
class Packing:
    """How stages are handed out: largest pack, workers that share what is ready, packs at a time, retries of a stage
    whose worker died."""

    most: int
    slots: int
    outstanding: int
    retries: int


class GraphSearcher(Searcher):  # type: ignore[misc]
    """Hands out packs whose parents are done; None while waiting; FINISHED when all stages have ended."""

    def __init__(
        self, frontier: Frontier, job: Job, listener: Listener, elsewhere: Elsewhere, packing: Packing
    ) -> None:
        super().__init__(metric="seconds", mode="min")
        self._frontier, self._job, self._listener, self._elsewhere = frontier, job, listener, elsewhere
        self._packing = packing
        self._packs: dict[str, list[Stage]] = {}
        self._deaths: Counter[str] = Counter()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack as a trial's config."""
        if self._frontier.done:
            return str(Searcher.FINISHED)
        self._elsewhere.look(self._frontier, self._listener)
        if len(self._packs) >= self._packing.outstanding:
            return None
        pack = self._frontier.take(slots=self._packing.slots, most=self._packing.most)
        if not pack:
            return None
        self._packs[trial_id] = pack
        for stage in pack:
            self._listener.started(stage)
        return {
            "kind": pack[0].kind,
            "alone": pack[0].key in self._frontier.alone,
            "pack": json.dumps([[stage.record(), self._elsewhere.over(stage.key)] for stage in pack]),
            "job": json.dumps(self._job.__dict__),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A stage of a pack has ended."""
        self._settle(result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A pack has ended, or its worker died too often."""
        if result is not None:
            self._settle(result)
        unsettled = [s for s in self._packs.pop(trial_id, []) if s.key in self._frontier.running]
        if not unsettled:
            return
        try:
            self._settle_unsettled(unsettled, error)
        except StoreError as fault:
            self._frontier.stop(str(fault))
            for stage in unsettled:
                self._frontier.give_back(stage.key)

    def _settle_unsettled(self, unsettled: list[Stage], error: bool) -> None:
        """What is left of a pack: finished all the same, to be tried again, or failed with its worker too often."""
        committed = open_store(self._job.store).commits(stage.key for stage in unsettled)
        for number, stage in enumerate(unsettled):
            if stage.key in committed:
                self._listener.settle(self._frontier, Outcome(stage.key, "succeeded"))
            elif number == 0 and error and not self._may_try_again(stage.key):
                text = f"its worker process died {self._deaths[stage.key]} times (killed, or out of memory)"
                outcome = Outcome(stage.key, "failed", error=text, cause="worker")
                open_store(self._job.store).fail({**stage.record(), **outcome.record()})
                self._listener.settle(self._frontier, outcome)
            else:
                self._elsewhere.worker_died(stage.key)
                self._frontier.give_back(stage.key)

    def _may_try_again(self, key: str) -> bool:
        """Count a death of the worker that ran `key`."""
        self._deaths[key] += 1
        return self._deaths[key] <= self._packing.retries

    def _settle(self, result: Mapping[str, Any]) -> None:
        if "outcome" in result:
            self._listener.settle(self._frontier, Outcome(**json.loads(result["outcome"])))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for `Tuner.restore`; here the store is what a run resumes from."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store is what a run is resumed from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class PackTrainable(tune.Trainable):  # type: ignore[misc]
    """A warm worker: each `step` runs one stage of the pack, so each cell commits and reports on its own."""

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
