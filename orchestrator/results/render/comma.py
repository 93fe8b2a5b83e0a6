"""cells.csv and table.csv: the contract's columns first, ours appended."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from orchestrator.results.cells import COLUMNS as CELL_COLUMNS
from orchestrator.results.table import Group, Table

TABLE_COLUMNS = (
    "scenario", "frozen", "model", "pretext_data", "network", "dataset", "fraction", "n_train", "metric", "unit",
    "mean", "std", "n", "n_asked", "reference_mean", "reference_std",
    "status", "failed", "blocked", "missing", "stand_ins",
)  # fmt: skip


def cells_csv(cells: pd.DataFrame) -> str:
    """One row per cell and metric. Values are fractions at full precision; no value is an empty field."""
    return _text(CELL_COLUMNS, zip(*(cells[column] for column in CELL_COLUMNS), strict=True))


def table_csv(table: Table) -> str:
    """One row per group and asked metric, in the table's unit, not cut to its decimals; published values as printed."""
    return _text(TABLE_COLUMNS, map(_row, table.groups))


def _row(group: Group) -> list[Any]:
    reference = group.reference
    return [
        *(group.axes[axis] for axis in TABLE_COLUMNS[:9]),
        group.unit,
        None if group.mean is None else f"{group.mean:.12g}",
        None if group.std is None else f"{group.std:.12g}",
        group.n,
        group.n_asked,
        None if reference is None else f"{reference.mean:f}",
        None if reference is None or reference.std is None else f"{reference.std:f}",
        *(group.state, group.failed, group.blocked, group.missing, group.stand_ins),
    ]


def _text(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_field(value) for value in row] for row in rows)
    return buffer.getvalue()


def _field(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
