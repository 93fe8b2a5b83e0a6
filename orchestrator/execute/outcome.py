"""What crosses process borders: jobs go out, outcomes come back. Never exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


class ClusterError(Exception):
    """Ray cannot be reached, or never could run what is asked."""


Ending = Literal["succeeded", "failed", "blocked"]


@dataclass(frozen=True)
class Job:
    """What a worker needs besides the stage. Nothing in it changes a result."""

    store: str
    data_root: str
    checkpoint_seconds: float = 30.0
    device: str = "auto"
    cache_dir: str | None = None
    again: bool = False  # run a finished stage once more, to compare; its record stays as it is


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `executed` is False where a result was already there."""

    key: str
    outcome: Ending
    error: str | None = None
    executed: bool = True
    seconds: float = 0.0
    node: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return asdict(self)
