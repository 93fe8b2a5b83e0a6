"""The table as a picture: in each of its places our mean ± std as a dot with its line, and the published one below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.results.layout import Block, Shown, arrange
from orchestrator.results.render.html import Label, heading, row_labels
from orchestrator.results.report.curves import Mark, ticks
from orchestrator.results.table import Table

WIDTH, EDGE = 140.0, 14.0  # of a strip, and the room at its ends
TICKS = 3
MOST_STRIPS = 400


@dataclass(frozen=True)
class Point:
    """A mean and the ends of its line (mean ± std) in the coordinates of a strip."""

    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Strip:
    """One place: ours and published, None where there is none; `said`: the same in words."""

    ours: Point | None
    published: Point | None
    said: str


@dataclass(frozen=True)
class Line:
    """A row: the headings that begin there, and its strips. `first`: a new data set begins."""

    labels: tuple[Label, ...]
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Glance:
    """The picture. `axes`: the marks of each column, on which all its rows lie."""

    index: tuple[str, ...]
    heading: Sequence[Sequence[Label]]
    bodies: Sequence[Sequence[Line]]
    axes: tuple[tuple[Mark, ...], ...]
    published: bool
    spread: bool  # whether any line says something
    width: float = WIDTH


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def x(self, value: float) -> float:
        return round(EDGE + (WIDTH - 2 * EDGE) * (value - self.low) / (self.high - self.low), 1)

    def point(self, cell: Shown) -> Point | None:
        if not cell.mean:
            return None
        mean, std = float(cell.mean), float(cell.std or 0)
        return Point(self.x(mean), self.x(mean - std), self.x(mean + std))


def glance(table: Table) -> Glance | None:
    """The picture of a table; None where it has nothing of ours, or more places than one looks at."""
    sheet = arrange(table)
    if len(sheet.rows) * len(sheet.ours.columns) > MOST_STRIPS or not _any(sheet.ours):
        return None
    blocks = [sheet.ours, *([sheet.published] if sheet.published else [])]
    spans = [_span([row[n] for block in blocks for row in block.cells]) for n in range(len(sheet.ours.columns))]
    axes = [_Axis(found[0], found[-1]) for found in spans]
    strips = [
        tuple(
            _strip(axis, ours, sheet.published.cells[n][m] if sheet.published else Shown())
            for m, (axis, ours) in enumerate(zip(axes, cells, strict=True))
        )
        for n, cells in enumerate(sheet.ours.cells)
    ]
    numbers = iter(range(len(strips)))
    bodies = [[Line(labels, strips[next(numbers)]) for labels in body] for body in row_labels(sheet)]
    marks = tuple(
        tuple(Mark(axis.x(tick), f"{tick:g}") for tick in found) for axis, found in zip(axes, spans, strict=True)
    )
    spread = any(cell.std for block in blocks for row in block.cells for cell in row)
    return Glance(sheet.index, heading(sheet.ours, None), bodies, marks, sheet.published is not None, spread)


def _span(cells: Sequence[Shown]) -> list[float]:
    """Round numbers that cover all means with their stds."""
    ends = [float(c.mean) + sign * float(c.std or 0) for c in cells if c.mean for sign in (-1, 1)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    return ticks(low, high, TICKS) if high > low else [low - 0.5, low + 0.5]


def _strip(axis: _Axis, ours: Shown, published: Shown) -> Strip:
    said = ours.text or "no value"
    return Strip(
        axis.point(ours), axis.point(published), f"{said}, published {published.number}" if published.mean else said
    )


def _any(block: Block) -> bool:
    return any(cell.mean for row in block.cells for cell in row)
