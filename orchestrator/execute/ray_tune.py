"""The Ray executor: one Tuner over the whole graph. Its searcher releases packs when their parents are done."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterable
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

from orchestrator.execute.deaths import let_tune_survive_memory_kills
from orchestrator.execute.elsewhere import Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import ClusterError, Job
from orchestrator.execute.pack_trainable import PackTrainable
from orchestrator.execute.ray_node import stopped_with_its_node
from orchestrator.execute.resources import MeasuredShares, Shape, shape_of
from orchestrator.execute.searcher import GraphSearcher, Packing, TellsDeaths
from orchestrator.execute.warm_workers import give_free_workers_to_the_most_urgent
from orchestrator.grid.schema import Run
from orchestrator.record.store import Store, open_store

COMMITS_READ = 300  # to learn from, how much of a GPU stages like those to run have taken


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
    packing = _packing(frontier, job, run, local=local, max_concurrent=max_concurrent)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(packing.outstanding)
    let_tune_survive_memory_kills()
    give_free_workers_to_the_most_urgent()
    searcher = GraphSearcher(frontier, job, listener, elsewhere, packing)
    scratch = Path(tempfile.mkdtemp(prefix="transfergrid-tune-"))
    try:
        tuner = tune.Tuner(
            tune.with_resources(PackTrainable, lambda config: Shape(config["cpus"], config["gpus"]).placement()),
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
                callbacks=[TellsDeaths(searcher)],
                failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands out what is to be tried again
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        with stopped_with_its_node(frontier):
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _packing(frontier: Frontier, job: Job, run: Run, *, local: bool, max_concurrent: int | None) -> Packing:
    """How the stages are handed out on the connected cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    shares = MeasuredShares.of_records(_newest_commits(open_store(job.store))) if gpus else MeasuredShares()
    shapes = [shape_of(kind, run, gpus=gpus) for kind in frontier.kinds]
    fitting = [n for n in nodes if n.get("GPU", 0) > 0] if any(shape.gpus for shape in shapes) else nodes
    slots = min((_slots(shape, nodes) for shape in shapes), default=1)
    slots = min(slots, max_concurrent or slots)
    devices = min(slots, *(_slots(shape.whole_device(), nodes) for shape in shapes)) if shapes else slots
    # One in waiting for each worker: Tune ends a worker that becomes free while no pack waits for it, and several may
    # become free at one moment. On a cluster more, so that its autoscaler sees the demand.
    outstanding = max_concurrent or (2 * slots if local else max(64, 2 * slots))
    largest = max((node.get("CPU", 1.0) for node in fitting), default=1.0)
    return Packing(run, slots, devices, outstanding, gpus, largest, shares)


def _slots(shape: Shape, nodes: list[dict[str, float]]) -> int:
    """How many workers of a shape the nodes hold, at least 1."""
    by_cpu = (node.get("CPU", 0) // shape.cpus for node in nodes)
    by_gpu = (node.get("GPU", 0) // shape.gpus if shape.gpus else math.inf for node in nodes)
    return max(1, int(sum(map(min, by_cpu, by_gpu))))


def _newest_commits(store: Store) -> list[dict[str, Any]]:
    newest = sorted(store.items("commits"), key=lambda item: item.written)[-COMMITS_READ:]
    return list(store.commits(Path(item.path).stem for item in newest).values())


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
