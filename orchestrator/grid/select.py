"""`--only AXIS=VALUE`: the part of a grid that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.grid.analyses import all_analyses, selections_in
from orchestrator.grid.cells import taken
from orchestrator.grid.errors import GridError, near
from orchestrator.grid.schema import Cells, Column, Grid

CELL_AXES = ("scenario", "model", "dataset", "fraction", "seed")
AXES = (*CELL_AXES, "analysis")
Wanted = Mapping[str, set[str]]


def select(grid: Grid, only: Sequence[str]) -> Grid:
    """Restrict rows, columns, seeds and analyses. Values of one axis add up, axes intersect.

    The axes of cells hold for the other grids, too, that analyses draw from; an analysis or panel that has no cell left
    is left out. With `analysis` only those analyses are asked for, and of the cells what they draw from.

    Raises:
        GridError: an unknown axis, a value that the grid does not have, or nothing left.
    """
    if not only:
        return grid
    asked: dict[str, list[str]] = {}
    for text in only:
        axis, equals, value = text.partition("=")
        if axis not in AXES or not equals:
            raise GridError(f"--only {text}: expected AXIS=VALUE with an axis of {', '.join(AXES)}")
        present = _values(grid, axis)
        if _normal(axis, value) not in present:
            none = "it has none" if axis == "analysis" else "it has no cells of its own or of other grids"
            there = near(value, present) if present else none
            raise GridError(f"--only {text}: the grid has no such {axis}; {there}")
        asked.setdefault(axis, []).append(_normal(axis, value))
    wanted = {axis: set(values) for axis, values in asked.items()}
    part = _part(grid, wanted).beside({name: _part(other, wanted) for name, other in grid.others.items()})
    if "analysis" in wanted:
        part = part.beside({**part.others, part.grid: part}, rows=[], columns=[])
    kept = {name: entry for name, entry in part.analyses.items() if name in wanted.get("analysis", {name})}
    alive = [name for name, analysis in all_analyses(part).items() if _alive(part, name, analysis)]
    part = part.beside(part.others, analyses={name: entry for name, entry in kept.items() if name in alive})
    if not (part.rows and part.columns) and not part.analyses:
        raise GridError(f"--only {' '.join(only)}: no cell of the grid {grid.grid} has all of these")
    return part


def _alive(grid: Grid, name: str, analysis: object) -> bool:
    """Whether an analysis has anything to draw: a cell of those that it selects, where it selects any."""
    selections = [asked.value for asked in selections_in(analysis, ("analyses", name))]
    if not selections and getattr(analysis, "kind", "") == "curves":
        selections = [Cells()]
    return not selections or any(taken(grid, selection) for selection in selections)


def _part(grid: Grid, wanted: Wanted) -> Grid:
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
    whole = bool(rows and columns)
    return grid.beside(
        grid.others, rows=rows if whole else [], columns=columns if whole else [], seeds=seeds or grid.seeds
    )


def _column(column: Column, wanted: Wanted) -> Column | None:
    if column.dataset not in wanted.get("dataset", {column.dataset}):
        return None
    if "fraction" not in wanted:
        return column
    fractions = [f for f in column.fractions or [] if str(f) in wanted["fraction"]]
    sizes = {f: n for f, n in column.n_train.items() if f in fractions}
    return column.model_copy(update={"fractions": fractions, "n_train": sizes}) if fractions else None


def _values(grid: Grid, axis: str) -> list[str]:
    if axis == "analysis":
        return list(grid.analyses)
    return list(dict.fromkeys(v for part in (grid, *grid.others.values()) for v in _cell_values(part, axis)))


def _cell_values(grid: Grid, axis: str) -> Iterator[str]:
    if axis in ("scenario", "model"):
        yield from (getattr(row, axis) for row in grid.rows)
    elif axis == "dataset":
        yield from (column.dataset for column in grid.columns)
    elif axis == "fraction":
        yield from (str(f) for column in grid.columns for f in column.fractions or [])
    elif grid.rows:
        yield from (str(s) for s in (*grid.seeds, *(s for row in grid.rows for s in row.seeds or [])))


def _normal(axis: str, value: str) -> str:
    """A fraction may be written `0.05`, `.05` or `5%`."""
    if axis != "fraction":
        return value
    try:
        return str(float(value[:-1]) / 100 if value.endswith("%") else float(value))
    except ValueError:
        return value
