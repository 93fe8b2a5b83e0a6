"""How stages end that do not succeed, provoked for real, and what their neighbours make of it."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.record.store import open_store
from tests.orchestrator.test_run import ROOT, command, environment, metrics, run

pytestmark = pytest.mark.durable
ONE = ["--executor", "inline", "--only", "seed=0", "--only", "fraction=0.2"]  # 4 cells on 2 pretrains
DIVERGE = ["--set", "pretexts.conrec.pretrain.learning_rate=1e30", "--set", "pretexts.conrec.pretrain.optimizer=sgd"]


def table(store: Path, out: Path) -> list[dict[str, str]]:
    subprocess.run(
        [sys.executable, "-m", "orchestrator.collect", "smoke", "--store", str(store), "--out", str(out)],
        cwd=ROOT, env=environment(store.parent), check=True, capture_output=True,
    )  # fmt: skip
    with (out / "smoke" / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_diverged_pretext_blocks_exactly_its_own_cells_until_it_is_retried(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "runs"
    totals = run(folder, *ONE, *DIVERGE, code=1)
    assert (totals["succeeded"], totals["failed"], totals["blocked"]) == (3, 1, 2)  # simclr and its cell, and random
    store = open_store(str(folder))
    plan = store.load_plan("smoke")
    failures = store.failures(plan["stages"])
    errors = {f["outcome"]: f["error"] for f in failures.values()}
    assert "not finite at step" in errors["failed"] and "conrec" in errors["blocked"]
    rows = table(folder, tmp_path / "out")
    told = {(r["model"], r["status"]) for r in rows if r["metric"] == "dice"}
    assert told == {("Random", "succeeded"), ("SimCLR", "succeeded"), ("ConRec", "blocked")}
    assert all("not finite" in r["error"] for r in rows if r["model"] == "ConRec")
    client = MlflowClient(totals["tracking_uri"])
    runs = client.search_runs([client.get_experiment_by_name("transfergrid").experiment_id])
    states = sorted(r.data.tags["transfergrid.status"] for r in runs)
    assert states == ["blocked", "blocked", "failed", "succeeded", "succeeded", "succeeded"]
    assert all("not finite" in r.data.tags["transfergrid.error"] for r in runs if r.info.status == "FAILED")

    again = run(folder, *ONE, *DIVERGE, code=1)  # the same command does not try again what would fail again
    assert again["executed"] == {} and (again["failed"], again["blocked"]) == (1, 2)
    retried = run(folder, *ONE, *DIVERGE, "--retry-failed", code=1)
    assert retried["executed"] == {"pretrain": 1}


def test_what_failed_by_a_fault_outside_finishes_with_retry_failed(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    run(folder, *ONE)
    store = open_store(str(folder))
    kept = metrics(store)
    plan = store.load_plan("smoke")
    victim = next(c["key"] for c in plan["cells"] if c["model"] == "Random")
    (folder / "commits" / f"{victim}.json").unlink()  # as if the cell had failed in an earlier run
    store.fail({**plan["stages"][victim], "outcome": "failed", "cause": "stage", "error": "a fault, mended since"})
    assert run(folder, *ONE, code=1)["failed"] == 1
    assert run(folder, *ONE, "--retry-failed")["executed"] == {"finetune": 1}
    assert metrics(store) == kept


def test_out_of_memory_in_a_worker_is_tried_alone_then_told_and_neighbours_stay(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    greedy = ["--set", "rows.2.network.width=300000"]
    cells = ["--only", "seed=0", "--only", "fraction=0.2"]
    totals = run(folder, *cells, *greedy, code=1)
    assert (totals["succeeded"], totals["failed"], totals["blocked"]) == (5, 1, 1)
    store = open_store(str(folder))
    failures = store.failures(store.load_plan("smoke")["stages"])
    [failed] = [f for f in failures.values() if f["outcome"] == "failed"]
    assert failed["cause"] == "memory" and "memory" in failed["error"]
    undisturbed = tmp_path / "undisturbed"
    run(
        undisturbed,
        *cells,
        "--executor",
        "inline",
        *(f"--only=scenario={s}" for s in ("random-init", "cls-enc", "seg-enc")),
    )
    assert metrics(store) == metrics(open_store(str(undisturbed)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [_serve(tmp_path, port)]
    yield f"http://127.0.0.1:{port}", processes
    for process in processes:
        _end(process)


def _serve(tmp: Path, port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{tmp}/server.db", "--artifacts-destination", str(tmp / "artifacts"),
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    deadline = time.time() + 120
    while time.time() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return process
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the MLflow server did not start")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _runs(uri: str) -> dict[str, tuple]:
    """All of MLflow's content that is not its own numbering, by key."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    found = {}
    for r in client.search_runs([client.get_experiment_by_name("transfergrid").experiment_id], max_results=1000):
        curves = {
            n: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(r.info.run_id, n)]
            for n in r.data.metrics
        }
        tags = {k: v for k, v in r.data.tags.items() if k.startswith("transfergrid.")}
        key = tags["transfergrid.key"]
        assert key not in found, "two runs of one stage"
        found[key] = (r.info.run_name, r.info.status, r.info.start_time, r.info.end_time, tags, r.data.params, curves)
    return found


def test_mlflow_away_in_mid_run_is_complete_afterwards_and_an_empty_one_can_be_filled(
    tmp_path: Path, server: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    uri, processes = server
    folder = tmp_path / "runs"
    process = subprocess.Popen(
        command(folder, *ONE, "--tracking-uri", uri, "--set", "pretrain.steps=40"),
        cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.time() + 120
    while not open_store(str(folder)).leases() and time.time() < deadline:
        time.sleep(0.05)
    _end(processes[0])
    stdout, stderr = process.communicate(timeout=200)
    totals = json.loads(stdout)
    assert process.returncode == 0 and totals["succeeded"] == 6, stderr  # training never waits for MLflow
    assert "MLflow lacks" in stderr and "Traceback" not in stderr
    processes.append(_serve(tmp_path, int(uri.rpartition(":")[2])))
    status = [sys.executable, "-m", "orchestrator.status", "--store", str(folder), "--sync-mlflow", "--tracking-uri"]
    subprocess.run([*status, uri], cwd=ROOT, env=environment(tmp_path), check=True, capture_output=True)
    old = _runs(uri)
    assert set(old) == open_store(str(folder)).finished()
    empty = f"sqlite:///{tmp_path}/empty.db"
    subprocess.run([*status, empty], cwd=ROOT, env=environment(tmp_path), check=True, capture_output=True)
    assert _runs(empty) == old
