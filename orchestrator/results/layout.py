"""The table model arranged for reading: rows and columns as the grid says, labels, bold, ours beside published.

Every cell is `Shown`: what is printed, without the markup of any format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from orchestrator.results.labels import axis_label, value_label
from orchestrator.results.table import COLUMN_AXES, Group, Table

MINUS = "−"
WORDS = {"failed": "failed", "blocked": "blocked", "missing": "—", "absent": "—"}
CONSTANT_MARK = "†"
MOST_COLUMNS_BESIDE = 3  # up to here ours and published stand side by side, above that one below the other

Labels = tuple[str, ...]
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Shown:
    """One cell of the printed table: a number with its std and mark, a word such as `failed`, or nothing."""

    mean: str = ""
    std: str = ""
    mark: str = ""
    word: str = ""
    bold: bool = False

    @property
    def number(self) -> str:
        """`85.7 ± 1.8`, or the mean alone; "" without one."""
        return f"{self.mean} ± {self.std}" if self.std else self.mean

    @property
    def text(self) -> str:
        """All that the cell says, in plain text."""
        return f"{self.number} {self.mark}".rstrip() if self.mean else self.word


@dataclass(frozen=True)
class Block:
    """A rectangle of cells under its own heading; `columns` are the labels of its columns, outermost first."""

    title: str
    columns: tuple[Labels, ...]
    cells: tuple[tuple[Shown, ...], ...]


@dataclass(frozen=True)
class Sheet:
    """A printed table: ours, and the published values in the same places where there are any.

    differences: ours minus published as printed, with its sign; "" where one of the two is not there.
    breaks: rows before which a new data set begins.
    """

    index: Labels
    rows: tuple[Labels, ...]
    ours: Block
    published: Block | None
    differences: tuple[tuple[str, ...], ...]
    breaks: frozenset[int]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """For formats that show one number a field: side by side where that is narrow, else one below the other."""
        if self.published is None:
            return (self.ours,)
        return _beside(self.ours, self.published) or (self.ours, self.published)


def arrange(table: Table) -> Sheet:
    """Lay a table out as its grid says. Order of appearance in the grid is the order of display."""
    rows = _places(table.index, table.groups)
    columns = _places(table.columns, table.groups)
    placed = {(_at(table.index, g.axes), _at(table.columns, g.axes)): g for g in table.groups}
    ours = Block("Ours", _column_labels(table, columns, published=False), _ours(table, placed, rows, columns))
    published = None
    if any(group.reference for group in table.groups):
        labels = _column_labels(table, columns, published=True)
        published = Block("Published", labels, _published(table, placed, rows, columns))
    return Sheet(
        tuple(axis_label(axis) for axis in table.index),
        tuple(tuple(value_label(axis, value) for axis, value in zip(table.index, row, strict=True)) for row in rows),
        ours,
        published,
        _differences(ours, published),
        _breaks(table.index, rows),
    )


def digits(value: float, decimals: int, published: Decimal | None) -> str:
    """A number with the table's decimals, beside a published one as the paper prints it.

    More decimals where the paper has more (0.18 among tenths), fewer where it has fewer and only zeros go (0.58 among
    ten-thousandths): no digit that says something is lost.
    """
    there = decimals if published is None else max(0, -int(published.as_tuple().exponent))
    full, short = printed(value, max(decimals, there)), printed(value, there)
    return short if Decimal(short) == Decimal(full) else full


def difference(ours: Shown, published: Shown) -> str:
    """Ours minus published as both are printed, with its sign; "" where one is not there."""
    if not ours.mean or not published.mean:
        return ""
    exact = Decimal(ours.mean) - Decimal(published.mean)
    return f"{exact:+f}".replace("-", MINUS) if exact else f"{abs(exact):f}"


def _differences(ours: Block, published: Block | None) -> tuple[tuple[str, ...], ...]:
    if published is None:
        return ()
    pairs = zip(ours.cells, published.cells, strict=True)
    return tuple(tuple(difference(one, other) for one, other in zip(*rows, strict=True)) for rows in pairs)


def printed(value: float, decimals: int) -> str:
    """A number at the printed precision; halves are rounded up, as on paper."""
    return str(Decimal(f"{value:.12g}").quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def _ours(
    table: Table, placed: Mapping[tuple[Place, Place], Group], rows: Sequence[Place], columns: Sequence[Place]
) -> tuple[tuple[Shown, ...], ...]:
    return _bold(table, rows, columns, {place: shown(group, table.decimals) for place, group in placed.items()})


def shown(group: Group, decimals: int) -> Shown:
    """What a cell of the table says of our own runs."""
    if group.mean is None:
        return Shown(word=WORDS[group.state])
    published = group.reference
    mean = digits(group.mean, decimals, published.mean if published else None)
    std = "" if group.std is None else digits(group.std, decimals, published.std if published else None)
    marks = {"constant": CONSTANT_MARK, "incomplete": f"({group.n}/{group.n_asked})"}
    return Shown(mean, std, marks.get(group.state, ""))


def _published(
    table: Table, placed: Mapping[tuple[Place, Place], Group], rows: Sequence[Place], columns: Sequence[Place]
) -> tuple[tuple[Shown, ...], ...]:
    def show(group: Group) -> Shown:
        if group.reference is None:
            return Shown(word=WORDS["absent"])
        std = group.reference.std
        return Shown(f"{group.reference.mean:f}", "" if std is None else f"{std:f}")

    return _bold(table, rows, columns, {place: show(group) for place, group in placed.items()})


def _bold(
    table: Table, rows: Sequence[Place], columns: Sequence[Place], shown: Mapping[tuple[Place, Place], Shown]
) -> tuple[tuple[Shown, ...], ...]:
    """Fill the rectangle and embolden the best of each column; rows of another data set are another column."""
    rivals: dict[Place, list[Decimal]] = {}
    for (row, column), cell in shown.items():
        if cell.mean:
            rivals.setdefault(_contest(table, row, column), []).append(Decimal(cell.mean))
    best = max if table.higher_is_better else min
    winners = {contest: best(values) for contest, values in rivals.items() if len(values) > 1}

    def finish(row: Place, column: Place) -> Shown:
        cell = shown.get((row, column), Shown())
        wins = bool(cell.mean) and winners.get(_contest(table, row, column)) == Decimal(cell.mean)
        return Shown(cell.mean, cell.std, cell.mark, cell.word, wins)

    return tuple(tuple(finish(row, column) for column in columns) for row in rows)


def _contest(table: Table, row: Place, column: Place) -> Place:
    """Cells that compare with each other: one column, within one data set, fraction and metric."""
    return (*column, *(value for axis, value in zip(table.index, row, strict=True) if axis in COLUMN_AXES))


def _beside(ours: Block, published: Block) -> tuple[Block, ...] | None:
    """One block with both values side by side, where it is narrow and both have the same columns."""
    if len(ours.columns) > MOST_COLUMNS_BESIDE or ours.columns != published.columns:
        return None
    columns = tuple(
        (*labels, title) for labels in ours.columns for title in (ours.title.lower(), published.title.lower())
    )
    cells = tuple(
        tuple(cell for pair in zip(*both, strict=True) for cell in pair)
        for both in zip(ours.cells, published.cells, strict=True)
    )
    return (Block("", columns, cells),)


def _column_labels(table: Table, columns: Sequence[Place], *, published: bool) -> tuple[Labels, ...]:
    sizes = _sizes(table, published) if "fraction" in table.columns and "n_train" not in table.columns else {}
    if not table.columns:
        return ((value_label("metric", table.plan["table"]["value"][0]),),)
    labels = []
    for column in columns:
        label = [value_label(axis, value) for axis, value in zip(table.columns, column, strict=True)]
        if len(sizes.get(column, ())) == 1:
            label[table.columns.index("fraction")] += f" ({next(iter(sizes[column]))})"
        labels.append(tuple(label))
    return tuple(labels)


def _sizes(table: Table, published: bool) -> dict[Place, set[int]]:
    """The numbers of training images of each column; shown where there is exactly one."""
    sizes: dict[Place, set[int]] = {}
    for group in table.groups:
        source = (group.reference.axes if group.reference else {}) if published else group.axes
        if source.get("n_train") is not None:
            sizes.setdefault(_at(table.columns, group.axes), set()).add(source["n_train"])
    return sizes


def _places(axes: tuple[str, ...], groups: Sequence[Group]) -> list[Place]:
    """The rows (or columns) that occur, outer axes first, each level in its order of appearance.

    What names a row of the grid (scenario, model, ...) is one level: a grid may list its rows in any order.
    """
    levels = _levels(axes)
    ranks: list[dict[Place, int]] = [{} for _ in levels]
    places: dict[Place, None] = {}
    for group in groups:
        places.setdefault(_at(axes, group.axes))
        for level, rank in zip(levels, ranks, strict=True):
            rank.setdefault(_at(level, group.axes), len(rank))

    def order(place: Place) -> tuple[int, ...]:
        values = dict(zip(axes, place, strict=True))
        return tuple(rank[_at(level, values)] for level, rank in zip(levels, ranks, strict=True))

    return sorted(places, key=order)


def _levels(axes: tuple[str, ...]) -> list[tuple[str, ...]]:
    row_axes = tuple(axis for axis in axes if axis not in COLUMN_AXES)
    levels: list[tuple[str, ...]] = []
    for axis in axes:
        level = (axis,) if axis in COLUMN_AXES else row_axes
        if level not in levels:
            levels.append(level)
    return levels


def _at(axes: Sequence[str], values: Mapping[str, Any]) -> Place:
    return tuple(values[axis] for axis in axes)


def _breaks(index: tuple[str, ...], rows: Sequence[Place]) -> frozenset[int]:
    if len(index) < 2 or index[0] not in COLUMN_AXES:
        return frozenset()
    return frozenset(n for n in range(1, len(rows)) if rows[n][0] != rows[n - 1][0])
