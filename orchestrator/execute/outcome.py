"""What crosses process borders: jobs go out, outcomes come back. Never exceptions, but for one that ends a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Ending = Literal["succeeded", "failed", "blocked", "preempted", "elsewhere"]
Cause = Literal["stage", "data", "memory", "device", "store", "worker"]


class ClusterError(Exception):
    """Ray cannot be reached, or never could run what is asked."""


class DeviceLost(Exception):
    """CUDA serves this process no more, so no stage can go on in it: a worker has to end with this, and does.

    Ray takes it to the driver, as what the process died of.
    """


@dataclass(frozen=True)
class Job:
    """What a worker needs besides the stage. Nothing in it changes a result."""

    store: str
    data_root: str
    run: str = ""  # which run of the driver this is, for leases
    checkpoint_seconds: float = 30.0
    beat_seconds: float = 2.0
    device: str = "auto"
    device_share: float | None = None  # of a GPU, that this process was given and keeps to; None: all that there are
    cache_dir: str | None = None
    again: bool = False  # run a finished stage once more, to compare; its record stays as it is


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    outcome: `elsewhere`: another run holds the stage; `preempted`: its worker or node died, and it is tried again. In
        both cases it has not ended.
    cause: what a failure is the fault of; only `stage` is for good. `memory` is the host's, `device` a GPU's.
    executed: False where a result was already there. wasted: it ran, but another run had committed it before.
    seconds: of a device. Of stages that were trained as one (`fused` of them), an equal part.
    resumed: it went on from a checkpoint, so `seconds` are not all that it took.
    """

    key: str
    outcome: Ending
    error: str | None = None
    cause: Cause = "stage"
    executed: bool = True
    wasted: bool = False
    seconds: float = 0.0
    node: str = ""
    peak_device_bytes: int = 0
    device_bytes: int = 0
    fused: int = 1
    resumed: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return asdict(self)
