"""Cells to tables: `collect` from the store and from MLflow's database, against `mlflow.search_runs` + pandas.

    python -m tests.benchmarks.collect [--cells 1000 10000 100000] [--http 1000 10000]

Each figure is a whole process, from its start to the written table: imports count, since a user waits for them. The
store and the database are written directly, with equal results; the tables must come out equal, digit for digit.
Limit: a process that only reads and parses what must be read (all commits; one query for the metric).
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
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from tests.benchmarks.common import Seconds, timed
from tests.benchmarks.made_up_store import GRID, write_mlflow, write_store

PEER = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
runs = mlflow.search_runs(experiment_names=["transfergrid"], filter_string="tags.`transfergrid.grid.many` = 'true'",
                          max_results=1_000_000)
axes = [f"tags.transfergrid.{name}" for name in ("model", "dataset", "fraction")]
table = runs.groupby(axes)["metrics.dice"].agg(["mean", "std", "count"]).reset_index()
table.to_csv(sys.argv[2], index=False)
"""
LIMIT_STORE = """
import json, os, sys
folder = sys.argv[1] + "/commits/"
values = {}
for name in os.listdir(folder):
    with open(folder + name, "rb", buffering=0) as file:
        record = json.loads(file.read())
    values.setdefault(record["labels"]["model"], []).append(record["metrics"]["dice"])
"""
LIMIT_SQL = """
import sqlite3, sys
query = "SELECT run_uuid, key, value FROM latest_metrics WHERE key = 'dice'"
values = dict((run, value) for run, _, value in sqlite3.connect(sys.argv[1]).execute(query))
"""


def collect(store: Path, out: Path, *more: str) -> Seconds:
    """Our collector as users start it."""
    return timed(["-m", "orchestrator.collect", GRID, "--store", str(store), "--out", str(out), *more])


def check(folder: Path, peer: Path | None, *ours: Path) -> None:
    """All ways give the same numbers."""
    tables = [(out / GRID / "table.csv").read_text("utf-8") for out in ours]
    cells = [(out / GRID / "cells.csv").read_text("utf-8") for out in ours]
    if len(set(tables)) > 1 or len(set(cells)) > 1:
        raise SystemExit(f"{folder}: the store and MLflow give different tables")
    if peer is None:
        return
    theirs = pd.read_csv(peer).sort_values(
        ["tags.transfergrid.model", "tags.transfergrid.dataset", "tags.transfergrid.fraction"]
    )
    mine = pd.read_csv(ours[0] / GRID / "table.csv").sort_values(["model", "dataset", "fraction"])
    gap = abs(100 * theirs["mean"].to_numpy() - mine["mean"].to_numpy()).max()
    if gap > 1e-9 or (theirs["count"].to_numpy() != mine["n"].to_numpy()).any():
        raise SystemExit(f"{folder}: the peer gives other means, by {gap}")


@contextmanager
def server(database: Path) -> Iterator[str]:
    """MLflow's own server on the database."""
    uri = "http://127.0.0.1:5817"
    words = [
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{database}",
        "--port",
        "5817",
        "--workers",
        "1",
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *words], env=environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 300
            while time.monotonic() < until:
                try:
                    with urllib.request.urlopen(f"{uri}/health", timeout=5):
                        break
                except OSError:
                    time.sleep(1)
            yield uri
        finally:
            process.terminate()
            process.wait()


def line(cells: int, what: str, peer: Seconds | None, ours: Seconds, limit: Seconds | None) -> None:
    """One row of the result. Ratios are of CPU seconds, which a busy machine spoils less; without a limit of wall
    seconds, as both then wait for a server."""
    kind = 0 if limit is None else 1

    def number(value: float | None, digits: int = 2) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    ratio = number(peer[kind] / ours[kind] if peer else None, 1)
    above = number(ours[1] / limit[1] if limit else None, 1)
    pairs = [number(value) for pair in (peer, ours, limit) for value in pair or (None, None)]
    texts = (f"{cells}", what, *pairs, ratio, above)
    print("".join(f"{text:>{width}}" for text, width in zip(texts, WIDTHS, strict=True)), flush=True)


WIDTHS = (8, 18, 15, 9, 9, 9, 9, 9, 11, 12)
HEAD = (
    "cells", "read from", "search_runs s", "CPU s", "ours s", "CPU s", "limit s", "CPU s", "peer/ours", "ours/limit"
)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--http", type=int, nargs="*", default=[], help="sizes at which MLflow's server is asked, too")
    parser.add_argument("--no-peer", action="store_true", help="only ours")
    args = parser.parse_args()
    about = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [round(x, 1) for x in os.getloadavg()],
    }
    print(json.dumps(about))
    print("".join(f"{text:>{width}}" for text, width in zip(HEAD, WIDTHS, strict=True)))
    for cells in args.cells:
        with tempfile.TemporaryDirectory(prefix="collect-") as place:
            folder = Path(place)
            store, database, peer_table = folder / "runs", folder / "runs" / "mlflow.db", folder / "peer.csv"
            write_store(store, cells)
            write_mlflow(database, cells)
            uri = f"sqlite:///{database}"
            peer = None if args.no_peer else timed(["-c", PEER, uri, str(peer_table)])
            from_store = collect(store, folder / "a")
            from_mlflow = collect(store, folder / "b", "--from", "mlflow")
            line(cells, "store", peer, from_store, timed(["-c", LIMIT_STORE, str(store)]))
            line(cells, "MLflow's SQLite", peer, from_mlflow, timed(["-c", LIMIT_SQL, str(database)]))
            check(folder, None if args.no_peer else peer_table, folder / "a", folder / "b")
            if cells in args.http:
                with server(database) as address:
                    peer = None if args.no_peer else timed(["-c", PEER, address, str(peer_table)])
                    over_http = collect(store, folder / "c", "--from", "mlflow", "--tracking-uri", address)
                line(cells, "MLflow's server", peer, over_http, None)
                check(folder, None, folder / "a", folder / "c")


if __name__ == "__main__":
    main()
