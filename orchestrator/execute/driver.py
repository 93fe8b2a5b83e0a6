"""One run: preflight, the graph on an executor, MLflow beside it, and the count at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orchestrator.execute.elsewhere import Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener, View
from orchestrator.execute.outcome import Job, Outcome
from orchestrator.grid.schema import Run
from orchestrator.plan.diff import Diff
from orchestrator.plan.stages import Stage
from orchestrator.record.mlflow_writer import MlflowWriter
from orchestrator.record.reconcile import load
from orchestrator.record.store import Store, StoreError
from orchestrator.record.tracking import Tracker


@dataclass(frozen=True)
class Where:
    """On what a run works."""

    executor: str
    address: str | None
    max_concurrent: int | None
    tracking_uri: str
    experiment: str


@dataclass
class Report:
    """How a run ended, in stages."""

    succeeded: int = 0
    failed: dict[str, str] = field(default_factory=dict)
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
    warn: Callable[[str], None],
    *,
    before: Callable[[], object],
) -> Report:
    """Run all that `found` says is to run. `before` is called once the preflight has passed.

    Raises:
        StoreError, TrackingError, ClusterError: the preflight failed; nothing has run.
    """
    store.probe(uuid.uuid4().hex)
    frontier = Frontier(found.to_run, finished=found.keys("reused"))
    report = Report()
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        connecting = pool.submit(Tracker, where.tracking_uri, where.experiment)
        ray_is_local = stack.enter_context(_ray(where)) if found.to_run and where.executor == "ray" else None
        tracker = connecting.result()
        if ray_is_local:
            _check_fits(frontier, run)
        before()
        writer = MlflowWriter(tracker, _grids(found), lambda key: load(store, key), warn)
        writer.start()
        for key in found.keys("reused"):
            writer.put(key)
        listener = Listener(view, _Sink(store, writer), probe=lambda: _probe(store))
        elsewhere = Elsewhere(store, job.run, run.lease_seconds)
        elsewhere.prepare(frontier)
        try:
            with _terminate_as_interrupt():
                if ray_is_local is not None:
                    from orchestrator.execute.ray_tune import run_on_ray

                    run_on_ray(
                        frontier,
                        job,
                        listener,
                        elsewhere,
                        run,
                        local=ray_is_local,
                        max_concurrent=where.max_concurrent,
                    )
                elif found.to_run:
                    from orchestrator.execute.inline import run_inline

                    run_inline(frontier, job, listener, elsewhere)
        except KeyboardInterrupt:
            report.interrupted = True
            warn("interrupted; finished stages are kept, the same command goes on from here")
    if writer.waiting > 20:
        warn(f"writing the last {writer.waiting} runs to MLflow")
    report.not_in_mlflow = len(writer.finish())
    report.stopped = frontier.stopped
    return _count(report, found, listener)


def _check_fits(frontier: Frontier, run: Run) -> None:
    from orchestrator.execute.ray_tune import check_fits

    check_fits({stage.kind for stage in frontier.stages.values()}, run)


@contextmanager
def _ray(where: Where) -> Iterator[bool]:
    """A connection to Ray; true where it was started here. Ends whatever follows."""
    if where.address is None:
        # Ray reads this when it is imported: its local processes then listen on the loopback address only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_health_check_period_ms", "1000")  # a dead raylet is found in seconds
    from orchestrator.execute.ray_tune import connect

    try:
        yield connect(where.address)
    finally:
        import ray

        ray.shutdown()


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


class _Sink:
    """Keeps ended stages: blocked ones in the store, all of them in MLflow."""

    def __init__(self, store: Store, writer: MlflowWriter) -> None:
        self._store, self._writer = store, writer

    def put(self, stage: Stage, outcome: Outcome) -> None:
        if outcome.outcome == "succeeded":
            mine = outcome.executed and not outcome.wasted
            (self._writer.put if mine else self._writer.put_elsewhere)(stage.key)
            return
        record = {**stage.record(), **outcome.record(), "finished": datetime.now(UTC).isoformat()}
        if outcome.outcome == "blocked":
            with contextlib.suppress(StoreError):  # then the store is what failed; the outcome still counts
                self._store.fail(record)
        self._writer.put(record)


def _count(report: Report, found: Diff, listener: Listener) -> Report:
    ended = listener.outcomes
    report.succeeded = len(found.keys("reused")) + sum(o.outcome == "succeeded" for o in ended.values())
    report.failed = {key: found.reasons[key] for key in found.keys("failed")}
    report.failed |= {k: o.error or "" for k, o in ended.items() if o.outcome == "failed"}
    report.blocked = {k: o.error or "" for k, o in ended.items() if o.outcome == "blocked"}
    report.blocked |= {key: found.reasons[key] for key in found.keys("blocked")}
    kinds = Counter(found.stages[k].kind for k, o in ended.items() if o.executed)
    report.executed = dict(kinds)
    report.wasted = sum(o.wasted for o in ended.values())
    report.metrics = {k: o.metrics for k, o in ended.items() if o.outcome == "succeeded"}
    return report


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM (a stopped Ray job) ends a run like Ctrl-C: tidily."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
