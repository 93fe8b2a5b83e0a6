"""Trivial cells over ten Ray nodes on this machine, against one node: seconds per cell, and who ran how many.

    python -m tests.benchmarks.nodes [--cells 1000] [--nodes 10] [--out FILE]

Ours is `orchestrator.execute.driver.execute` on a real cluster (`ray start`, token authentication, one CPU a node): Ray
Tune, leases, commits in a store on disk, MLflow on SQLite. What a cell computes is one number, so the figures are the
cost of handing it out. All nodes share this machine's cores: "one node, N slots" has as many workers without further
nodes, and tells what the nodes cost; "one node, 1 slot" has the same shape as each of the ten. Columns:

    ms per cell   from the first commit to the last one (start-up apart)
    start         seconds from the call to the first commit
    spread        fewest and most cells that a worker's node has run, and on how many nodes
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.cluster.ray_nodes import Cluster

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.benchmarks.nodes"  # also where this is __main__


def run(address: str, cells: int, folder: Path) -> dict[str, Any]:
    """The cells on a cluster that is there; nothing may be missing at the end, in store or MLflow."""
    from rich.console import Console

    from orchestrator.execute import driver
    from orchestrator.execute.outcome import Job
    from orchestrator.execute.view import LineView
    from orchestrator.grid.schema import Run
    from orchestrator.plan.diff import diff
    from orchestrator.plan.stages import Cell, Plan
    from orchestrator.record.store import open_store
    from orchestrator.record.tracking import Tracker
    from tests.benchmarks.scale import stages

    graph = stages(cells)
    leaves = [Cell("seg-enc", False, "m", None, None, "n", "d", 0.05, 12, n, key) for n, key in enumerate(graph)]
    store = open_store(str(folder / "store"), create=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    began = time.time()
    with (folder / "lines.txt").open("w") as lines:
        report = driver.execute(
            diff([Plan("nodes", "paper", tuple(leaves), graph)], set()),
            store, Job(store.address, str(folder), run="nodes"), Run(),
            driver.Where("ray", address, None, uri, "nodes"), LineView(graph, Console(file=lines)), print,
            before=lambda: None,
        )  # fmt: skip
    ended = sorted(path.stat().st_mtime for path in (folder / "store" / "commits").iterdir())
    facts = [record["facts"] for record in store.commits(store.finished()).values()]
    logged = Tracker(uri, "nodes", create=False).logged()
    assert report.succeeded == len(graph) == len(ended) == sum(run.complete for run in logged.values()), report
    return {
        "cells": len(graph), "start": ended[0] - began, "engine": ended[-1] - ended[0],
        "by_node": Counter(fact["ray_node"] for fact in facts), "load": os.getloadavg()[0],
    }  # fmt: skip


def runtime_env(env: Any) -> dict[str, Any]:
    """The environment of workers, with the trivial stage in them; named by RAY_RUNTIME_ENV_HOOK."""
    return {**(env or {}), "worker_process_setup_hook": f"{MODULE}.register"}


def register() -> None:
    """The trivial stage, which tells its Ray node: all nodes have this machine's host name."""
    from tests.benchmarks import trivial_stage
    from trainables.stages import STAGES

    def stage(spec: Any, context: Any) -> Any:
        import ray

        result = trivial_stage.stage(spec, context)
        result.facts["ray_node"] = ray.get_runtime_context().get_node_id()
        return result

    trivial_stage.register()
    STAGES.update({kind: stage for kind, known in STAGES.items() if known is trivial_stage.stage})


def apart(nodes: int, slots: int, cells: int) -> dict[str, Any]:
    """A cluster of `nodes` nodes with `slots` CPUs each, and a driver in a process of its own."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    cluster = Cluster(head_cpus=0, PYTHONPATH=paths, RAY_RUNTIME_ENV_HOOK=f"{MODULE}.runtime_env")
    try:
        for _ in range(nodes):
            cluster.join(cpus=slots)
        with tempfile.TemporaryDirectory(prefix="transfergrid-nodes-") as folder:
            done = subprocess.run(
                [sys.executable, "-m", MODULE, "--one", cluster.address, "--cells", str(cells),
                 "--folder", folder],
                cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
    finally:
        cluster.stop()
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the report there too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one, options.cells, options.folder)), flush=True)
        return
    command = f"python -m tests.benchmarks.nodes --cells {options.cells} --nodes {options.nodes}"
    lines = [
        command,
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, Ray {version('ray')}",
        "cluster | cells | ms per cell | start | spread | load at the end",
    ]
    print(*lines, sep="\n", flush=True)
    first = None
    for name, nodes, slots in (
        ("one node, 1 slot", 1, 1),
        (f"one node, {options.nodes} slots", 1, options.nodes),
        (f"{options.nodes} nodes, 1 slot each", options.nodes, 1),
    ):
        found = apart(nodes, slots, options.cells)
        each = 1e3 * found["engine"] / found["cells"]
        first = first or each
        ran = found["by_node"].values()
        lines.append(
            f"{name} | {found['cells']} | {each:.1f} ({each / first:.2f}) | {found['start']:.1f} s | "
            f"{min(ran)} to {max(ran)} on {len(ran)} | {found['load']:.1f}"
        )
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
