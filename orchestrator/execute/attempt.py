"""One attempt at a stage: its lease and its context, and how it ends in the store."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import traceback
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from orchestrator.execute.context import StoreContext
from orchestrator.execute.device_memory import is_device_full, is_device_lost
from orchestrator.execute.outcome import Cause, DeviceLost, Job, Outcome
from orchestrator.plan.stages import Stage
from orchestrator.record.leases import Lease, LeaseLost, acquire, holder
from orchestrator.record.store import Store, StoreError, open_store
from trainables.context import Result, StageError
from trainables.data import DataError


class Attempt:
    """A stage that this process is about to run, from `begin` to one of `succeed`, `fail` and `release`."""

    context: StoreContext

    def __init__(self, stage: Stage, job: Job) -> None:
        self.stage, self._job = stage, job
        self._started, self._began = time.time(), time.monotonic()
        self._lease: Lease | None = None

    def begin(self, over: int = 0) -> Outcome | None:
        """Take the stage's lease. Its outcome, where the stage is finished or held by another run; else None.

        Args:
            over: the number of a dead lease of this stage, to be taken over.
        """
        stage, job = self.stage, self._job
        store = open_store(job.store)
        if not job.again:
            about = {**holder(job.run), "kind": stage.kind, "name": stage.name}
            self._lease = acquire(store, stage.key, about, over=over)
            done = store.commits([stage.key]).get(stage.key)  # after acquiring, so that no commit can slip between
            if done is not None:
                if self._lease is not None:
                    self._lease.end()
                    self._lease = None
                return _from_commit(done)
            if self._lease is None:
                return Outcome(stage.key, "elsewhere", executed=False)
        self._store = store
        self.context = _context(store, stage, job, self._lease)
        return None

    @property
    def lost(self) -> bool:
        """Whether another run has taken the stage over."""
        return self._lease is not None and self._lease.lost

    def succeed(self, result: Result, seconds: float | None = None) -> Outcome:
        """Write the artifacts, then the commit.

        Args:
            seconds: device time that the stage has taken; default: the time since it began.
        """
        stage, store, attempt = self.stage, self._store, uuid.uuid4().hex[:12]
        artifacts = {}
        if result.weights:
            tensors = {name: t.detach().cpu().contiguous() for name, t in result.weights.items()}
            artifacts["weights"] = store.put_artifact(stage.key, attempt, "weights.safetensors", save_tensors(tensors))
        for name, data in result.files.items():
            artifacts[name] = store.put_artifact(stage.key, attempt, name, data)
        history = json.dumps(self.context.history).encode()
        artifacts["history"] = store.put_artifact(stage.key, attempt, "history.json", history)
        if seconds is None:
            seconds = time.monotonic() - self._began
        record = {
            **stage.record(),
            "outcome": "succeeded",
            "metrics": result.metrics,
            "facts": result.facts,
            "artifacts": artifacts,
            "attempt": attempt,
            "node": socket.gethostname(),
            "device": "cuda" if "device" in result.facts else "cpu",
            "started": _iso(self._started),
            "finished": _iso(time.time()),
            "seconds": round(seconds, 3),
            "versions": {"torch": torch.__version__},
        }
        created = store.commit(record)
        if not created:
            store.drop_attempt(stage.key, attempt)
        wasted = not created and self._lease is not None
        if self._lease is not None:
            self._lease.end()
            self._lease = None
            store.drop_checkpoints(stage.key)
        return _from_commit(record, executed=True, wasted=wasted)

    def fail(self, error: Exception) -> Outcome:
        """The outcome of what was raised since `begin` was called. A fault goes to the store, with its traceback.

        Raises:
            DeviceLost: this process can run nothing more on its GPU. The stage is given back.
        """
        if is_device_lost(error):
            self.release()
            raise device_lost(error) from error
        if isinstance(error, LeaseLost):
            return Outcome(self.stage.key, "elsewhere", executed=False)
        if isinstance(error, (StageError, StoreError)):
            return self._fail(str(error), "", "stage" if isinstance(error, StageError) else "store")
        if isinstance(error, DataError):  # an unmounted disk, say: the next run tries again
            return self._fail(f"{error} (on host {socket.gethostname()})", "", "data")
        cause: Cause = "data" if isinstance(error, OSError) else "stage"
        if is_out_of_memory(error):
            cause = "device" if is_device_full(error) else "memory"
        text = f"{type(error).__name__}: {error}".strip()
        return self._fail(text, "".join(traceback.format_exception(error)), cause)

    def _fail(self, error: str, trace: str, cause: Cause) -> Outcome:
        """The outcome of a fault. Only what would end the same way again (cause `stage`) loses its checkpoint."""
        stage, seconds = self.stage, round(time.monotonic() - self._began, 3)
        outcome = Outcome(stage.key, "failed", error=error, cause=cause, seconds=seconds, node=socket.gethostname())
        if self._lease is not None and not self._lease.lost:
            with contextlib.suppress(StoreError):  # the outcome itself still reaches the driver, which keeps it
                store = open_store(self._job.store)
                store.fail({**stage.record(), **outcome.record(), "traceback": trace, "finished": _iso(time.time())})
                if cause == "stage":
                    store.drop_checkpoints(stage.key, upto=self._lease.number)  # who took over meanwhile keeps its own
        self.release()
        return outcome

    def release(self) -> None:
        """Give the stage back, unless it has ended: whoever looks next must not take it for running."""
        if self._lease is not None:
            with contextlib.suppress(StoreError):
                self._lease.release()
            self._lease = None


def _context(store: Store, stage: Stage, job: Job, lease: Lease | None) -> StoreContext:
    if stage.kind != "trial":
        return StoreContext(store, stage, job, lease)
    from orchestrator.execute.trial_context import TrialContext

    return TrialContext(store, stage, job, lease)


def is_out_of_memory(error: BaseException) -> bool:
    """True for what Python and torch raise when memory of the host or of a device is used up."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or is_device_full(error)
        or (isinstance(error, RuntimeError) and ("not enough memory" in text or "can't allocate memory" in text))
    )


def device_lost(error: BaseException) -> DeviceLost:
    """What a process whose GPU is lost to it dies of, in one line; torch's own text goes on with advice."""
    first = next(iter(str(error).splitlines()), "")
    return DeviceLost(f"its GPU is lost to it: {type(error).__name__}: {first} (on host {socket.gethostname()})")


def _from_commit(record: Mapping[str, Any], *, executed: bool = False, wasted: bool = False) -> Outcome:
    facts = record["facts"]
    return Outcome(
        record["key"],
        "succeeded",
        executed=executed,
        wasted=wasted,
        seconds=record["seconds"],
        node=record["node"],
        peak_device_bytes=facts.get("peak_device_bytes", 0),
        device_bytes=facts.get("device_bytes", 0),
        fused=facts.get("fused", 1),
        resumed=bool(facts.get("resumed_from")),
        metrics=record["metrics"],
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
