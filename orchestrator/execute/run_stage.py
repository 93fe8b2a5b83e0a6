"""Run one stage and commit it. The same function serves Ray workers, the inline executor and tests."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from orchestrator.execute.context import StoreContext
from orchestrator.execute.outcome import Job, Outcome
from orchestrator.plan.stages import Stage
from orchestrator.record.store import Store, StoreError, open_store
from trainables.context import Result, StageError
from trainables.data import DataError
from trainables.stages import STAGES


def run_stage(stage: Stage, job: Job) -> Outcome:
    """Run `stage` unless it is finished, write its artifacts, then its commit.

    Every fault of the stage becomes an outcome with one line of error; its traceback goes to the store.
    """
    began = time.time()
    try:
        store = open_store(job.store)
        done = store.commits([stage.key]).get(stage.key)
        if done is not None and not job.again:
            return _from_commit(done)
        context = StoreContext(store, stage, job)
        result = STAGES[stage.kind](stage.spec, context)
        return _commit(store, stage, result, context.history, began)
    except (StageError, DataError) as error:
        return _failed(job, stage, str(error), "", began, for_good=True)
    except StoreError as error:
        return _failed(job, stage, str(error), "", began)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip()
        return _failed(job, stage, text, traceback.format_exc(), began)
    except BaseException:  # interrupted: whoever looks next must not take the stage for running
        with contextlib.suppress(StoreError):
            open_store(job.store).stop_heartbeat(stage.key)
        raise


def _commit(store: Store, stage: Stage, result: Result, history: list[dict[str, float]], began: float) -> Outcome:
    attempt = uuid.uuid4().hex[:12]
    artifacts = {}
    if result.weights:
        tensors = {name: t.detach().cpu().contiguous() for name, t in result.weights.items()}
        artifacts["weights"] = store.put_artifact(stage.key, attempt, "weights.safetensors", save_tensors(tensors))
    artifacts["history"] = store.put_artifact(stage.key, attempt, "history.json", json.dumps(history).encode())
    record = {
        **stage.record(),
        "outcome": "succeeded",
        "metrics": result.metrics,
        "facts": result.facts,
        "artifacts": artifacts,
        "attempt": attempt,
        "node": socket.gethostname(),
        "started": _iso(began),
        "finished": _iso(time.time()),
        "seconds": round(time.time() - began, 3),
        "versions": {"torch": torch.__version__},
    }
    created = store.commit(record)
    if not created:
        store.drop_attempt(stage.key, attempt)
    store.clear_running(stage.key)
    return _from_commit(record, executed=True)


def _from_commit(record: dict[str, Any], *, executed: bool = False) -> Outcome:
    return Outcome(
        record["key"],
        "succeeded",
        executed=executed,
        seconds=record["seconds"],
        node=record["node"],
        metrics=record["metrics"],
    )


def _failed(job: Job, stage: Stage, error: str, trace: str, began: float, *, for_good: bool = False) -> Outcome:
    """The outcome of a fault. What could end otherwise on another day (a full disk, say) keeps its checkpoint."""
    outcome = Outcome(
        stage.key, "failed", error=error, seconds=round(time.time() - began, 3), node=socket.gethostname()
    )
    with contextlib.suppress(StoreError):  # the outcome itself still reaches the driver, which keeps it
        store = open_store(job.store)
        store.fail({**stage.record(), **outcome.record(), "traceback": trace, "finished": _iso(time.time())})
        if for_good:
            store.clear_running(stage.key)
        else:
            store.stop_heartbeat(stage.key)
    return outcome


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
