"""Results made up for a built-in grid so that mean and sample std of every group are the published ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from orchestrator.grid.load import builtin_grids, load_request
from orchestrator.plan.build import plan_record
from orchestrator.plan.data import WEIGHTS, DataFacts
from orchestrator.plan.expand import expand
from orchestrator.results.cells import tidy
from orchestrator.results.references import FOLDER, load
from orchestrator.results.table import Table, summarise
from trainables.data import Listing

OF_DATASETS = ("p1-table1", "p2-table1")  # counts of images: nothing is trained for them
RESULT_TABLES = sorted({path.stem for path in FOLDER.glob("*.csv")} & set(builtin_grids()) - set(OF_DATASETS))


def values(mean: float, std: float | None, n: int) -> list[float]:
    """`n` values with this mean and this sample standard deviation (ddof = 1)."""
    if n == 1 or not std:
        return [mean] * n
    half = std * math.sqrt((n - 1) / 2)
    return [mean - half, mean + half] + [mean] * (n - 2)


def facts_of(spec: dict[str, Any]) -> DataFacts:
    """Every data set and weight file is there; how many images does not matter here."""
    reader = spec["reader"]
    if reader.startswith(WEIGHTS):
        return DataFacts(reader, f"file of {reader}")
    names, numbers = tuple(f"{n}.png" for n in range(3000)), tuple(range(3000))
    classes, labels = {0: 0, 1: 1}, tuple(n % 3 for n in numbers)
    parts = (numbers[:2000], (), numbers[:2000], numbers[2000:])
    return DataFacts(
        reader, f"files of {reader}", Listing(reader, Path("/made-up"), names, names, labels, classes, *parts)
    )


def plan_of(name: str) -> dict[str, Any]:
    """The plan of a built-in grid as the store keeps it, at the paper's sizes."""
    request = load_request(name, profile="paper")
    plan = expand(request.grid, request.profile, facts_of)
    about = {"plan_id": "20261121T231500000Z-ab12cd34", "command": f"python -m orchestrator.run_grid {name}"}
    return plan_record(request, plan, data_root=Path("/data"), **about)


def published_table(name: str) -> Table:
    """The table of a grid whose every group has the published mean and std."""
    plan, references = plan_of(name), load(name)
    asked = summarise(plan, tidy(plan, {}, {}), references)
    commits: dict[str, dict[str, Any]] = {}
    for group in asked.groups:
        assert group.reference is not None, group.axes
        cells = [c for c in plan["cells"] if all(c[axis] == v for axis, v in group.axes.items() if axis != "metric")]
        unit = 100 if group.unit == "percent" else 1
        std = None if group.reference.std is None else float(group.reference.std)
        for cell, value in zip(cells, values(float(group.reference.mean), std, len(cells)), strict=True):
            metrics = commits.setdefault(cell["key"], {"metrics": {}})["metrics"]
            metrics[group.axes["metric"]] = value / unit
    return summarise(plan, tidy(plan, commits, {}), references)
