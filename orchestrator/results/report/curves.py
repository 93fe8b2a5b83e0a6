"""Curves as drawings inside the page: text and lines take the page's colours, so they fit light, dark and paper."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.record.store import Store, StoreError
from orchestrator.results.labels import value_label
from orchestrator.results.references import SCALES
from orchestrator.results.table import COLUMN_AXES, Table

WIDTH, HEIGHT = 320.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 8.0, 32.0  # room for the labels of the axes
MOST_CURVES = 1500  # histories that are read
SKIPPED = 0.2  # of finetuning, where the axis does not reach
STYLES, PLAIN = 8, 4  # colours; those after the first four are dashed, too

Records = Mapping[str, Mapping[str, Any]]
History = Sequence[Mapping[str, float]]
Point = tuple[float, float, float, float]  # step, mean, lower and upper edge of the band


@dataclass(frozen=True)
class Line:
    """One line of a panel: a name, the number of its style, mean and band over `n` runs."""

    name: str
    style: int
    points: tuple[Point, ...]
    n: int


@dataclass(frozen=True)
class Mark:
    """A tick: where it stands and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Drawn:
    """A line in the coordinates of the drawing."""

    name: str
    style: int
    dashed: bool
    path: str
    band: str
    end: tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """A drawing with its axes. `said`: what it shows, in words."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Drawn, ...]
    x_marks: tuple[Mark, ...]
    y_marks: tuple[Mark, ...]
    said: str
    view: str = f"0 0 {WIDTH:g} {HEIGHT:g}"
    box: tuple[float, float, float, float] = field(default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))


@dataclass(frozen=True)
class Legend:
    """What a style stands for."""

    name: str
    style: int
    dashed: bool


def finetuning(store: Store, table: Table, records: Records) -> tuple[list[Panel], list[Legend]]:
    """A panel for each data set and fraction: the evaluation curve of every row, mean and std over its seeds."""
    cells = [cell for cell in table.plan["cells"] if cell.get("key") in records]
    if not cells or len(cells) > MOST_CURVES:
        return [], []
    histories = read_histories(store, (records[cell["key"]] for cell in cells))
    name = _curve_name(histories.values(), table.plan["table"]["value"])
    if name is None:
        return [], []
    axes = [axis for axis in (*table.index, *table.columns) if axis not in COLUMN_AXES]
    scale = 10.0 ** SCALES.get(table.unit, 0)
    panels: dict[str, dict[str, list[dict[float, float]]]] = {}
    for cell in cells:
        title = ", ".join(value_label(axis, cell[axis]) for axis in ("dataset", "fraction"))
        row = ", ".join(filter(None, (value_label(axis, cell[axis]) for axis in axes))) or str(cell["model"])
        curve = {p["step"]: scale * p[name] for p in histories.get(cell["key"], ()) if _finite(p.get(name))}
        if curve:
            panels.setdefault(title, {}).setdefault(row, []).append(curve)
    styles = {row: n for n, row in enumerate(dict.fromkeys(row for rows in panels.values() for row in rows))}
    label = f"{name.removeprefix('eval_').replace('_', ' ')}{' (%)' if table.unit == 'percent' else ''}"
    drawn = [
        draw(title, label, [mean_line(row, styles[row], runs, scale) for row, runs in rows.items()], skip=SKIPPED)
        for title, rows in panels.items()
    ]
    return drawn, [Legend(row, n % STYLES, n % STYLES >= PLAIN) for row, n in styles.items()]


def pretraining(store: Store, plan: Mapping[str, Any], records: Records) -> list[Panel]:
    """A panel for each finished pretraining: its losses."""
    stages = {k: s for k, s in (plan.get("stages") or {}).items() if s["kind"] == "pretrain" and k in records}
    histories = read_histories(store, (records[key] for key in list(stages)[:MOST_CURVES]))
    shared = Counter(stage["name"] for stage in stages.values())
    panels = []
    for key, history in histories.items():
        network = (stages[key].get("labels") or {}).get("network")
        title = stages[key]["name"]
        title += f", {network}" if shared[title] > 1 and network else ""
        names = [n for n in ("train_loss", "val_loss") if any(_finite(p.get(n)) for p in history)]
        lines = [
            mean_line({"train_loss": "training", "val_loss": "validation"}[name], n, [_curve(history, name)])
            for n, name in enumerate(names)
        ]
        if lines:
            panels.append(draw(title, "loss", lines))
    return sorted(panels, key=lambda panel: panel.title)


def read_histories(store: Store, records: Iterable[Mapping[str, Any]]) -> dict[str, History]:
    """The history of each record by its key; one that is missing or damaged is left out."""
    found: dict[str, History] = {}
    for record in records:
        path = (record.get("artifacts") or {}).get("history")
        try:
            history = json.loads(store.artifact(path)) if path else []
        except (StoreError, ValueError):
            continue
        if isinstance(history, list):
            found[str(record["key"])] = history
    return found


def mean_line(name: str, style: int, runs: Sequence[Mapping[float, float]], limit: float | None = None) -> Line:
    """Mean and sample std over runs, at the steps that all of them have.

    Args:
        limit: of values that are between 0 and it by definition; so is their band.
    """
    lowest, highest = (-math.inf, math.inf) if limit is None else (0.0, limit)
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    points = []
    for step in steps:
        values = [run[step] for run in runs]
        mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        points.append((float(step), mean, max(lowest, mean - std), min(highest, mean + std)))
    return Line(name, style, tuple(points), len(runs))


def draw(title: str, y_label: str, lines: Sequence[Line], x_label: str = "step", skip: float = 0.0) -> Panel:
    """Lay lines out in a panel.

    Args:
        skip: the share of the steps at the start whose values do not count for the axis: where a network knows nothing
            yet, what matters later would be pressed flat. What lies outside is cut off.
    """
    points = [point for line in lines for point in line.points]
    right = max((p[0] for p in points), default=1.0) or 1.0
    counted = [point for point in points if point[0] >= skip * right]
    low, high = min((p[2] for p in counted), default=0.0), max((p[3] for p in counted), default=1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    y_ticks = ticks(low, high, 5)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * value / right, 2)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low), 2)

    drawn = tuple(_drawn(line, x, y) for line in lines if line.points)
    ends = "; ".join(f"{line.name} {line.points[-1][1]:.4g}" for line in lines if line.points)
    return Panel(
        title,
        x_label,
        y_label,
        drawn,
        tuple(Mark(x(t), _short(t)) for t in ticks(0.0, right, 4) if t <= right),
        tuple(Mark(y(t), _short(t)) for t in y_ticks),
        f"{y_label} by {x_label} for {title}. At the end: {ends}.",
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that cover low to high."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _drawn(line: Line, x: Any, y: Any) -> Drawn:
    path = "M" + "L".join(f"{x(step):g} {y(mean):g}" for step, mean, _, _ in line.points)
    edges = [(x(p[0]), y(p[3])) for p in line.points] + [(x(p[0]), y(p[2])) for p in reversed(line.points)]
    band = "M" + "L".join(f"{a:g} {b:g}" for a, b in edges) + "Z" if line.n > 1 else ""
    last = line.points[-1]
    style = line.style % STYLES
    return Drawn(line.name, style, style >= PLAIN, path, band, (x(last[0]), y(last[1])))


def _curve(history: History, name: str) -> dict[float, float]:
    return {p["step"]: p[name] for p in history if _finite(p.get(name))}


def _curve_name(histories: Iterable[History], asked: Sequence[str]) -> str | None:
    """The evaluation curve of the asked metric, else any evaluation curve, else none."""
    known = {name for history in histories for point in history for name in point}
    for metric in asked:
        if f"eval_{metric}" in known:
            return f"eval_{metric}"
    return next((name for name in sorted(known) if name.startswith("eval_")), None)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
