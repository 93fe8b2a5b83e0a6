"""Curves of finetuning with their spread over seeds, and how soon they are near their end [P1 §3, §5.1, Fig. 4]."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainables.analyses.choose import metric_name, table
from trainables.analyses.figures import COLUMN, PAGE, canvas, method_colors, png, style
from trainables.context import Context, Result, StageError
from trainables.settings import parse
from trainables.settings.analyses import CurvesSettings

Curve = dict[int, float]  # step -> value
LABELS = {"eval_dice": "evaluation Dice (%)"}


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Draw the curves of finished stages, one line for each model, one part of the figure for each panel.

    Args:
        spec: analysis (`CurvesSettings`), panels (a list of title, lines and, if any, gaps: names of models without a
            result, and note: what stands in for the data; a line has name, roles: one for each seed, and optionally
            method, which gives the colour, and dashed, for a random decoder).
        context: the histories of the parents by role (`history_of`).

    Returns:
        Files curves.png, curves.csv (panel, model, step, mean, std, n), steps.csv (panel, model, n, final_mean,
        final_std, steps_mean, steps_std) and steps.png. Metrics of each line: final/<panel>/<model> (mean of the last
        values) and steps<share>/<panel>/<model>, the mean over the seeds of the first step that reaches `share` of that
        seed's last value. Values as fractions, std with ddof 1 (empty for one seed).

    Raises:
        StageError: a history is missing, or has no such metric.
    """
    settings = parse(CurvesSettings, spec["analysis"])
    panels = [(panel["title"], _lines(panel, settings, context)) for panel in spec["panels"]]
    points: list[tuple[object, ...]] = []
    ends: list[tuple[object, ...]] = []
    metrics: dict[str, float] = {}
    for title, lines in panels:
        for line in lines:
            points += [(title, line.name, step, mean, std, n) for step, mean, std, n in line.band()]
            final, steps = line.final(), line.steps_to(settings.share)
            ends.append((title, line.name, len(final), *_spread(final), *_spread(steps)))
            metrics[metric_name("final", title, line.name)] = statistics.fmean(final)
            metrics[metric_name(f"steps{100 * settings.share:g}", title, line.name)] = statistics.fmean(steps)
    steps_header = ("panel", "model", "n", "final_mean", "final_std", "steps_mean", "steps_std")
    return Result(
        metrics,
        facts={"share": settings.share, "metric": settings.metric},
        files={
            "curves.png": _draw_curves(panels, settings, spec["panels"]),
            "steps.png": _draw_steps(panels, settings, spec["panels"]),
            "curves.csv": table(("panel", "model", "step", "mean", "std", "n"), points),
            "steps.csv": table(steps_header, ends),
        },
    )


class Line:
    """The runs of one model, one for each seed."""

    def __init__(self, name: str, method: str, dashed: bool, runs: Sequence[Curve]) -> None:
        self.name, self.method, self.dashed, self.runs = name, method, dashed, runs

    def band(self) -> list[tuple[int, float, float | str, int]]:
        """(step, mean, std, number of seeds) where all seeds have a value."""
        shared = sorted(set.intersection(*(set(run) for run in self.runs)))
        return [(step, *_spread([run[step] for run in self.runs]), len(self.runs)) for step in shared]

    def final(self) -> list[float]:
        """The last value of each seed."""
        return [run[max(run)] for run in self.runs]

    def steps_to(self, share: float) -> list[int]:
        """For each seed the first step whose value is at least `share` of the last one."""
        return [
            min(step for step, value in run.items() if value >= share * end)
            for run, end in zip(self.runs, self.final(), strict=True)
        ]


def _lines(panel: Mapping[str, Any], settings: CurvesSettings, context: Context) -> list[Line]:
    return [
        Line(
            line["name"],
            line.get("method", line["name"]),
            bool(line.get("dashed", False)),
            [_curve(role, settings.metric, context) for role in line["roles"]],
        )
        for line in panel["lines"]
    ]


def _curve(role: str, metric: str, context: Context) -> Curve:
    try:
        history = context.history_of(role)
    except KeyError:
        raise StageError(f"curves: expected the history of {role!r}, but none was given") from None
    curve = {int(p["step"]): p[metric] for p in history if math.isfinite(p.get(metric, math.nan))}
    if not curve:
        known = sorted({name for point in history for name in point} - {"step"})
        raise StageError(f"curves: {role} has no {metric}; it has {', '.join(known) or 'no points'}")
    return curve


