"""What a stage gets from outside and what it gives back. The base class serves notebooks, tests and GPU machines."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.data.listing import DataError


class StageError(Exception):
    """A fault of the stage itself: repeating it would end the same way. The message is for the user."""


class Diverged(StageError):
    """The loss is no longer a finite number."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss was not finite at step {step}: lower the learning rate or check the data")
        self.step = step


@dataclass
class Result:
    """What a stage ends with.

    metrics: final values, shares as fractions in [0, 1]; weights: tensors by name, on any device, for the stages
    below; facts: counts and notes as JSON values.
    """

    metrics: dict[str, float]
    weights: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Context:
    """Folders, device, parents' weights, and the hooks of a running stage.

    Args:
        data_root: folder below which datasets are found.
        work_dir: folder for checkpoints of this stage.
        parents: tensors by role (`{"pretrain": {...}}`), for stages that start from others.
        checkpoint_seconds: least time between two checkpoints.
        fingerprint: what the data were when the stage was planned; None: not checked.
        cache_dir: node-wide folder for decoded images and manifests; None keeps the default of `trainables.data`.
    """

    def __init__(
        self,
        data_root: Path | str,
        work_dir: Path | str,
        *,
        parents: Mapping[str, Mapping[str, Tensor]] | None = None,
        device: str | torch.device = "cpu",
        checkpoint_seconds: float = 30.0,
        cache_dir: Path | str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.data_root = Path(data_root)
        self.work_dir = Path(work_dir)
        self.device = torch.device(device)
        self.checkpoint_seconds = checkpoint_seconds
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.fingerprint = fingerprint
        self.history: list[dict[str, float]] = []
        self._parents = parents or {}
        self._last_save = time.monotonic()

    def check_data(self, reader: str, fingerprint: str) -> None:
        """Raise DataError where the data are no longer those that the stage was planned for."""
        if self.fingerprint is not None and fingerprint != self.fingerprint:
            raise DataError(
                f"{reader} below {self.data_root.absolute()} is not what the plan was made for: files have changed "
                "since, or this machine holds others; run the command again"
            )

    def weights(self, role: str) -> dict[str, Tensor]:
        """The parent's tensors, on the CPU."""
        return dict(self._parents[role])

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to the stage's curves. A point of a step already there (after a resume) replaces it."""
        self.history = [point for point in self.history if point["step"] < step]
        self.history.append({"step": step, **metrics})

    def progress(self, step: int, steps: int) -> None:
        """Called at every step; cheap. The base class shows nothing."""

    def checkpoint_due(self) -> bool:
        """True when the last checkpoint is older than `checkpoint_seconds`."""
        return time.monotonic() - self._last_save >= self.checkpoint_seconds

    def save(self, state: dict[str, Any]) -> None:
        """Keep a training state (tensors, numbers, strings, lists, dicts) together with the history, atomically."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        temporary = self._checkpoint.with_suffix(f".{os.getpid()}.tmp")
        torch.save({"state": state, "history": self.history}, temporary)
        temporary.replace(self._checkpoint)
        self._last_save = time.monotonic()

    def resume(self) -> dict[str, Any] | None:
        """The last saved state and, as a side effect, its history; None when there is none."""
        if not self._checkpoint.exists():
            return None
        saved = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        self.history = list(saved["history"])
        return dict(saved["state"])

    @property
    def _checkpoint(self) -> Path:
        return self.work_dir / "checkpoint.pt"
