"""The rows of a table over all its columns at once: interquartile means, and every two rows compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from orchestrator.results.collected import Collected
from orchestrator.results.labels import value_label
from orchestrator.results.references import SCALES
from orchestrator.results.statistics.across import (
    improvement_interval,
    interquartile_mean,
    iqm_interval,
    probability_of_improvement,
)
from orchestrator.results.statistics.estimates import Estimate, paired
from orchestrator.results.statistics.paired import Comparison, compare, holm
from orchestrator.results.statistics.spread import Interval, bootstrap_mean, finite
from orchestrator.results.table import COLUMN_AXES, IDENTITY, Table

LEVEL = 0.95
MOST_ROWS = 15  # up to here every two rows are compared, beyond it each with the first one

Column = tuple[Any, ...]  # data set, fraction
Values = Mapping[Column, Mapping[int, float | None]]  # column -> seed -> value in the table's unit


@dataclass(frozen=True)
class RowSummary:
    """One row of the table over the columns that all rows have. `runs`: values that counted."""

    name: str
    metric: str
    iqm: float | None
    interval: Interval | None
    columns: int
    runs: int


@dataclass(frozen=True)
class PairSummary:
    """Two rows over the columns that both have: paired difference, and how likely a run of the one beats the other."""

    metric: str
    compared: Comparison
    improvement: float | None
    interval: Interval | None


@dataclass(frozen=True)
class CellSummary:
    """One place of the table with its t interval (`estimate`) and its bootstrap interval."""

    axes: Mapping[str, Any]
    std: float | None
    estimate: Estimate | None
    bootstrap: Interval | None


@dataclass(frozen=True)
class Overall:
    """What can be said of the rows of one table, for each asked metric. `columns`: how many the table has."""

    rows: tuple[RowSummary, ...]
    pairs: tuple[PairSummary, ...]
    cells: tuple[CellSummary, ...]
    columns: int
    all_pairs: bool


def overall(found: Collected) -> Overall:
    """Compare the rows of a plan's table. A row is what its index says beside data set and fraction.

    Values from the literature have no runs to test with and are left out, and so are rows without any value.
    """
    rows: list[RowSummary] = []
    pairs: list[PairSummary] = []
    columns, fewest = 0, 0
    for metric in found.plan["table"]["value"]:
        values = {name: row for name, row in values_of(found, metric).items() if any(_runs(row))}
        columns = max(columns, len({column for row in values.values() for column in row}))
        fewest = max(fewest, len(values))
        rows += _summaries(values, metric)
        pairs += _pairs(values, metric, 1 if found.table.higher_is_better else -1)
    ps = holm([pair.compared.p for pair in pairs])
    corrected = [replace(p, compared=replace(p.compared, p_holm=q)) for p, q in zip(pairs, ps, strict=True)]
    return Overall(tuple(rows), tuple(corrected), tuple(_cells(found)), columns, fewest <= MOST_ROWS)


def row_axes(table: Table) -> tuple[str, ...]:
    """What tells the rows of a table apart."""
    shown = tuple(axis for axis in (*table.index, *table.columns) if axis not in COLUMN_AXES)
    return shown or ("model",)


def values_of(found: Collected, metric: str) -> Mapping[str, Values]:
    """The values of every row by its name, in the order of the grid; None where a seed has none."""
    axes, cells = row_axes(found.table), found.cells
    cells = cells[cells["metric"] == metric]
    scale = 10.0 ** SCALES.get(found.table.unit, 0)
    names = [cells[axis].tolist() for axis in axes]
    places = (cells[name].tolist() for name in ("dataset", "fraction", "seed", "value", "status"))
    rows: dict[str, dict[Column, dict[int, float | None]]] = {}
    for *labels, dataset, fraction, seed, value, status in zip(*names, *places, strict=True):
        if status == "constant" or seed is None:
            continue
        name = ", ".join(filter(None, (value_label(a, v) for a, v in zip(axes, labels, strict=True))))
        there = None if value is None or not math.isfinite(value) else scale * value
        rows.setdefault(name, {}).setdefault((dataset, fraction), {})[seed] = there
    return rows


def _summaries(rows: Mapping[str, Values], metric: str) -> Iterator[RowSummary]:
    shared = [column for column in next(iter(rows.values()), {}) if all(any(_runs(r, column)) for r in rows.values())]
    for name, row in rows.items():
        scores = {repr(column): list(row[column].values()) for column in shared}
        runs = [value for values in scores.values() for value in finite(values)]
        interval = iqm_interval(scores, level=LEVEL) if runs else None
        yield RowSummary(name, metric, interquartile_mean(runs), interval, len(shared), len(runs))


def _pairs(rows: Mapping[str, Values], metric: str, sign: int) -> Iterator[PairSummary]:
    """Later minus earlier: a grid begins with what the others are held against."""
    names = list(rows)
    wanted = combinations(names, 2) if len(names) <= MOST_ROWS else ((names[0], name) for name in names[1:])
    for other, one in wanted:
        units = [{(*c, s): v for c, by_seed in rows[n].items() for s, v in by_seed.items()} for n in (one, other)]
        ours, theirs = ({repr(c): _signed(by.values(), sign) for c, by in rows[n].items()} for n in (one, other))
        compared = compare(units[0], units[1], (one, other), level=LEVEL)
        yield PairSummary(
            metric, compared, probability_of_improvement(ours, theirs), improvement_interval(ours, theirs, level=LEVEL)
        )


def _cells(found: Collected) -> Iterator[CellSummary]:
    asked = found.cells[found.cells["metric"].isin(list(found.plan["table"]["value"]))]
    scale = 10.0 ** SCALES.get(found.table.unit, 0)
    values: dict[tuple[Any, ...], list[float]] = {}
    for *place, value in zip(*(asked[axis].tolist() for axis in (*IDENTITY, "value")), strict=True):
        values.setdefault(tuple(place), []).append(scale * value)
    for group in found.table.groups:
        if group.n and not group.constant:
            own = values[tuple(group.axes[axis] for axis in IDENTITY)]
            yield CellSummary(group.axes, group.std, paired(own), bootstrap_mean(own, level=LEVEL))


def _runs(row: Values, column: Column | None = None) -> Iterator[bool]:
    chosen = row.values() if column is None else [row.get(column, {})]
    return (value is not None for by_seed in chosen for value in by_seed.values())


def _signed(values: Any, sign: int) -> Sequence[float | None]:
    return [None if value is None else sign * value for value in values]
