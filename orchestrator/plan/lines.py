"""How cells are called in a figure: one line for each row of a table, with its seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.plan.stages import Cell


@dataclass(frozen=True)
class Line:
    """One way to start a network, on one data set and fraction.

    method: what gives it its colour; a random decoder has that of the pretrained one, and is dashed.
    """

    name: str
    method: str
    dashed: bool
    cells: tuple[Cell, ...]


def lines_of(cells: Sequence[Cell], names: Mapping[str, str]) -> list[Line]:
    """Cells as lines, in their order. Where models have one name, the line says what they do not share.

    Args:
        names: how models, data sets and networks are called; others by their ids.
    """
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_row(cell), []).append(cell)
    firsts = [group[0] for group in groups.values()]
    lines = []
    for group in groups.values():
        cell = group[0]
        dashed = cell.scenario == "seg-enc"
        method = ", ".join([names.get(cell.model, cell.model), *_told_apart(cell, firsts, names)])
        lines.append(Line(f"{method}, random decoder" if dashed else method, method, dashed, tuple(group)))
    return lines


def _row(cell: Cell) -> tuple[object, ...]:
    return (cell.model, cell.scenario, cell.pretext, cell.pretext_data, cell.network, cell.frozen)


def _told_apart(cell: Cell, firsts: Sequence[Cell], names: Mapping[str, str]) -> list[str]:
    """What this line has and others of its model have not. Whether its decoder is random is told elsewhere."""
    rivals = [other for other in firsts if other.model == cell.model]
    found: list[str] = []
    for value_of in _TELLING:
        own = value_of(cell)
        if own is not None and len({value_of(other) for other in rivals}) > 1:
            found.append(names.get(own, own))
        rivals = [other for other in rivals if value_of(other) == own]
    return found


def _start(cell: Cell) -> str:
    return "seg-enc-dec" if cell.scenario == "seg-enc" else cell.scenario


# What tells lines of one model apart, in this order.
_TELLING: tuple[Callable[[Cell], str | None], ...] = (
    lambda cell: cell.pretext_data,
    lambda cell: cell.network,
    lambda cell: "frozen" if cell.frozen else "trained",
    _start,
    lambda cell: cell.pretext,
)
