"""cells.csv and table.csv: the contract's columns first, ours appended."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from orchestrator.results.cells import COLUMNS as CELL_COLUMNS
from orchestrator.results.layout import shown
from orchestrator.results.table import Group, Table

TABLE_COLUMNS = (
    "scenario", "frozen", "model", "pretext_data", "network", "dataset", "fraction", "n_train", "metric", "unit",
    "mean", "std", "n", "n_asked", "reference_mean", "reference_std",
    "status", "failed", "blocked", "missing", "stand_ins", "difference", "printed",
)  # fmt: skip


QUOTED = re.compile(r'[",\r\n]')  # RFC 4180


def cells_csv(cells: pd.DataFrame) -> str:
    """One row per cell and metric. Values are fractions at full precision; no value is an empty field."""
    return _of_columns(CELL_COLUMNS, (cells[column].tolist() for column in CELL_COLUMNS))


def table_csv(table: Table) -> str:
    """One row per group and asked metric, in the table's unit, not cut to its decimals; published values as printed.

    `difference` is ours minus published, `printed` the cell as the other formats show it.
    """
    return csv_text(TABLE_COLUMNS, (_row(group, table.decimals) for group in table.groups))


def _row(group: Group, decimals: int) -> list[Any]:
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
        None if group.difference is None else f"{group.difference:.12g}",
        shown(group, decimals).text,
    ]


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Rows under their columns; no value is an empty field, true and false are words."""
    return _of_columns(columns, list(zip(*rows, strict=True)) or [()] * len(columns))


def _of_columns(columns: Sequence[str], values: Iterable[Iterable[Any]]) -> str:
    """A table as CSV text, column by column: most say the same few things again and again."""
    fields = [_Fields().all(column) for column in values]
    return "\n".join([",".join(columns), *map(",".join, zip(*fields, strict=True)), ""])


class _Fields(dict[Any, str]):
    """Value -> its field, made once for each value of a column."""

    def __missing__(self, value: Any) -> str:
        text = self[value] = _field(value)
        return text

    def all(self, column: Iterable[Any]) -> list[str]:
        """The fields of a column."""
        return [self[value] for value in column]


def _field(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text
