"""Tidy rows: one per cell and metric, in the order of the plan. Nothing is averaged here and nothing is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

CELL_AXES = (
    "scenario", "frozen", "model", "pretext", "pretext_data", "network", "dataset", "fraction", "n_train", "seed",
)  # fmt: skip
COLUMNS = ("grid", *CELL_AXES, "metric", "value", "status", "key", "run_id", "stand_ins", "error")
STATUSES = ("succeeded", "failed", "blocked", "missing", "constant")

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What one cell says of one metric. `value` is None unless the status is succeeded or constant."""

    metric: str
    value: float | None
    status: str
    error: str = ""


def tidy(
    plan: Mapping[str, Any],
    commits: Records,
    failures: Records,
    run_ids: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row per cell and metric, with the columns of `COLUMNS`.

    A succeeded cell has a row for each metric it reported; any other cell one for each metric that the table asks for,
    so that no cell is lost. Values are fractions as recorded; a value that is not a finite number counts as failed.

    Args:
        plan: a resolved plan of the store.
        commits: commit records by key.
        failures: last failures by key; a commit of the same key outweighs them.
        run_ids: MLflow run ids by key; absent ones stay empty.
    """
    asked: list[str] = list(plan["table"]["value"])
    rows: list[tuple[Any, ...]] = []
    for cell in plan["cells"]:
        key = cell.get("key")
        axes = tuple(cell.get(axis) for axis in CELL_AXES)
        tail = (key, (run_ids or {}).get(key, ""), _stand_ins(cell, plan.get("stand_ins") or {}))
        rows += [
            (plan["grid"], *axes, outcome.metric, outcome.value, outcome.status, *tail, outcome.error)
            for outcome in outcomes(cell, asked, commits.get(key), failures.get(key))
        ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)  # object: None, True and 8 stay what they are
    frame["value"] = frame["value"].astype(float)
    return frame


def outcomes(
    cell: Mapping[str, Any],
    asked: Sequence[str],
    commit: Mapping[str, Any] | None,
    failure: Mapping[str, Any] | None,
) -> Iterator[Outcome]:
    """What a cell says of each metric: its constant, its result, or why there is none."""
    if cell.get("constant") is not None:
        yield from (Outcome(metric, float(cell["constant"]), "constant") for metric in asked)
    elif commit is not None:
        metrics: Mapping[str, Any] = commit.get("metrics") or {}
        extra = [metric for metric in metrics if metric not in asked]
        yield from (_reported(metric, metrics) for metric in (*asked, *extra))
    else:
        status, error = _reason(cell, failure)
        yield from (Outcome(metric, None, status, error) for metric in asked)


def _stand_ins(cell: Mapping[str, Any], stand_ins: Mapping[str, str]) -> str:
    return stand_ins_of(cell, stand_ins) if cell.get("constant") is None else ""


def stand_ins_of(axes: Mapping[str, Any], stand_ins: Mapping[str, str]) -> str:
    """What stands in behind a cell or group, as `asked=used; ...`: data, and made-up colours for a pretext's pictures.

    The key `*` stands for every data set.
    """
    names = dict.fromkeys(name for name in (axes.get("pretext_data"), axes.get("dataset")) if name)
    used = {name: stand_ins.get(name, stand_ins.get("*", name)) for name in names}
    colorizer = f"the colorizer of {axes.get('pretext')}"
    used |= {colorizer: stand_ins[colorizer]} if colorizer in stand_ins else {}
    return "; ".join(f"{name}={stand_in}" for name, stand_in in used.items() if stand_in != name)


def _reported(metric: str, metrics: Mapping[str, Any]) -> Outcome:
    if metric not in metrics:
        return Outcome(metric, None, "failed", f"the stage finished without reporting {metric}")
    try:
        value = float(metrics[metric])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        return Outcome(metric, None, "failed", f"{metric} is {metrics[metric]}; expected a finite number")
    return Outcome(metric, value, "succeeded")


def _reason(cell: Mapping[str, Any], failure: Mapping[str, Any] | None) -> tuple[str, str]:
    if failure is not None:
        status = "blocked" if failure.get("outcome") == "blocked" else "failed"
        return status, " ".join(str(failure.get("error") or "").split())
    if cell.get("blocked"):
        return "blocked", " ".join(str(cell["blocked"]).split())
    return "missing", ""
