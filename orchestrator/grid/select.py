"""`--only AXIS=VALUE`: the part of a grid that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.grid.errors import GridError, near
from orchestrator.grid.schema import Column, Grid

AXES = ("scenario", "model", "dataset", "fraction", "seed")


def select(grid: Grid, only: Sequence[str]) -> Grid:
    """Restrict rows, columns and seeds. Values of one axis add up, axes intersect.

    Raises:
        GridError: an unknown axis, a value that the grid does not have, or nothing left.
    """
    asked: dict[str, list[str]] = {}
    for text in only:
        axis, equals, value = text.partition("=")
        if axis not in AXES or not equals:
            raise GridError(f"--only {text}: expected AXIS=VALUE with an axis of {', '.join(AXES)}")
        present = _values(grid, axis)
        if _normal(axis, value) not in present:
            raise GridError(f"--only {text}: the grid has no such {axis}; {near(value, present)}")
        asked.setdefault(axis, []).append(_normal(axis, value))
    wanted = {axis: set(values) for axis, values in asked.items()}
    rows = [
        row
        for row in grid.rows
        if row.scenario in wanted.get("scenario", {row.scenario}) and row.model in wanted.get("model", {row.model})
    ]
    columns = [c for column in grid.columns if (c := _column(column, wanted)) is not None]
    seeds = [s for s in grid.seeds if str(s) in wanted.get("seed", {str(s)})]
    rows = [
        row.model_copy(update={"seeds": [s for s in row.seeds if str(s) in wanted.get("seed", {str(s)})]})
        if row.seeds is not None
        else row
        for row in rows
    ]
    rows = [row for row in rows if (row.seeds if row.seeds is not None else seeds)]
    if not rows or not columns:
        raise GridError(f"--only {' '.join(only)}: no cell of the grid {grid.grid} has all of these")
    return grid.model_copy(update={"rows": rows, "columns": columns, "seeds": seeds})


def _column(column: Column, wanted: dict[str, set[str]]) -> Column | None:
    if column.dataset not in wanted.get("dataset", {column.dataset}):
        return None
    if "fraction" not in wanted:
        return column
    fractions = [f for f in column.fractions or [] if str(f) in wanted["fraction"]]
    sizes = {f: n for f, n in column.n_train.items() if f in fractions}
    return column.model_copy(update={"fractions": fractions, "n_train": sizes}) if fractions else None


def _values(grid: Grid, axis: str) -> list[str]:
    if axis in ("scenario", "model"):
        return list(dict.fromkeys(getattr(row, axis) for row in grid.rows))
    if axis == "dataset":
        return list(dict.fromkeys(column.dataset for column in grid.columns))
    if axis == "fraction":
        return list(dict.fromkeys(str(f) for column in grid.columns for f in column.fractions or []))
    seeds = [*grid.seeds, *(s for row in grid.rows for s in row.seeds or [])]
    return list(dict.fromkeys(str(s) for s in seeds))


def _normal(axis: str, value: str) -> str:
    """A fraction may be written `0.05`, `.05` or `5%`."""
    if axis != "fraction":
        return value
    try:
        return str(float(value[:-1]) / 100 if value.endswith("%") else float(value))
    except ValueError:
        return value
