"""Clocks for training steps, in loops and inside stages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainables.context import Context

WARM_UP = 5  # steps before a clock runs, more than the batches that a DataLoader has ready


class Clock(Context):
    """Notes when steps of a stage end: after the warm-up and `measured` steps later; then there is one checkpoint.

    The stage is to have two steps more, so that neither the checkpoint nor the curve's last point falls in between.
    """

    warm_up = WARM_UP
    measured = 0
    done = 0

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.marks: dict[int, Mark] = {}
        self.reports: dict[int, float] = {}
        self.checkpoint = 0.0

    def progress(self, step: int, steps: int) -> None:
        assert steps == self.warm_up + self.measured + 2, "the stage does not train as many steps as it was asked to"
        self.done = step
        if step in (self.warm_up, steps - 2, steps - 1):
            self.marks[step] = Mark.now(self.device)

    def checkpoint_due(self) -> bool:
        return self.done == self.warm_up + self.measured

    def save(self, state: dict[str, Any]) -> None:
        began = time.perf_counter()
        super().save(state)
        self.checkpoint += time.perf_counter() - began

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        super().report(step, metrics)
        self.reports[step] = time.perf_counter()


@dataclass(frozen=True)
class Mark:
    """A moment: seconds on the clock, and processor seconds of this process and those that it started."""

    wall: float
    cpu: float

    @classmethod
    def now(cls, device: torch.device) -> Mark:
        """When the device has done what it was given."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return cls(time.perf_counter(), time.process_time() + sum(map(_processor_seconds, _children())))


def _children() -> list[int]:
    """Those of the main thread, from which loaders start their workers; none where there is no /proc."""
    try:
        return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Timing:
    """`steps` steps in so many seconds. `parts`, of ours alone: seconds of start-up, one checkpoint, one point."""

    steps: int
    seconds: float
    cpu: float
    parts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def between(cls, steps: int, first: Mark, last: Mark, **parts: float) -> Timing:
        return cls(steps, last.wall - first.wall, last.cpu - first.cpu, parts)


def time_steps(step: Callable[[], object], steps: int, device: torch.device, warm_up: int = WARM_UP) -> Timing:
    for _ in range(warm_up):
        step()
    first = Mark.now(device)
    for _ in range(steps):
        step()
    return Timing.between(steps, first, Mark.now(device))