def _spread(values: Sequence[float]) -> tuple[float, float | str]:
    """Mean and sample standard deviation, empty for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else ""


def _draw_curves(
    panels: Sequence[tuple[str, Sequence[Line]]], settings: CurvesSettings, asked: Sequence[Mapping[str, Any]]
) -> bytes:
    colors = _colors(panels)
    with style():
        figure, axes = _row_of(panels, 2.3)
        for place, (_, lines), about in zip(axes, panels, asked, strict=True):
            _draw_panel(place, lines, colors)
            place.set(xlabel="training step", title=_title(about))
            for gap in about.get("gaps", ()):
                place.plot([], [], linestyle="none", label=f"{gap}: no result")
        axes[0].set_ylabel(_label(settings))
        _legend_below(figure, axes)
        return png(figure)


def _title(about: Mapping[str, Any]) -> str:
    """With the note below, in lines that are not longer than a part of the figure is wide."""
    return "\n".join([about["title"], *(wrap(f"({about['note']})", 42) if about.get("note") else [])])


def _legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all parts, below them, where it hides no curve; the figure grows by its height."""
    entries = {name: handle for place in axes for handle, name in zip(*place.get_legend_handles_labels(), strict=True)}
    width, height = figure.get_size_inches()
    columns = max(1, min(len(entries), int(width / (0.55 + 0.056 * max(map(len, entries))))))
    figure.set_size_inches(width, height + 0.1 + 0.14 * math.ceil(len(entries) / columns))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def _draw_panel(axes: Axes, lines: Sequence[Line], colors: Mapping[str, str]) -> None:
    highest, lowest = 0.0, 100.0
    for line in lines:
        steps, means, stds, _ = zip(*line.band(), strict=True)
        middle = [100 * mean for mean in means]
        spread = [100 * std if isinstance(std, float) else 0.0 for std in stds]
        low, high = ([m + sign * s for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
        color = colors[line.method]
        axes.plot(steps, middle, color=color, linewidth=1.1, linestyle=_dash(line), label=line.name)
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        highest, lowest = max(highest, *high), min(lowest, *low)
    axes.xaxis.set_major_locator(_whole_steps())
    axes.set(xlim=(0, None), ylim=(max(0, lowest - 3), min(100, highest + 3)))


def _draw_steps(
    panels: Sequence[tuple[str, Sequence[Line]]], settings: CurvesSettings, asked: Sequence[Mapping[str, Any]]
) -> bytes:
    """Steps to `share` of the final value: a point for each seed, a bar to their mean."""
    colors, count = _colors(panels), max(len(lines) for _, lines in panels)
    noted = max(_title(about).count("\n") for about in asked)
    first = [line.name for line in panels[0][1]]
    with style():
        figure, axes = _row_of(panels, 0.75 + 0.22 * count + 0.14 * noted)
        for place, (_, lines), about in zip(axes, panels, asked, strict=True):
            for y, line in enumerate(lines):
                steps, color = line.steps_to(settings.share), colors[line.method]
                hatch = "////" if line.dashed else None
                place.barh(y, statistics.fmean(steps), color=color, alpha=0.45, height=0.65, hatch=hatch)
                marks = {"s": 9, "color": color, "edgecolors": "black", "linewidths": 0.4, "zorder": 3}
                place.scatter(steps, [y] * len(steps), clip_on=False, **marks)  # at 0, too, the whole mark
            place.set_yticks(range(len(lines)), [line.name for line in lines])
            if place is not axes[0] and [line.name for line in lines] == first:
                place.tick_params(labelleft=False)
            place.set(xlabel=f"steps to {100 * settings.share:g} % of the final value", ylim=(-0.6, None))
            place.set_title(_title(about), loc="right")  # a long one goes left, where the names leave room
            place.set_xlim(0, None)
            place.xaxis.set_major_locator(_whole_steps())
            place.invert_yaxis()
            place.grid(axis="y", visible=False)
        return png(figure)


def _row_of(panels: Sequence[object], height: float) -> tuple[Any, Any]:
    figure, axes = canvas(COLUMN if len(panels) == 1 else PAGE, height, ncols=len(panels), squeeze=False)
    return figure, axes[0]


def _whole_steps() -> MaxNLocator:
    return MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10])


def _colors(panels: Sequence[tuple[str, Sequence[Line]]]) -> dict[str, str]:
    return method_colors(line.method for _, lines in panels for line in lines)


def _dash(line: Line) -> str:
    return "--" if line.dashed else "-"


def _label(settings: CurvesSettings) -> str:
    return LABELS.get(settings.metric, settings.metric.replace("_", " ") + " (%)")
