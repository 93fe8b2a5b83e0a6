"""The nouns of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Labels = dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Stage:
    """A node of the graph. `spec` is what the trainable gets; `labels` and `name` are for people."""

    key: str
    kind: str
    spec: Mapping[str, Any]
    parents: Mapping[str, str]
    fingerprint: str
    name: str
    labels: Labels
    cost: float = 0.0  # estimated device-seconds
    blocked: str | None = None  # why it cannot run, known before anything runs
    provisional: bool = False  # the key will change once the data are there

    def record(self) -> dict[str, Any]:
        """The stage as JSON values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Stage:
        """The inverse of `record`."""
        return cls(**record)


@dataclass(frozen=True)
class Cell:
    """One value of the table, in the grid's own terms."""

    scenario: str
    frozen: bool
    model: str
    pretext: str | None
    pretext_data: str | None
    network: str
    dataset: str
    fraction: float | None
    n_train: int | None
    seed: int
    key: str
    constant: float | None = None
    blocked: str | None = None


@dataclass(frozen=True)
class Plan:
    """The cells of one grid and the stages they need, parents before children."""

    grid: str
    profile: str
    cells: tuple[Cell, ...]
    stages: Mapping[str, Stage]
    notes: tuple[str, ...] = field(default=())
