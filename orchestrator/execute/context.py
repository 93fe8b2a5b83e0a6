"""The context of a stage that runs against a store: parents' weights, checkpoints and heartbeats live there."""

from __future__ import annotations

import io
import os
import socket
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from orchestrator.execute.outcome import Job
from orchestrator.plan.stages import Stage
from orchestrator.record.store import Store, open_store
from trainables.context import Context, StageError

HEARTBEAT_SECONDS = 2.0


class StoreContext(Context):
    """Hooks of one stage in one process."""

    def __init__(self, store: Store, stage: Stage, job: Job) -> None:
        super().__init__(
            job.data_root,
            Path(),
            device=choose_device(job.device),
            checkpoint_seconds=job.checkpoint_seconds,
            cache_dir=job.cache_dir,
        )
        self._store, self._stage, self._job = store, stage, job
        self._started = time.time()
        self._last_beat = 0.0
        self.progress(0, 0)

    def weights(self, role: str) -> dict[str, Tensor]:
        """The tensors of a parent, from the store."""
        return dict(_parent_weights(self._job.store, self._stage.parents[role]))

    def save(self, state: dict[str, Any]) -> None:
        """Replace the stage's checkpoint in the store."""
        buffer = io.BytesIO()
        torch.save({"state": state, "history": self.history}, buffer)
        self._store.save_checkpoint(self._stage.key, buffer.getvalue())
        self._last_save = time.monotonic()

    def resume(self) -> dict[str, Any] | None:
        """The stage's last checkpoint; one that cannot be read counts as none."""
        data = self._store.checkpoint(self._stage.key)
        if data is None:
            return None
        try:
            saved = torch.load(io.BytesIO(data), map_location=self.device, weights_only=True)
            self.history = list(saved["history"])
            return dict(saved["state"])
        except Exception:  # torch raises many kinds for a damaged file; starting anew is right for all of them
            return None

    def progress(self, step: int, steps: int) -> None:
        """Write a heartbeat, at most every two seconds."""
        now = time.time()
        if now - self._last_beat < HEARTBEAT_SECONDS:
            return
        self._last_beat = now
        self._store.heartbeat(
            {
                "key": self._stage.key,
                "kind": self._stage.kind,
                "name": self._stage.name,
                "node": socket.gethostname(),
                "pid": os.getpid(),
                "step": step,
                "steps": steps,
                "started": self._started,
                "beat": now,
            }
        )


def choose_device(asked: str) -> torch.device:
    """`auto`: a GPU where this process was given one, else the CPU."""
    if asked != "auto":
        return torch.device(asked)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=2)
def _parent_weights(store_uri: str, key: str) -> dict[str, Tensor]:
    """Weights of a finished stage; kept for the next cells of the same pack."""
    store = open_store(store_uri)
    record = store.commits([key]).get(key)
    path = record and record["artifacts"].get("weights")
    if not path:
        raise StageError(f"the store has no weights of the parent stage {key}")
    tensors: dict[str, Tensor] = load_tensors(store.artifact(path))
    return tensors
