"""Run one stage and commit it. The same function serves Ray workers, the inline executor and tests."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from orchestrator.execute.context import StoreContext
from orchestrator.execute.device_memory import device_facts, limit_device_memory
from orchestrator.execute.outcome import Cause, Job, Outcome
from orchestrator.plan.stages import Stage
from orchestrator.record.leases import Lease, LeaseLost, acquire, holder
from orchestrator.record.store import Store, StoreError, open_store
from trainables.context import Context, Result, StageError
from trainables.data import DataError
from trainables.stages import STAGES


def run_stage(stage: Stage, job: Job, over: int = 0) -> Outcome:
    """Run `stage` unless it is finished or held by another run, write its artifacts, then its commit.

    Every fault of the stage becomes an outcome with one line of error; its traceback goes to the store.

    Args:
        over: the number of a dead lease of this stage, to be taken over.
    """
    began = time.time()
    lease: Lease | None = None
    try:
        store = open_store(job.store)
        if not job.again:
            lease = acquire(store, stage.key, {**holder(job.run), "kind": stage.kind, "name": stage.name}, over=over)
            done = store.commits([stage.key]).get(stage.key)  # after acquiring, so that no commit can slip between
            if done is not None:
                if lease is not None:
                    lease.end()
                return _from_commit(done)
            if lease is None:
                return Outcome(stage.key, "elsewhere", executed=False)
        context = _context(store, stage, job, lease)
        with context.beating():
            limit_device_memory(context.device, job.device_share)
            result = _function(stage)(stage.spec, context)
            result.facts |= device_facts(context.device)
            return _commit(store, stage, result, context.history, began, lease)
    except LeaseLost:
        return Outcome(stage.key, "elsewhere", executed=False)
    except StageError as error:
        return _failed(job, stage, lease, str(error), "", began, "stage")
    except DataError as error:  # an unmounted disk, say: the next run tries again
        return _failed(job, stage, lease, f"{error} (on host {socket.gethostname()})", "", began, "data")
    except StoreError as error:
        return _failed(job, stage, lease, str(error), "", began, "store")
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip()
        cause: Cause = "data" if isinstance(error, OSError) else "stage"
        if is_out_of_memory(error):
            cause = "device" if isinstance(error, torch.OutOfMemoryError) else "memory"
        return _failed(job, stage, lease, text, traceback.format_exc(), began, cause)
    except BaseException:  # interrupted: whoever looks next must not take the stage for running
        _release(lease)
        raise


def _function(stage: Stage) -> Callable[[Mapping[str, Any], Context], Result]:
    if stage.spec.get("analysis", {}).get("kind") != "study":
        return STAGES[stage.kind]
    from orchestrator.execute.sampling import analyse_study  # Optuna, which takes a second to import

    return analyse_study


def _context(store: Store, stage: Stage, job: Job, lease: Lease | None) -> StoreContext:
    if stage.kind != "trial":
        return StoreContext(store, stage, job, lease)
    from orchestrator.execute.trial_context import TrialContext

    return TrialContext(store, stage, job, lease)


def is_out_of_memory(error: BaseException) -> bool:
    """True for what Python and torch raise when memory of the host or of a device is used up."""
    text = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("not enough memory" in text or "can't allocate memory" in text)
    )


def _commit(
    store: Store, stage: Stage, result: Result, history: list[dict[str, float]], began: float, lease: Lease | None
) -> Outcome:
    attempt = uuid.uuid4().hex[:12]
    artifacts = {}
    if result.weights:
        tensors = {name: t.detach().cpu().contiguous() for name, t in result.weights.items()}
        artifacts["weights"] = store.put_artifact(stage.key, attempt, "weights.safetensors", save_tensors(tensors))
    for name, data in result.files.items():
        artifacts[name] = store.put_artifact(stage.key, attempt, name, data)
    artifacts["history"] = store.put_artifact(stage.key, attempt, "history.json", json.dumps(history).encode())
    record = {
        **stage.record(),
        "outcome": "succeeded",
        "metrics": result.metrics,
        "facts": result.facts,
        "artifacts": artifacts,
        "attempt": attempt,
        "node": socket.gethostname(),
        "device": "cuda" if "device" in result.facts else "cpu",
        "started": _iso(began),
        "finished": _iso(time.time()),
        "seconds": round(time.time() - began, 3),
        "versions": {"torch": torch.__version__},
    }
    created = store.commit(record)
    if not created:
        store.drop_attempt(stage.key, attempt)
    if lease is not None:
        lease.end()
        store.drop_checkpoints(stage.key)
    return _from_commit(record, executed=True, wasted=not created and lease is not None)


def _from_commit(record: dict[str, Any], *, executed: bool = False, wasted: bool = False) -> Outcome:
    return Outcome(
        record["key"],
        "succeeded",
        executed=executed,
        wasted=wasted,
        seconds=record["seconds"],
        node=record["node"],
        peak_device_bytes=record["facts"].get("peak_device_bytes", 0),
        device_bytes=record["facts"].get("device_bytes", 0),
        metrics=record["metrics"],
    )


def _failed(job: Job, stage: Stage, lease: Lease | None, error: str, trace: str, began: float, cause: Cause) -> Outcome:
    """The outcome of a fault. Only what would end the same way again (cause `stage`) loses its checkpoint."""
    seconds = round(time.time() - began, 3)
    outcome = Outcome(stage.key, "failed", error=error, cause=cause, seconds=seconds, node=socket.gethostname())
    if lease is not None and not lease.lost:
        with contextlib.suppress(StoreError):  # the outcome itself still reaches the driver, which keeps it
            store = open_store(job.store)
            store.fail({**stage.record(), **outcome.record(), "traceback": trace, "finished": _iso(time.time())})
            if cause == "stage":
                store.drop_checkpoints(stage.key, upto=lease.number)  # one that took over meanwhile keeps its own
    _release(lease)
    return outcome


def _release(lease: Lease | None) -> None:
    if lease is not None:
        with contextlib.suppress(StoreError):
            lease.release()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
