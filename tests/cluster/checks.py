"""What must hold once a grid has run on the hosts, seen from the outside: store, execution log, MLflow, table."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.record.store import Store, open_store
from tests.chaos.checks import ROUNDING, events
from tests.cluster.hosts import ROOT
from tests.cluster.onprem import NAME


def faults(runs: list[dict[str, Any]], folder: Path, reference: Path, log: Path, *, part: bool = False) -> list[str]:
    """Whatever is wrong, in words: stages lost or twice, in store or MLflow, and results other than undisturbed.

    Args:
        runs: MLflow's.
        folder: of the store.
        reference: of the store of the undisturbed run on one machine.
        log: of executions.
        part: only some of the grid was asked for.
    """
    store, undisturbed = open_store(str(folder)), open_store(str(reference))
    keys = set(store.load_plan(NAME)["stages"])
    commits, expected = store.commits(store.finished()), undisturbed.commits(undisturbed.finished())
    found = [f"{key} has no commit" for key in sorted(keys - commits.keys())]
    strangers = commits.keys() - expected.keys() if part else commits.keys() ^ expected.keys()
    found += [f"{key} is in one of the stores only" for key in sorted(strangers)]
    found += executed_again(commits, log)
    counts = Counter(run["tags"].get("transfergrid.key", "") for run in runs)
    found += [f"MLflow has {n} runs of {key or 'no stage'}" for key, n in counts.items() if n > 1 or not key]
    found += [f"MLflow has no run of {key}" for key in sorted(keys - counts.keys())]
    for run in runs:
        state = (run["status"], run["tags"].get("transfergrid.status"))
        if state != ("FINISHED", "succeeded"):
            found.append(f"MLflow's run of {run['tags'].get('transfergrid.key')} is {state}")
    for key in commits.keys() & expected.keys():
        if commits[key]["metrics"] != expected[key]["metrics"]:
            found.append(f"{key}: other metrics than on one machine")
        for name, path in commits[key]["artifacts"].items():
            if _digest(store, path) != _digest(undisturbed, expected[key]["artifacts"][name]):
                found.append(f"{key}: other {name} than on one machine")
    if not found and not part and table(folder) != table(reference):
        found.append("table.csv differs from that of one machine")
    return found


def executed_again(commits: Mapping[str, Any], log: Path) -> list[str]:
    """Stages that were begun after they were committed."""
    finished = {key: datetime.fromisoformat(record["finished"]).timestamp() for key, record in commits.items()}
    late = [e for e in events(log) if e.what == "start" and e.time > finished.get(e.key, float("inf")) + ROUNDING]
    return [f"{e.key}: started {e.time - finished[e.key]:.3f} s after its commit" for e in late]


def nodes_of(store: Path) -> dict[str, set[str]]:
    """The hosts on which stages of each kind have run."""
    opened = open_store(str(store))
    found: dict[str, set[str]] = {}
    for record in opened.commits(opened.finished()).values():
        found.setdefault(record["kind"], set()).add(record["node"])
    return found


def table(store: Path) -> bytes:
    """table.csv as `collect` writes it."""
    out = store.parent / "results"
    command = [sys.executable, "-m", "orchestrator.collect", NAME, "--store", str(store), "--out", str(out)]
    clean = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    subprocess.run(command, cwd=ROOT, check=True, env=clean, capture_output=True)
    return (out / NAME / "table.csv").read_bytes()


def _digest(store: Store, path: str) -> str:
    return hashlib.sha256(store.artifact(path)).hexdigest()
