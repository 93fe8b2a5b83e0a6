"""Many drivers on one MLflow server: each a process with a store of its own, running trivial cells of every scenario.

    MLFLOW_TRACKING_URI=http://... python -m tests.docker.drivers --drivers 8 --cells 125 --folder DIR

Drivers are `orchestrator.execute.driver.execute`, as `run_grid` calls it, with the inline executor; what a cell
computes is one number, so that the server and the writers are what is tried.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from itertools import islice, product
from pathlib import Path
from typing import Any

from tests.benchmarks.trivial_stage import CELL, register

ROOT = Path(__file__).resolve().parents[2]
ROWS = {"random-init": "Random", "cls-enc": "SimCLR", "seg-enc-dec": "ConRec", "seg-enc": "ConRec"}
DATASETS = ("flowers17", "pets", "voc-cat", "voc-horse")
FRACTIONS = (0.01, 0.05, 0.2)
EXPERIMENT = "transfergrid"


def graph(driver: int, cells: int) -> dict[str, Any]:
    """The cells of one driver. The seed is part of the value, so that each run can be told from every other."""
    from orchestrator.plan.stages import Stage

    found = {}
    axes = product(range(cells), DATASETS, FRACTIONS, ROWS)
    for seed, dataset, fraction, scenario in islice(axes, cells):
        number = 10_000 * driver + seed
        spec = {
            "scenario": scenario, "network": {"name": "conrec-unet", "width": 8}, "seed": number,
            "data": {"reader": "shapes", "options": {"name": dataset}, "fraction": fraction},
            "finetune": {f"dial_{n}": n for n in range(16)},
        }  # fmt: skip
        labels: dict[str, Any] = {
            "scenario": scenario, "frozen": False, "model": ROWS[scenario], "network": "conrec-unet",
            "dataset": dataset, "fraction": fraction, "seed": number,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:24]
        name = f"{scenario} {dataset} {fraction:.0%} seed {number}"
        found[key] = Stage(key, CELL, spec, {}, "none", name, labels, cost=0.01)
    return found


def run(driver: int, cells: int, folder: Path) -> dict[str, Any]:
    """One driver, in this process. Returns its report: stages that succeeded, and those that MLflow did not take."""
    from rich.console import Console

    from orchestrator.execute import driver as engine
    from orchestrator.execute.outcome import Job
    from orchestrator.execute.view import LineView
    from orchestrator.grid.schema import Run
    from orchestrator.plan.diff import diff
    from orchestrator.plan.stages import Cell, Plan
    from orchestrator.record.store import open_store

    register()
    stages = graph(driver, cells)
    leaves = [Cell("seg-enc", False, "m", None, None, "n", "d", 0.05, 12, n, key) for n, key in enumerate(stages)]
    store = open_store(str(folder / f"store-{driver}"), create=True)
    warnings: list[str] = []
    with Path(os.devnull).open("w") as nowhere:
        report = engine.execute(
            diff([Plan(f"driver-{driver}", "smoke", tuple(leaves), stages)], set()),
            store, Job(store.address, str(folder), run=f"driver-{driver}"), Run(),
            engine.Where("inline", None, None, os.environ["MLFLOW_TRACKING_URI"], EXPERIMENT),
            LineView(stages, Console(file=nowhere)), warnings.append, before=lambda: None,
        )  # fmt: skip
    return {"succeeded": report.succeeded, "not_in_mlflow": report.not_in_mlflow, "warnings": warnings}


def start(drivers: int, cells: int, folder: Path, environment: dict[str, str]) -> list[subprocess.Popen[str]]:
    """All drivers at once."""
    command = [sys.executable, "-m", "tests.docker.drivers", "--cells", str(cells), "--folder", str(folder), "--one"]
    return [
        subprocess.Popen([*command, str(n)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for n in range(drivers)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drivers", type=int, default=8)
    parser.add_argument("--cells", type=int, default=125, help="of each")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(run(options.one, options.cells, options.folder)), flush=True)
        return
    for process in start(options.drivers, options.cells, options.folder, dict(os.environ)):
        print(process.communicate()[0], end="", flush=True)


if __name__ == "__main__":
    main()
