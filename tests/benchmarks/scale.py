"""Thousands of trivial cells through the engine, each with its own durable commit and its own MLflow run, beside peers.

    python -m tests.benchmarks.scale [--cells 300 1000 3000 10000] [--peers] [--pack 32] [--folder DIR] [--out FILE]

Ours is `orchestrator.execute.driver.execute`, as `run_grid` calls it: the graph, real Ray Tune, leases, commits in a
store on disk, and one MLflow writer on SQLite. A parent and a hundred cells below it, and so on: cells are of a kind
that travels in packs. Each measurement is a new process. Columns:

    disk     median ms of forcing a small file to the disk, just before: what every commit and every transaction of
             MLflow's database waits for, so rows at other disk speeds are not to be compared
    engine   ms per cell from the first end of a cell to the last one (start-up of Ray and of workers apart), while
             MLflow is being written too
    MLflow   ms per cell from the first write to the last one
    bare     ms per cell of a bare client, which writes runs of as many tags, parameters and metrics with one
             create_run, log_batch and set_terminated each into a new database of its own; before ours and after it
    memory   MB of the driver at the end, what it grew by 1,000 cells (after the first tenth of them), and MB of the
             largest worker after a tenth and at the end

Peers (`tests.benchmarks.scale_peers`) run the same stage function without graph, store and MLflow, at the number of
cells that each can afford; Hydra's joblib launcher needs hydra-core and hydra-joblib-launcher.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.common import Report, header
from tests.benchmarks.memory import Watch, memory_at
from tests.benchmarks.trivial_stage import CELL, PARENT, POINTS

FAMILY = 100  # cells below one parent
BARE_MOST = 1000
SIZE = {"tags": 10, "params": 23, "metrics": 2 + POINTS}  # of a run, ours and the bare client's
PACKAGES = ("ray", "mlflow", "hydra-core", "hydra-joblib-launcher")
PEERS = {"ray.remote": 1000, "tune-reuse": 1000, "tune-fresh": 20, "hydra-joblib": 300}


def stages(cells: int) -> dict[str, Any]:
    """`cells` cells and a parent for each hundred; the spec is as long as that of a real finetune."""
    from orchestrator.plan.stages import Stage

    network, data = {"name": "none", "width": 8}, {"reader": "none", "options": {}, "fraction": 0.05, "n_train": 12}
    dials = {f"dial_{n}": n for n in range(16)}
    found: dict[str, Stage] = {}

    def add(kind: str, name: str, seed: int, parents: dict[str, str]) -> str:
        spec = {"scenario": "seg-enc", "network": network, "data": data, "finetune": dials, "seed": seed}
        key = hashlib.sha256(name.encode()).hexdigest()[:24]
        labels: dict[str, Any] = {"scenario": "seg-enc", "dataset": "none", "fraction": 0.05, "seed": seed}
        found[key] = Stage(key, kind, spec, parents, "none", name, labels, cost=0.01)
        return key

    for family in range(-(-cells // FAMILY)):
        parent = add(PARENT, f"parent {family}", family, {})
        for cell in range(min(FAMILY, cells - family * FAMILY)):
            add(CELL, f"cell {family} {cell}", family * FAMILY + cell, {"pretrain": parent})
    return found


def ours(cells: int, pack: int, folder: Path) -> dict[str, Any]:
    """Run them, and look that nothing is missing."""
    os.environ["RAY_RUNTIME_ENV_HOOK"] = "tests.benchmarks.trivial_stage.runtime_env"
    from rich.console import Console

    from orchestrator.execute import driver
    from orchestrator.execute.outcome import Job
    from orchestrator.execute.view import LineView
    from orchestrator.grid.schema import Run
    from orchestrator.plan.diff import diff
    from orchestrator.plan.stages import Cell, Plan
    from orchestrator.record.store import open_store
    from orchestrator.record.tracking import Tracker

    graph = stages(cells)
    leaves = [Cell("seg-enc", False, "m", None, None, "n", "d", 0.05, 12, n, key) for n, key in enumerate(graph)]
    found = diff([Plan("scale", "paper", tuple(leaves), graph)], set())
    store = open_store(str(folder / "store"), create=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    written = timed_tracker(Tracker)
    watch = Watch()
    watch.start()
    began = time.time()
    with (folder / "lines.txt").open("w") as lines:
        report = driver.execute(
            found, store, Job(store.address, str(folder), run="scale"), Run(pack=pack),
            driver.Where("ray", None, None, uri, "scale"), LineView(graph, Console(file=lines)), print,
            before=lambda: None,
        )  # fmt: skip
    wall = time.time() - began
    watch.stop()
    ended = sorted(path.stat().st_mtime for path in (folder / "store" / "commits").iterdir())
    early, last = ended[len(ended) // 10], written[-1]
    logged = Tracker(uri, "scale", create=False).logged()
    assert report.succeeded == len(graph) == len(ended) == sum(run.complete for run in logged.values()), report
    assert size_of(uri, next(reversed(logged.values())).run_id) == SIZE
    return {
        "cells": len(graph), "wall": wall, "start": ended[0] - began, "engine": ended[-1] - ended[0],
        "mlflow": written[-1] - written[0], "mlflow_busy": sum(written[1::2]) - sum(written[::2]),
        "driver_early": memory_at(watch.driver, early), "driver_end": memory_at(watch.driver, last),
        "worker_early": memory_at(watch.largest_worker, early),
        "worker_end": memory_at(watch.largest_worker, ended[-1]),
    }  # fmt: skip


def timed_tracker(tracker: type[Any]) -> list[float]:
    """Beginning and end of every run that is written, in turns."""
    times: list[float] = []
    log = tracker.log

    def timed(*args: Any, **named: Any) -> Any:
        times.append(time.time())
        result = log(*args, **named)
        times.append(time.time())
        return result

    tracker.log = timed  # type: ignore[method-assign]
    return times


def bare(cells: int, pack: int, folder: Path) -> dict[str, Any]:
    """The same runs by a bare client."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment, run_id = client.create_experiment("bare"), ""
    began, now = time.time(), int(time.time() * 1000)
    for cell in range(cells):
        tags = {f"transfergrid.tag{n}": str(cell) for n in range(SIZE["tags"])}
        run_id = client.create_run(experiment, start_time=now, tags=tags, run_name=f"cell {cell}").info.run_id
        metrics = [Metric("dice", cell / 1e6, now, 0), Metric("iou", 0.5, now, 0)]
        metrics += [Metric("curve/eval_dice", step / POINTS, now + step, step) for step in range(POINTS)]
        params = [Param(f"finetune.dial_{n}", str(n)) for n in range(SIZE["params"])]
        client.log_batch(run_id, metrics=metrics, params=params)
        client.set_terminated(run_id, status="FINISHED", end_time=now)
    seconds = time.time() - began
    assert size_of(uri, run_id) == SIZE
    return {"cells": cells, "mlflow": seconds}


