"""One run: preflight, the graph on an executor, MLflow beside it, and the count at the end."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.execute.cluster import check_fits, check_nodes, connected
from orchestrator.execute.elsewhere import Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.interrupts import forgive, interruptible
from orchestrator.execute.listener import Listener, View
from orchestrator.execute.outcome import Job
from orchestrator.execute.sink import Sink, tell_ended_before
from orchestrator.execute.stall import StallCheck, cluster_words, stalls_told
from orchestrator.execute.trials import all_trials, conclude_left
from orchestrator.grid.schema import Run
from orchestrator.plan.diff import KINDS, Diff
from orchestrator.plan.stages import Stage, Study
from orchestrator.plan.studies import Trial
from orchestrator.record.mlflow_writer import MlflowWriter
from orchestrator.record.reconcile import load
from orchestrator.record.store import Store, StoreError
from orchestrator.record.tracking import Tracker

Warn = Callable[[str], None]
Mirror = Callable[[Study, list[Trial]], None]

if TYPE_CHECKING:
    from orchestrator.execute.studies import Studies


@dataclass(frozen=True)
class Where:
    """On what a run works."""

    executor: str
    address: str | None
    max_concurrent: int | None
    tracking_uri: str
    experiment: str
    study_storage: str | None = None


@dataclass
class Report:
    """How a run ended, in stages."""

    succeeded: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    failed_trials: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # of the stages that failed
    blocked: dict[str, str] = field(default_factory=dict)
    executed: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    wasted: int = 0
    interrupted: bool = False
    stopped: str | None = None
    not_in_mlflow: int = 0


def execute(
    found: Diff,
    store: Store,
    job: Job,
    run: Run,
    where: Where,
    view: View,
    warn: Warn,
    *,
    before: Callable[[], object],
) -> Report:
    """Run all that `found` says is to run. `before` is called once the preflight has passed.

    An interrupt after that ends the run and is told by the report; one before it is passed on, as nothing has run.

    Raises:
        StoreError, TrackingError, ClusterError: the preflight failed; nothing has run.
    """
    store.probe(uuid.uuid4().hex)
    unfinished = _unfinished_trials(found)
    first = {key: stage for key, stage in found.to_run.items() if key not in unfinished}
    frontier = Frontier(first, finished=found.keys("reused"))
    report = Report()
    begun: tuple[MlflowWriter, Listener] | None = None
    with interruptible():
        try:
            with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
                connecting = pool.submit(Tracker, where.tracking_uri, where.experiment)
                ray_is_local = (
                    stack.enter_context(connected(where.address)) if found.planned and where.executor == "ray" else None
                )
                tracker = connecting.result()
                if ray_is_local:
                    check_fits(found, run)
                elif ray_is_local is False:
                    check_nodes(frontier, store, job, warn)
                before()
                grids = _grids(found)
                writer = MlflowWriter(tracker, grids, lambda key: load(store, key), warn)
                listener = Listener(view, Sink(store, writer, frontier), probe=lambda: _probe(store))
                begun = writer, listener
                if not job.again:
                    conclude_left(found.plans, store)
                mirror = stack.enter_context(_mirrored(found, store, None if job.again else where.study_storage, warn))
                if found.keys("deferred"):
                    studies = _studies(found, store, unfinished, listener, grids, view, mirror)
                    _begin(studies, frontier, listener)
                writer.start()
                tell_ended_before(found, store, writer, frontier, job)
                try:
                    _work(frontier, store, job, run, where, listener, warn, ray_is_local)
                except KeyboardInterrupt:
                    _interrupted(report, warn)  # at once: Ray takes a moment to end
        except KeyboardInterrupt:
            if begun is None:
                raise
            _interrupted(report, warn)
        writer, listener = begun
        report.stopped = frontier.stopped
        _finish(report, writer, warn)
    return _count(report, found, listener, again=job.again)


def _work(
    frontier: Frontier,
    store: Store,
    job: Job,
    run: Run,
    where: Where,
    listener: Listener,
    warn: Warn,
    ray_is_local: bool | None,
) -> None:
    """Run the graph. `ray_is_local`: None without Ray."""
    elsewhere = Elsewhere(store, job.run, run.lease_seconds)
    elsewhere.prepare(frontier)
    there = cluster_words(run) if ray_is_local is False else None
    with stalls_told(StallCheck(frontier, store, job.run, warn, there)):
        if ray_is_local is not None:
            from orchestrator.execute.ray_tune import run_on_ray

            run_on_ray(frontier, job, listener, elsewhere, run, local=ray_is_local, max_concurrent=where.max_concurrent)
            if frontier.stopped is not None:
                forgive()  # Ray died, and its watch has interrupted the run
        elif not frontier.done:
            from orchestrator.execute.inline import run_inline

            run_inline(frontier, job, listener, elsewhere)


def _interrupted(report: Report, warn: Warn) -> None:
    if not report.interrupted:
        warn("interrupted; finished stages are kept, the same command goes on from here")
    report.interrupted = True


def _finish(report: Report, writer: MlflowWriter, warn: Warn) -> None:
    """Let the writer complete MLflow. An interrupt ends the waiting: the store holds all that MLflow then lacks."""
    if writer.waiting > 20:
        warn(f"writing the last {writer.waiting} runs to MLflow")
    try:
        report.not_in_mlflow = len(writer.finish())
    except KeyboardInterrupt:
        report.interrupted = True
        report.not_in_mlflow = len(writer.missed) + writer.waiting
        warn("interrupted while MLflow was being completed; all results are in the store, nothing is lost")


def _probe(store: Store) -> str | None:
    """Why the store cannot be used, None where it can."""
    try:
        store.probe(uuid.uuid4().hex)
    except StoreError as error:
        return str(error)
    return None


def _grids(found: Diff) -> dict[str, list[str]]:
    grids: dict[str, list[str]] = {}
    for plan in found.plans:
        for key in plan.stages:
            grids.setdefault(key, []).append(plan.grid)
    return grids


@contextmanager
def _mirrored(found: Diff, store: Store, storage: str | None, warn: Warn) -> Iterator[Mirror]:
    """What to tell of studies, so that an Optuna storage shows them; also those that are over, as the run that ended
    them may have been killed before it told."""
    if storage is None or not any(plan.studies for plan in found.plans):
        yield lambda study, trials: None
        return
    from orchestrator.execute.study_mirror import StudyMirror

    mirror = StudyMirror(storage, warn)
    mirror.start()
    for plan in found.plans:
        for study in plan.studies.values():
            mirror.put(study, all_trials(store, study))
    try:
        yield mirror.put
    finally:
        mirror.finish()


def _awaited(found: Diff) -> set[str]:
    """The studies that stages of this run wait for."""
    return {study for key in found.keys("deferred") for study in found.stages[key].awaits.values()}


def _unfinished_trials(found: Diff) -> dict[str, Stage]:
    """The trials of earlier runs that are to be run now, for their studies to hand out."""
    awaited = _awaited(found)
    return {key: stage for key, stage in found.to_run.items() if stage.study in awaited}


def _studies(
    found: Diff,
    store: Store,
    unfinished: Mapping[str, Stage],
    listener: Listener,
    grids: dict[str, list[str]],
    view: View,
    mirror: Mirror,
) -> Studies:
    """The studies that stages of this run wait for."""
    from orchestrator.execute.studies import Studies  # Optuna, which takes a second to import

    waiting = {key: found.stages[key] for key in found.keys("deferred")}
    awaited = _awaited(found)
    studies = {key: study for plan in found.plans for key, study in plan.studies.items() if key in awaited}
    for plan in found.plans:
        for key in plan.studies:
            grids.setdefault(key, []).append(plan.grid)

    def admitted(stage: Stage, origin: str) -> None:
        grids[stage.key] = sorted({*grids.get(stage.key, ()), *grids.get(origin, ())})
        view.added(stage)

    return Studies(store, studies.values(), unfinished, waiting, listener, admitted, mirror)


def _begin(studies: Studies, frontier: Frontier, listener: Listener) -> None:
    listener.feed = studies
    try:
        studies.begin(frontier)
    except StoreError as error:
        frontier.stop(str(error))


def _count(report: Report, found: Diff, listener: Listener, *, again: bool) -> Report:
    ended = listener.outcomes
    report.succeeded = len(found.keys("reused")) + sum(o.outcome == "succeeded" for o in ended.values())
    report.failed = {key: found.reasons[key] for key in found.keys("failed")}
    report.failed |= {k: o.error or "" for k, o in ended.items() if o.outcome == "failed"}
    # Without a failed trial its study goes on. Where none is left, the cells below are blocked.
    kinds = {key: stage.kind for key, stage in found.stages.items()} | listener.kinds
    report.names = {key: listener.names.get(key) or found.stages[key].name for key in report.failed}
    trials = [key for key in report.failed if kinds[key] == "trial" and not again]
    report.failed_trials = {key: report.failed.pop(key) for key in trials}
    report.blocked = {k: o.error or "" for k, o in ended.items() if o.outcome == "blocked"}
    report.blocked |= {key: found.reasons[key] for key in found.keys("blocked")}
    executed = Counter(listener.kinds[k] for k, o in ended.items() if o.executed)
    report.executed = {kind: executed[kind] for kind in KINDS}
    report.wasted = sum(o.wasted for o in ended.values())
    report.metrics = {k: o.metrics for k, o in ended.items() if o.outcome == "succeeded"}
    return report
