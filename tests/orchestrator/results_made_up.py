"""Plans and results made up from the published values: three seeds m - d, m, m + d have mean m and sample std d."""

from __future__ import annotations

from typing import Any

from orchestrator.results.references import load
from tests.contracts import records

# fmt: off
LAYOUTS: dict[str, dict[str, Any]] = {
    "p1-table2": {"index": ["scenario", "model"], "columns": ["dataset", "fraction"], "value": ["dice"], "decimals": 1},
    "p1-table3": {"index": ["scenario", "model"], "columns": ["metric"], "value": ["dice_eval", "iou_eval"],
                  "decimals": 2},
    "p1-table4": {"index": ["scenario", "model", "pretext_data"], "columns": ["dataset"], "value": ["dice"],
                  "decimals": 1},
    "p1-table5": {"index": ["scenario", "model", "pretext_data"], "columns": ["dataset"], "value": ["dice"],
                  "decimals": 1},
    "p1-table6": {"index": ["model"], "columns": ["dataset", "fraction"], "value": ["dice"], "decimals": 1},
    "p2-table2": {"index": ["dataset", "model", "network"], "columns": ["metric"], "value": ["miou"], "decimals": 4},
    "p2-table3": {"index": ["dataset", "model", "network"], "columns": ["metric"], "value": ["miou"], "decimals": 4},
    "p2-table4": {"index": ["model", "network"], "columns": [], "value": ["accuracy"], "decimals": 3},
    "p2-table5": {"index": ["dataset", "model", "network"], "columns": ["metric"], "value": ["miou"], "decimals": 4},
}
# fmt: on

Made = tuple[dict[str, Any], dict[str, dict[str, Any]]]


def cell(**given: Any) -> dict[str, Any]:
    """One cell of a plan; what is not given is that of a plain random-init cell."""
    plain = {
        "scenario": "random-init", "frozen": False, "model": "Random", "pretext": None, "pretext_data": None,
        "network": "conrec-unet", "dataset": "pets", "fraction": 0.01, "n_train": 74, "seed": 0, "key": None,
        "constant": None, "blocked": None,
    }  # fmt: skip
    return {**plain, **given}


def plan(cells: list[dict[str, Any]], **given: Any) -> dict[str, Any]:
    """A plan around cells, in the layout of P1 Table 2."""
    table = {**LAYOUTS["p1-table2"], "unit": "percent", "higher_is_better": True, **given.pop("table", {})}
    plain = {
        "format": 1, "plan": "20261121T231500Z-ab12cd34", "grid": "made-up", "profile": "paper", "overrides": [],
        "only": [], "source": "", "data_root": "data", "created": "2026-11-21T23:15:00Z",
        "command": "python -m orchestrator.run_grid made-up",
        "title": "Made up", "references": None, "stand_ins": {}, "footnotes": [], "stages": {},
    }  # fmt: skip
    return {**plain, "table": table, "cells": cells, **given}


def commit(key: str, **metrics: Any) -> dict[str, Any]:
    """A commit record of a finished stage."""
    return records.commit(key, metrics=metrics)


def published(name: str) -> Made:
    """A plan with the cells of a published table, and commits whose mean and std are the published ones."""
    cells: dict[str, dict[str, Any]] = {}
    commits: dict[str, dict[str, Any]] = {}
    unit = "percent"
    for reference in load(name):
        unit, axes = reference.unit, {a: v for a, v in reference.axes.items() if a != "metric"}
        scale = 100 if unit == "percent" else 1
        mean, std = float(reference.mean), 0.0 if reference.std is None else float(reference.std)
        values = [mean] if reference.std is None else [mean - std, mean, mean + std]
        if "scenario" not in axes:  # a value that the paper takes from the literature
            constant = cell(**axes, key=None, seed=None, constant=mean / scale) | {"scenario": None, "frozen": None}
            cells[repr(axes)] = {**constant, "fraction": None, "n_train": None}
            continue
        for seed, value in enumerate(values):
            key = repr((axes, seed))
            given = {"fraction": None, "n_train": None, **axes}
            cells[key] = cell(**given, pretext=None if axes["model"] == "Random" else axes["model"], seed=seed, key=key)
            commits.setdefault(key, commit(key))["metrics"][reference.axes["metric"]] = value / scale
    layout = {**LAYOUTS[name], "unit": unit}
    return plan(list(cells.values()), grid=name, references=name, table=layout), commits
