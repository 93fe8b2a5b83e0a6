"""The cells of a grid by their axes, before any data are looked at: for selections of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.grid.schema import DEFAULT_NETWORK, Cells, Column, Grid, Row

AXES = tuple(name for name in Cells.model_fields if name != "grid")


@dataclass(frozen=True)
class Place:
    """A cell: its value on each axis, and the row and column that it stands in."""

    axes: dict[str, Any]
    row: int
    column: int


def places(grid: Grid) -> Iterator[Place]:
    """All cells that run, in the order of rows, columns, fractions and seeds."""
    for i, row in enumerate(grid.rows):
        for j, column in enumerate(grid.columns):
            if row.scenario == "constant":
                continue
            for fraction in column.fractions or [None]:  # type: ignore[list-item]
                for seed in row.seeds if row.seeds is not None else grid.seeds:
                    yield Place({**axes_of(grid, row, column), "fraction": fraction, "seed": seed}, i, j)


def axes_of(grid: Grid, row: Row, column: Column) -> dict[str, Any]:
    """What a row is in a column, with what the grid or the column says for it."""
    return {
        "scenario": row.scenario,
        "model": row.model,
        "pretext": row.pretext,
        "pretext_data": (row.pretext_data or column.pretext_data) if row.pretext else None,
        "network": row.network.get("name", grid.network.get("name", DEFAULT_NETWORK)),
        "frozen": row.frozen or row.scenario == "probe",
        "dataset": column.dataset,
    }


def restrict(grid: Grid, selections: Iterable[Cells]) -> Grid:
    """The grid with the rows, columns, fractions and seeds of the cells that any of the selections takes, and no more
    than those. It may be left without any."""
    wanted = list(selections)
    return keep(grid, [p for p in places(grid) if any(selection.take(p.axes) for selection in wanted)])


def keep(grid: Grid, kept: Iterable[Place]) -> Grid:
    """The grid with the rows, columns, fractions and seeds that these cells stand in."""
    cells = list(kept)
    fractions = {j: {p.axes["fraction"] for p in cells if p.column == j} for j in {p.column for p in cells}}
    seeds = {i: {p.axes["seed"] for p in cells if p.row == i} for i in {p.row for p in cells}}
    rows = [_row(row, seeds[i]) for i, row in enumerate(grid.rows) if i in seeds]
    columns = [_column(column, fractions[j]) for j, column in enumerate(grid.columns) if j in fractions]
    everywhere = set().union(*seeds.values())
    return grid.beside(
        grid.others, rows=rows, columns=columns, seeds=[s for s in grid.seeds if s in everywhere] or grid.seeds
    )


def _row(row: Row, seeds: set[int]) -> Row:
    return row if row.seeds is None else row.model_copy(update={"seeds": [s for s in row.seeds if s in seeds]})


def _column(column: Column, fractions: set[Any]) -> Column:
    if not column.fractions:
        return column
    left = [f for f in column.fractions if f in fractions]
    return column.model_copy(
        update={"fractions": left, "n_train": {f: n for f, n in column.n_train.items() if f in left}}
    )


def source_of(grid: Grid, selection: Cells) -> Grid:
    """The grid that a selection takes cells from; its own, or one beside it."""
    return grid.others.get(selection.grid or grid.grid, grid)


def taken(grid: Grid, selection: Cells) -> list[Place]:
    """The cells that a selection in `grid` takes."""
    return [place for place in places(source_of(grid, selection)) if selection.take(place.axes)]
