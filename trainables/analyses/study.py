"""A study in pictures: the objective by trial, by parameter, and which parameters mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from trainables.analyses.figures import COLORS, COLUMN, GREY, canvas, png, style
from trainables.context import Context, Result

Trials = Sequence[Mapping[str, Any]]
_MARKS = {"COMPLETE": ("o", COLORS[0]), "PRUNED": ("x", GREY), "FAIL": ("|", COLORS[1])}


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Draw a study.

    Args:
        spec: name, metric, direction, trials (number, state, value, params, steps_run), importance (share by
            parameter).

    Returns:
        Files history.png, slices.png (where parameters were tuned) and importance.png (where it could be told).
        Metrics: trials, pruned, failed, steps_run and the best value.
    """
    trials: Trials = spec["trials"]
    files = {"history.png": _history(spec, trials)}
    if any(trial["params"] for trial in trials):
        files["slices.png"] = _slices(spec, trials)
    if spec["importance"]:
        files["importance.png"] = _importance(spec)
    count = {state: sum(trial["state"] == state for trial in trials) for state in _MARKS}
    best = _best(spec, [t["value"] for t in trials if t["state"] == "COMPLETE"])
    return Result(
        metrics={
            "trials": len(trials),
            "pruned": count["PRUNED"],
            "failed": count["FAIL"],
            "steps_run": sum(trial["steps_run"] for trial in trials),
            **({} if best is None else {"best": best}),
        },
        files=files,
    )


def _best(spec: Mapping[str, Any], values: Sequence[float]) -> float | None:
    return (max if spec["direction"] == "maximize" else min)(values) if values else None


def _history(spec: Mapping[str, Any], trials: Trials) -> bytes:
    """Each trial's value, and the best complete one so far."""
    with style():
        figure, axes = canvas(COLUMN, 2.3)
        _scatter(axes, trials, [trial["number"] for trial in trials])
        best: list[float | None] = []
        for number in range(len(trials)):
            best.append(_best(spec, [t["value"] for t in trials[: number + 1] if t["state"] == "COMPLETE"]))
        known = [(n, value) for n, value in enumerate(best) if value is not None]
        if known:
            numbers, values = zip(*known, strict=True)
            axes.step(numbers, values, where="post", color=COLORS[0], linewidth=1, label="best so far")
        axes.set(xlabel="trial", ylabel=_label(spec), title=spec["name"])
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes)
        return png(figure)


def _slices(spec: Mapping[str, Any], trials: Trials) -> bytes:
    """The value against each parameter."""
    names = sorted({name for trial in trials for name in trial["params"]})
    with style():
        figure, row = canvas(1.9 * len(names) + 0.6, 2.2, ncols=len(names), sharey=True, squeeze=False)
        for axes, name in zip(row[0], names, strict=True):
            tried = [trial for trial in trials if name in trial["params"]]
            values = [trial["params"][name] for trial in tried]
            numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
            choices = sorted(set(values)) if numeric else sorted(set(map(str, values)))
            if numeric and len(choices) > 6:
                _scatter(axes, tried, values)
                if min(values) > 0 and max(values) / min(values) > 20:
                    axes.set_xscale("log")
            else:
                _scatter(axes, tried, [choices.index(v if numeric else str(v)) for v in values])
                axes.set_xticks(range(len(choices)), [f"{c:g}" if numeric else str(c) for c in choices])
                axes.margins(x=0.15)
            axes.set_xlabel(name.replace("_", " "))
        row[0][0].set_ylabel(_label(spec))
        figure.suptitle(spec["name"], fontsize=8)
        _legend(row[0][-1])
        return png(figure)


def _importance(spec: Mapping[str, Any]) -> bytes:
    """The share of the objective's variance that each parameter explains (fANOVA)."""
    items = sorted(spec["importance"].items(), key=lambda item: item[1])
    with style():
        figure, axes = canvas(COLUMN, 0.6 + 0.25 * len(items))
        axes.barh([name.replace("_", " ") for name, _ in items], [share for _, share in items], color=COLORS[0])
        axes.set(xlabel="importance (fANOVA, share of the variance)", xlim=(0, 1), title=spec["name"])
        axes.grid(axis="y", visible=False)
        return png(figure)


def _scatter(axes: Axes, trials: Trials, where: Sequence[float]) -> None:
    for state, (mark, color) in _MARKS.items():
        points = [(x, t["value"]) for x, t in zip(where, trials, strict=True) if t["state"] == state]
        points = [(x, value) for x, value in points if value is not None]
        if points:
            xs, values = zip(*points, strict=True)
            axes.scatter(xs, values, marker=mark, s=14, color=color, label=state.lower(), linewidths=1)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:  # of a study whose trials have all failed there is nothing to show
        axes.legend()


def _label(spec: Mapping[str, Any]) -> str:
    better = "higher" if spec["direction"] == "maximize" else "lower"
    return f"{spec['metric'].replace('_', ' ')} ({better} is better)"
