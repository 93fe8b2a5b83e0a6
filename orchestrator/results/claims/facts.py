"""What claims are tested on: groups of cells with one value for each seed, and groups as a paper prints them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pandas as pd

from orchestrator.results.references import SCALES, Reference
from orchestrator.results.statistics.estimates import Term

GROUP_AXES = (
    "scenario", "frozen", "model", "pretext", "pretext_data", "network", "dataset", "fraction", "metric",
)  # fmt: skip
_OF_A_CELL = ("seed", "value", "status", "key")
ASSUMED_RUNS = 3
ASSUMED = f"n = {ASSUMED_RUNS} assumed where a std is printed without it"

History = Sequence[Mapping[str, float]]
Histories = Callable[[Iterable[str]], Mapping[str, History]]


@dataclass(frozen=True)
class Group:
    """One place of the table: its axes, and either a value for each seed, a constant, or what a paper prints.

    values: by seed, in the table's unit; None where the cell has none. keys: of the cells, by seed. pending: seeds
    whose cell has not ended yet.
    """

    axes: Mapping[str, Any]
    values: Mapping[int, float | None] = field(default_factory=dict)
    keys: Mapping[int, str] = field(default_factory=dict)
    constant: float | None = None
    printed: Term | None = None
    pending: frozenset[int] = frozenset()

    def term(self, weight: float) -> Term:
        """What is printed, with a weight; a constant is exact."""
        if self.printed is None:
            return Term(weight, self.constant or 0.0, 0.0, ASSUMED_RUNS)
        return replace(self.printed, weight=weight)


@dataclass(frozen=True)
class Facts:
    """Everything that claims of one grid may ask for.

    published: True for values of the paper; then no pairs, curves or analyses are known.
    analyses: the metrics of finished analyses, by kind.
    beside: groups of other grids by name, for the claims that name them.
    """

    groups: tuple[Group, ...]
    metric: str
    unit: str = "percent"
    higher_is_better: bool = True
    published: bool = False
    histories: Histories = lambda _: {}
    analyses: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    beside: Mapping[str, Sequence[Group]] = field(default_factory=dict)

    def together_with(self, names: Sequence[str]) -> Facts:
        """With the groups of other grids, those of the same place once. What is not there adds nothing."""
        places = {tuple(group.axes.get(axis) for axis in GROUP_AXES): group for group in reversed(self._all(names))}
        return replace(self, groups=tuple(reversed(places.values())))

    def _all(self, names: Sequence[str]) -> list[Group]:
        return [*self.groups, *(group for name in names for group in self.beside.get(name, ()))]


def facts_of_cells(
    plan: Mapping[str, Any],
    cells: pd.DataFrame,
    *,
    beside: Mapping[str, pd.DataFrame] | None = None,
    histories: Histories = lambda _: {},
    commits: Mapping[str, Mapping[str, Any]] | None = None,
) -> Facts:
    """Ours, from tidy rows (`cells.tidy`) of this grid and of those that its claims name in `beside`."""
    table = plan["table"]
    others = {name: groups_of(frame, table["unit"]) for name, frame in (beside or {}).items()}
    analyses: dict[str, list[Mapping[str, float]]] = {}
    for key, stage in plan.get("stages", {}).items():
        if stage["kind"] == "analysis" and commits and key in commits:
            analyses.setdefault(stage["spec"]["analysis"]["kind"], []).append(commits[key]["metrics"])
    better = bool(table.get("higher_is_better", True))
    groups = tuple(groups_of(cells, table["unit"]))
    return Facts(groups, table["value"][0], table["unit"], better, False, histories, analyses, others)


def groups_of(cells: pd.DataFrame, unit: str) -> list[Group]:
    """Tidy rows grouped over their seeds; a cell that stands in several grids counts once."""
    scale = 10.0 ** SCALES.get(unit, 0)
    found: dict[tuple[Any, ...], list[tuple[int, float | None, str, str]]] = {}
    columns = (*(cells[axis].tolist() for axis in GROUP_AXES), *(cells[c].tolist() for c in _OF_A_CELL))
    for *axes, seed, value, status, key in zip(*columns, strict=True):
        there = value is not None and math.isfinite(value)
        found.setdefault(tuple(axes), []).append((seed, scale * value if there else None, status, key))
    return [_group(dict(zip(GROUP_AXES, axes, strict=True)), members) for axes, members in found.items()]


def _group(axes: Mapping[str, Any], members: Sequence[tuple[int, float | None, str, str]]) -> Group:
    constant = next((value for _, value, status, _ in members if status == "constant"), None)
    runs = sorted((int(seed), value, status, key) for seed, value, status, key in members if status != "constant")
    return Group(
        axes,
        {seed: value for seed, value, _, _ in runs},
        {seed: key for seed, _, _, key in runs},
        constant,
        pending=frozenset(seed for seed, _, status, _ in runs if status == "missing"),
    )


def facts_of_references(
    references: Sequence[Reference],
    table: Mapping[str, Any],
    beside: Mapping[str, Sequence[Reference]] | None = None,
) -> Facts:
    """The published values. A std of 0.0 is what rounding left of it: half a unit of its last digit is taken."""
    better, unit = bool(table.get("higher_is_better", True)), table["unit"]
    others = {name: _printed(values, unit) for name, values in (beside or {}).items()}
    groups = tuple(_printed(references, unit))
    return Facts(groups, table["value"][0], unit, better, published=True, beside=others)


def _printed(references: Sequence[Reference], unit: str) -> list[Group]:
    shown = [reference.within(unit) for reference in references]
    return [Group(_complete(reference), printed=_term(reference)) for reference in shown]


def steps_to(history: History, curve: str, share: float) -> float | None:
    """The first step whose value is at least `share` of the last one, as `trainables.analyses.curves` has it."""
    points = {int(point["step"]): point[curve] for point in history if math.isfinite(point.get(curve, math.nan))}
    if not points:
        return None
    end = share * points[max(points)]
    return float(min(step for step, value in points.items() if value >= end))


def with_steps(groups: Sequence[Group], histories: Histories, curve: str, share: float) -> list[Group]:
    """The same groups with the steps to `share` of the final value in place of the metric."""
    known = histories([key for group in groups for seed, key in group.keys.items() if group.values[seed] is not None])
    return [
        replace(
            group,
            constant=None,
            values={
                seed: steps_to(known[key], curve, share) if key in known else None for seed, key in group.keys.items()
            },
        )
        for group in groups
    ]


def slug(name: str) -> str:
    """A model's name as it stands in the metrics of an analysis (`trainables.analyses.choose.metric_name`)."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def _complete(reference: Reference) -> dict[str, Any]:
    """The axes of a published value; of a row with a scenario an empty field means that there is none."""
    row = {"pretext_data": None} if "scenario" in reference.axes else {}
    return {"fraction": None, **row, **reference.axes}


def _term(reference: Reference) -> Term:
    std = reference.std
    if std is None:
        return Term(1.0, float(reference.mean), None, 1)
    if std == 0:
        std = Decimal("0.5").scaleb(int(std.as_tuple().exponent))
    return Term(1.0, float(reference.mean), float(std), ASSUMED_RUNS)
