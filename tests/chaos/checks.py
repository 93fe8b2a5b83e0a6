"""What must hold at the end of a round, each checked from the outside: store, execution log, MLflow, table."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.record.store import Store, open_store

ROOT = Path(__file__).resolve().parents[2]
# A start is logged, and a commit's time is taken, in whole milliseconds.
ROUNDING = 0.002


@dataclass
class Verdict:
    """What one round showed. `wrong` holds everything else that must not be, one line each."""

    stages: int
    executions: int
    lost: list[str]
    twice: list[str]
    wrong: list[str]


@dataclass(frozen=True)
class Event:
    """One line of the execution log."""

    what: str
    key: str
    pid: int
    time: float


def events(log: Path) -> list[Event]:
    """The execution log so far; a line that is being written is left out."""
    if not log.exists():
        return []
    lines = [line.split() for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [Event(what, key, int(pid), float(time)) for what, key, pid, time in lines]


def verify(store: Store, seen: Mapping[str, Any], log: Path, tracking: tuple[str, str], reference: Path) -> Verdict:
    """Judge a finished round.

    Args:
        seen: key -> its commit record when it was first seen.
        tracking: address and experiment of MLflow.
        reference: store of the undisturbed run.
    """
    plan = store.load_plan("chaos")
    keys = set(plan["stages"])
    commits = store.commits(store.finished())
    happened = events(log)
    verdict = Verdict(len(keys), sum(e.what == "start" for e in happened), [], [], [])
    verdict.lost += [f"{key} has no commit" for key in sorted(keys - commits.keys())]
    verdict.lost += [f"{key} was committed, and its commit has gone" for key in sorted(seen.keys() - commits.keys())]
    verdict.wrong += [f"{key} is committed and in no plan" for key in sorted(commits.keys() - keys)]
    verdict.twice += [f"{key}: its commit has changed" for key in seen if key in commits and seen[key] != commits[key]]
    verdict.twice += _executed_again(commits, happened)
    _compare_mlflow(verdict, keys, *tracking)
    _compare_results(verdict, commits, store, open_store(str(reference)))
    if not verdict.lost and _table(store, tracking[0]) != _table(open_store(str(reference)), None):
        verdict.wrong.append("table.csv differs from that of the undisturbed run")
    return verdict


def _executed_again(commits: Mapping[str, Any], happened: list[Event]) -> list[str]:
    found = []
    for key, record in commits.items():
        mine = [event for event in happened if event.key == key]
        finished = datetime.fromisoformat(record["finished"]).timestamp()
        late = [event for event in mine if event.what == "start" and event.time > finished + ROUNDING]
        found += [f"{key}: started {e.time - finished:.3f} s after its commit, in process {e.pid}" for e in late]
        if not any(event.what == "end" and event.time <= finished + ROUNDING for event in mine):
            found.append(f"{key}: the execution log has no execution that ended before its commit")
    return found


def _compare_mlflow(verdict: Verdict, keys: set[str], uri: str, experiment: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], max_results=1000) if found else []
    counts = Counter(run.data.tags.get("transfergrid.key", "") for run in runs)
    verdict.twice += [f"MLflow has {n} runs of {key or 'no stage'}" for key, n in counts.items() if n > 1 or not key]
    verdict.lost += [f"MLflow has no run of {key}" for key in sorted(keys - counts.keys())]
    verdict.wrong += [f"MLflow has a run of {key}, which is in no plan" for key in sorted(counts.keys() - keys)]
    for run in runs:
        status = (run.info.status, run.data.tags.get("transfergrid.status"), bool(run.data.metrics))
        if status != ("FINISHED", "succeeded", True):
            verdict.wrong.append(f"MLflow's run of {run.data.tags.get('transfergrid.key')} is not complete: {status}")


def _compare_results(verdict: Verdict, commits: Mapping[str, Any], store: Store, reference: Store) -> None:
    """Metrics, curves and weights, digit for digit."""
    undisturbed = reference.commits(commits)
    for key, record in commits.items():
        if record["metrics"] != undisturbed[key]["metrics"]:
            verdict.wrong.append(f"{key}: other metrics than undisturbed")
        for name, path in record["artifacts"].items():
            if _digest(store, path) != _digest(reference, undisturbed[key]["artifacts"][name]):
                verdict.wrong.append(f"{key}: other {name} than undisturbed")


def _digest(store: Store, path: str) -> str:
    return hashlib.sha256(store.artifact(path)).hexdigest()


def _table(store: Store, tracking_uri: str | None) -> bytes:
    out = Path(store.address).parent / "results"
    command = [sys.executable, "-m", "orchestrator.collect", "chaos", "--store", store.address, "--out", str(out)]
    command += ["--tracking-uri", tracking_uri] if tracking_uri else []
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment, stdout=subprocess.DEVNULL)
    return (out / "chaos" / "table.csv").read_bytes()
