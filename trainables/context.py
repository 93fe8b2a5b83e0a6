"""What a stage gets from outside and what it gives back. The base class serves notebooks, tests and GPU machines."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Collection, Mapping, Sequence
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
    below; facts: counts and notes as JSON values; files: pictures and tables by file name.
    """

    metrics: dict[str, float]
    weights: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class Context:
    """Folders, device, parents' weights, and the hooks of a running stage.

    Args:
        data_root: folder below which datasets are found.
        work_dir: folder for checkpoints of this stage.
        parents: tensors by role (`{"pretrain": {...}}`), for stages that start from others.
        checkpoint_seconds: least time between two checkpoints.
        fingerprint: what the data were when the stage was planned; None: not checked.
        cache_dir: node-wide folder for decoded images and manifests; None keeps the default of `trainables.data`.
        prefix: a kept state of a shorter run of the same settings, to go on from.
        keep_at: steps whose states are to be kept (`keep`), for runs that end there or go on from there.
        histories: curves of parents by role, for stages that draw them.
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
        prefix: Mapping[str, Any] | None = None,
        keep_at: Collection[int] = (),
        histories: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    ) -> None:
        self.data_root = Path(data_root)
        self.work_dir = Path(work_dir)
        self.device = torch.device(device)
        self.checkpoint_seconds = checkpoint_seconds
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.fingerprint = fingerprint
        self.history: list[dict[str, float]] = []
        self.keep_at = frozenset(keep_at)
        self.kept: dict[int, dict[str, Any]] = {}
        self._parents = parents or {}
        self._histories = histories or {}
        self._prefix = prefix
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

    def history_of(self, role: str) -> list[dict[str, float]]:
        """The curve of a parent: points with "step" and its metrics, as it reported them. KeyError: no such parent."""
        return [dict(point) for point in self._histories[role]]

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

    def prefix_state(self) -> dict[str, Any] | None:
        """The kept state of a shorter run of the same settings, on the CPU; None: start at step 0.

        Where it comes from changes no digit, only how many steps are left. So neither it nor `keep_at` is part of what
        a result means.
        """
        return None if self._prefix is None else dict(self._prefix)

    def keep(self, step: int, state: dict[str, Any]) -> None:
        """Keep the state of step `step`, one of `keep_at`, as the `prefix_state` of other runs: tensors, numbers,
        strings, lists and dicts, as `torch.save` takes them. Here: in memory, as `kept[step]`."""
        self.kept[step] = copy.deepcopy(state)

    def give_up(self, step: int, value: float) -> bool:
        """Whether a trial is to stop at this rung, by its objective there. The base class lets all go on."""
        return False

    @property
    def _checkpoint(self) -> Path:
        return self.work_dir / "checkpoint.pt"
