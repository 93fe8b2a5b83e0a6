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
    provisional: bool = False  # the key will change once the data are there, or the study has ended
    study: str | None = None  # the study that a trial belongs to
    proposed: bool = True  # False: a trial whose settings are not known yet
    awaits: Mapping[str, str] = field(default_factory=dict)  # parents still to be found: role -> study
    hints: Mapping[str, Any] = field(default_factory=dict)  # what a worker should know that changes no result

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
class Study:
    """A pretext whose settings are tuned. `spec` is its pretrain stage with the grid's own settings.

    tune: the grid's `tune:` section, complete. steps: the lengths to choose from, ascending. rungs: the steps at which
    a trial may be given up. objective: what a trial's value is, see `trainables.pretexts.trial`.
    """

    key: str
    name: str
    spec: Mapping[str, Any]
    parents: Mapping[str, str]
    fingerprint: str
    labels: Labels
    tune: Mapping[str, Any]
    steps: tuple[int, ...]
    rungs: tuple[int, ...]
    objective: Mapping[str, Any]
    cost: float = 0.0  # of one trial of full length
    blocked: str | None = None
    provisional: bool = False

    @property
    def maximize(self) -> bool:
        """True where a larger value is better."""
        return bool(self.objective["direction"] == "maximize")

    def record(self) -> dict[str, Any]:
        """The study as JSON values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Study:
        """The inverse of `record`."""
        return cls(**{**record, "steps": tuple(record["steps"]), "rungs": tuple(record["rungs"])})


@dataclass(frozen=True)
class Plan:
    """The cells of one grid and the stages they need, parents before children.

    wanted: stages that are asked for beside the cells' own (figures).
    """

    grid: str
    profile: str
    cells: tuple[Cell, ...]
    stages: Mapping[str, Stage]
    notes: tuple[str, ...] = field(default=())
    studies: Mapping[str, Study] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
