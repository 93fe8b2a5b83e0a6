"""Tidy rows: one per cell and metric, in the order of the plan. Nothing is averaged here and nothing is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

CELL_AXES = (
    "scenario", "frozen", "model", "pretext", "pretext_data", "network", "dataset", "fraction", "n_train", "seed",
)  # fmt: skip
COLUMNS = ("grid", *CELL_AXES, "metric", "value", "status", "key", "run_id", "stand_ins", "error")
STATUSES = ("succeeded", "failed", "blocked", "missing", "constant")

Records = Mapping[str, Mapping[str, Any]]


class Outcome(NamedTuple):
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
    so that no cell is lost. A constant has one, of the table's first metric. Values are fractions as recorded; a value
    that is not a finite number counts as failed.

    Args:
        plan: a resolved plan of the store.
        commits: commit records by key.
        failures: last failures by key; a commit of the same key outweighs them.
        run_ids: MLflow run ids by key; absent ones stay empty.
    """
    asked: list[str] = list(plan["table"]["value"])
    stand_ins = plan.get("stand_ins") or {}
    axes: list[tuple[Any, ...]] = []  # of each cell
    rows: list[tuple[int, str, float | None, str, str]] = []  # number of the cell and its outcome
    for number, cell in enumerate(plan["cells"]):
        key = cell.get("key")
        known = (key, (run_ids or {}).get(key, ""), _stand_ins(cell, stand_ins) if stand_ins else "")
        axes.append((plan["grid"], *(cell.get(axis) for axis in CELL_AXES), *known))
        rows += [(number, *outcome) for outcome in outcomes(cell, asked, commits.get(key), failures.get(key))]
    return _frame(axes, rows)


def _frame(axes: Sequence[tuple[Any, ...]], rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Columns as arrays of objects, so that None, True and 8 stay what they are; values as floats."""
    numbers, *outcomes_ = zip(*rows, strict=True) if rows else ((),) * 5
    place = np.fromiter(numbers, dtype=np.int64, count=len(rows))
    per_cell = dict(zip(("grid", *CELL_AXES, "key", "run_id", "stand_ins"), zip(*axes, strict=True), strict=False))
    arrays = {name: _objects(values)[place] for name, values in per_cell.items()}
    arrays |= {name: _objects(values) for name, values in zip(Outcome._fields, outcomes_, strict=True)}
    frame = pd.DataFrame({name: arrays.get(name, _objects(())) for name in COLUMNS}, dtype=object)
    frame["value"] = frame["value"].astype(float)
    return frame


def _objects(values: Sequence[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def outcomes(
    cell: Mapping[str, Any],
    asked: Sequence[str],
    commit: Mapping[str, Any] | None,
    failure: Mapping[str, Any] | None,
) -> Iterator[Outcome]:
    """What a cell says of each metric: its constant, its result, or why there is none."""
    if cell.get("constant") is not None:
        yield Outcome(asked[0], float(cell["constant"]), "constant")
    elif commit is not None:
        metrics: Mapping[str, Any] = commit.get("metrics") or {}
        for metric in (*asked, *(metric for metric in metrics if metric not in asked)):
            value = metrics.get(metric)
            if type(value) is float and -math.inf < value < math.inf:  # nearly always, and there may be a million
                yield Outcome(metric, value, "succeeded")
            else:
                yield _reported(metric, metrics)
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
