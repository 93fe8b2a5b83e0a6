"""The context of a stage that runs against a store: parents' weights, checkpoints and the lease live there."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from orchestrator.execute.outcome import Job
from orchestrator.plan.stages import Stage
from orchestrator.record.leases import Lease, LeaseLost
from orchestrator.record.store import Store, StoreError, open_store
from orchestrator.record.studies import WeightsDropped
from trainables.context import Context, StageError


class StoreContext(Context):
    """Hooks of one stage in one process. Without a lease (a look at a finished stage) no state is kept."""

    def __init__(self, store: Store, stage: Stage, job: Job, lease: Lease | None) -> None:
        super().__init__(
            job.data_root,
            Path(),
            device=choose_device(job.device, job.device_share),
            checkpoint_seconds=job.checkpoint_seconds,
            cache_dir=job.cache_dir,
            fingerprint=stage.fingerprint,
        )
        self._store, self._stage, self._job, self._lease = store, stage, job, lease
        self._at = (0, 0)
        self._saved = False

    def weights(self, role: str) -> dict[str, Tensor]:
        """The tensors of a parent, from the store."""
        return dict(_parent_weights(self._job.store, self._stage.parents[role]))

    def history_of(self, role: str) -> list[dict[str, float]]:
        """The curve of a parent, from the store. Raises KeyError where there is no such parent."""
        key = self._stage.parents[role]
        record = self._store.commits([key])[key]
        return list(json.loads(self._store.artifact(record["artifacts"]["history"])))

    def save(self, state: dict[str, Any]) -> None:
        """Replace this holder's checkpoint in the store, and drop those of earlier holders after the first one.

        Raises:
            LeaseLost: the stage is somebody else's by now, or finished.
        """
        if self._lease is None:
            return
        self._lease.renew(*self._at)
        buffer = io.BytesIO()
        torch.save({"state": state, "history": self.history}, buffer)
        self._store.save_checkpoint(self._stage.key, self._lease.number, buffer.getvalue())
        if not self._saved:
            self._store.drop_checkpoints(self._stage.key, upto=self._lease.number - 1)
        self._saved = True
        self._last_save = time.monotonic()

    def resume(self) -> dict[str, Any] | None:
        """The checkpoint of the last holder; one that cannot be read counts as none."""
        if self._lease is None:
            return None
        data = self._store.checkpoint(self._stage.key, upto=self._lease.number)
        if data is None:
            return None
        try:
            saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            self.history = list(saved["history"])
            return dict(saved["state"])
        except Exception:  # torch raises many kinds for a damaged file; starting anew is right for all of them
            return None

    def progress(self, step: int, steps: int) -> None:
        """Remember how far the stage is; `beating` tells it. Raises LeaseLost where the stage was taken over."""
        self._at = (step, steps)
        if self._lease is not None and self._lease.lost:
            raise LeaseLost(f"stage {self._stage.key} was taken over")

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Renew the lease from a thread meanwhile, also while the stage evaluates or writes."""
        if self._lease is None:
            yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(self._lease, stop), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _beat(self, lease: Lease, stop: threading.Event) -> None:
        while not stop.wait(self._job.beat_seconds):
            try:
                lease.renew(*self._at)
            except LeaseLost:
                return  # `progress` tells the training thread
            except StoreError:
                continue  # a full disk, say: the stage itself will meet it


def choose_device(asked: str, share: float | None) -> torch.device:
    """`auto`: a GPU where this process was given one, else the CPU.

    Args:
        share: of a GPU that this process was given; None: nobody shares them out, so it takes what there is. Where it
            is 0, Ray leaves all GPUs of the node visible, and the first one is somebody else's.
    """
    if asked != "auto":
        return torch.device(asked)
    return torch.device("cuda" if share != 0 and torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=2)
def _parent_weights(store_uri: str, key: str) -> dict[str, Tensor]:
    """Weights of a finished stage; kept for the next cells of the same pack."""
    store = open_store(store_uri)
    record = store.commits([key]).get(key)
    if record is None:
        raise StoreError(f"store {store.uri}: the parent stage {key} is gone; the same command trains it again")
    path = record["artifacts"].get("weights")
    if not path:
        raise StageError(f"the store has no weights of the parent stage {key}")
    try:
        data = store.artifact(path)
    except WeightsDropped as error:  # no fault of the store's: trying again would end the same way
        raise StageError(str(error)) from None
    try:
        tensors: dict[str, Tensor] = load_tensors(data)
    except (SafetensorError, LookupError, ValueError, TypeError) as error:  # a length, a name, a type that is wrong
        raise store.damaged(path, f"no whole safetensors file: {error}") from error
    return tensors