def size_of(uri: str, run_id: str) -> dict[str, int]:
    """How much a run holds; MLflow itself adds a tag for the name."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri, uri)
    data = client.get_run(run_id).data
    points = sum(len(client.get_metric_history(run_id, name)) for name in data.metrics)
    tags = [name for name in data.tags if not name.startswith("mlflow.")]
    return {"tags": len(tags), "params": len(data.params), "metrics": points}


def forced(folder: Path, times: int = 100) -> float:
    """Median ms of writing a small file and forcing it to the disk."""
    taken = []
    for number in range(times):
        began = time.perf_counter()
        with (folder / f"forced-{number}").open("wb") as file:
            file.write(b"x" * 2000)
            file.flush()
            os.fsync(file.fileno())
        taken.append(1e3 * (time.perf_counter() - began))
        (folder / f"forced-{number}").unlink()
    return statistics.median(taken)


def apart(what: str, cells: int, pack: int, place: Path | None) -> dict[str, Any]:
    """One measurement in a new process, in a folder of its own below `place`."""
    with tempfile.TemporaryDirectory(prefix="transfergrid-scale-", dir=place) as folder:
        disk = forced(Path(folder))
        command = [sys.executable, "-m", "tests.benchmarks.scale", "--one", what, "--cells", str(cells)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(
            [*command, "--pack", str(pack), "--folder", folder], stdout=subprocess.PIPE, text=True, env=env
        )
    if done.returncode:
        return {"cells": cells, "failed": done.returncode}
    return {**json.loads(done.stdout.splitlines()[-1]), "disk": disk, "load": os.getloadavg()[0]}


def show(found: dict[str, Any], plain: list[dict[str, Any]]) -> str:
    n = found["cells"]
    own, others = 1e3 * found["mlflow"] / n, [1e3 * one["mlflow"] / one["cells"] for one in plain]
    growth = (found["driver_end"] - found["driver_early"]) / (0.9 * n / 1000)
    return " | ".join(
        [
            *(f"{n}", f"{found['disk']:.1f}", f"{1e3 * found['engine'] / n:.1f}", f"{found['start']:.1f} s"),
            *(f"{own:.1f}", ", ".join(f"{other:.1f}" for other in others), f"{own / statistics.mean(others):.2f}"),
            *(f"{found['driver_end']:.0f}", f"{growth:.0f}"),
            f"{found['worker_early']:.0f}, {found['worker_end']:.0f}",
            f"{found['load']:.0f}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[300, 1000, 3000, 10_000])
    parser.add_argument("--pack", type=int, default=32)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--folder", type=Path, help="on which disk (default: that of temporary folders)")
    parser.add_argument("--out", type=Path, help="write the report there too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        from tests.benchmarks.scale_peers import RUN

        run = {"ours": ours, "bare": bare, **RUN}[options.one]
        print(json.dumps(run(options.cells[0], options.pack, options.folder)), flush=True)
        return
    report = Report(options.out)
    report.line(header("tests.benchmarks.scale", PACKAGES))
    measure(options, report)
    if options.peers:
        measure_peers(options, report)


def measure(options: argparse.Namespace, report: Report) -> None:
    """Ours, and the bare client around it."""
    report.row(
        *("cells", "disk ms", "engine ms", "start", "MLflow ms", "bare ms", "ratio", "driver MB", "per 1,000 cells"),
        *("worker MB", "load"),
    )
    own: list[dict[str, Any]] = []
    for cells in options.cells:
        few = min(cells, BARE_MOST)
        order = (("bare", few), ("ours", cells), ("bare", few))
        before, found, after = (apart(what, count, options.pack, options.folder) for what, count in order)
        if "failed" in found:
            report.line(f"{cells} | failed: {found}")
            continue
        report.line(show(found, [before, after]))
        own.append(found)
    base = next((found for found in own if found["cells"] >= 1000), own[0] if own else None)
    if base is not None and base is not own[-1]:
        growth = (own[-1]["engine"] / own[-1]["cells"]) / (base["engine"] / base["cells"])
        report.line(f"engine, {own[-1]['cells']} against {base['cells']} cells: {growth:.2f}")


def measure_peers(options: argparse.Namespace, report: Report) -> None:
    report.line()
    report.row("peer", "cells", "ms per cell", "start", "load")
    for name, most in PEERS.items():
        found = apart(name, min(most, max(options.cells)), options.pack, options.folder)
        shown = str(found)
        if "engine" in found:
            shown = f"{1e3 * found['engine'] / found['cells']:.1f} | {found['start']:.1f} s | {found['load']:.0f}"
        report.line(f"{name} | {found['cells']} | {shown}")


if __name__ == "__main__":
    main()
