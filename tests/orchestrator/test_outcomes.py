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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.record.store import open_store
from tests.orchestrator.made_up import GRID, write_grid
from tests.orchestrator.test_run import ROOT, command, environment, executed, metrics, run
from tests.trainables.data_trees import pets

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
    assert executed(again) == {} and (again["failed"], again["blocked"]) == (1, 2)
    retried = run(folder, *ONE, *DIVERGE, "--retry-failed", code=1)
    assert executed(retried) == {"pretrain": 1}


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
    assert executed(run(folder, *ONE, "--retry-failed")) == {"finetune": 1}
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


# Blocked before anything ran


HALF = GRID.replace("seeds:", "  - {dataset: pets, pretext_data: pets, fractions: [0.2]}\nseeds:").replace(
    "[0.05, 0.2]", "[0.2]"
) + ("profiles:\n  smoke: {stand_ins: {pets: pets}}\n")
FEW = ["--only", "seed=0", "--set", "finetune.steps=2", "--set", "pretrain.steps=2", "--executor", "inline"]


def half(folder: Path, *more: str, code: int) -> dict:
    """A grid of 4 cells and 2 pretrains, half of it on a set of pets below `folder`."""
    name = write_grid(folder, HALF)
    ask = [sys.executable, "-m", "orchestrator.run_grid", name, "--store", str(folder / "runs"), "--json", *FEW]
    done = subprocess.run(
        [*ask, "--data-root", str(folder / "data"), *more],
        cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def kept(folder: Path) -> dict[str, dict]:
    """All failures in the store, by key."""
    return {p.stem: json.loads(p.read_text()) for p in (folder / "runs" / "failures").glob("*.json")}


def cells(folder: Path, *more: str) -> list[dict[str, str]]:
    command = [sys.executable, "-m", "orchestrator.collect", "mine", "--store", str(folder / "runs"), *more]
    subprocess.run([*command, "--out", str(folder / "out")], cwd=ROOT, env=environment(folder), check=True)
    with (folder / "out" / "mine" / "cells.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] == "dice"]


def by_tag(totals: dict) -> dict[str, tuple[str, str, str]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(totals["tracking_uri"])
    runs = client.search_runs([client.get_experiment_by_name("transfergrid").experiment_id])
    tags = [{k.removeprefix("transfergrid."): v for k, v in r.data.tags.items()} for r in runs]
    assert len({t["key"] for t in tags}) == len(tags)
    return {t["key"]: (t["status"], t.get("error", ""), t.get("provisional", "")) for t in tags}


def test_what_absent_data_block_is_told_everywhere_and_counts_for_nothing_once_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    totals = half(tmp_path, code=1)
    assert (totals["succeeded"], totals["failed"], totals["blocked"]) == (3, 0, 3)
    first = kept(tmp_path)
    assert len(first) == 3 and {f["kind"] for f in first.values()} == {"pretrain", "finetune"}
    assert all(f["outcome"] == "blocked" and f["provisional"] and "no folder" in f["error"] for f in first.values())
    [pretrain] = [key for key, f in first.items() if f["kind"] == "pretrain"]
    assert {f["blocked_by"] for f in first.values() if f["labels"]["model"] == "ConRec"} == {pretrain}
    told = by_tag(totals)
    assert {told[key] for key in first} == {("blocked", f["error"], "true") for f in first.values()}
    assert sorted(status for status, _, _ in told.values()) == ["blocked"] * 3 + ["succeeded"] * 3
    assert sorted((r["dataset"], r["status"]) for r in cells(tmp_path)) == [
        ("pets", "blocked"), ("pets", "blocked"), ("shapes", "succeeded"), ("shapes", "succeeded"),
    ]  # fmt: skip

    again = half(tmp_path, code=1)
    assert executed(again) == {} and again["blocked"] == 3
    assert kept(tmp_path) == first and by_tag(again) == told  # told once

    pets(tmp_path / "data" / "oxford-iiit-pet")
    there = half(tmp_path, code=0)
    assert executed(there) == {"pretrain": 1, "finetune": 2} and there["reused"] == 3 and there["blocked"] == 0
    assert sorted(set(by_tag(there).values())) == [("succeeded", "", "")]  # no run of a cell that has a real one
    assert {r["status"] for r in cells(tmp_path)} == {"succeeded"}
    old = {r["status"] for r in cells(tmp_path, "--plan", totals["plan"]) if r["dataset"] == "pets"}
    assert old == {"blocked"}  # as it was then

    gc = [sys.executable, "-m", "orchestrator.gc", "--store", str(tmp_path / "runs"), "--delete", "--keep-plans", "1"]
    subprocess.run(gc, cwd=ROOT, env=environment(tmp_path), check=True, capture_output=True)
    assert kept(tmp_path) == {}
    assert half(tmp_path, code=0)["reused"] == 6


def test_what_an_earlier_failure_blocks_is_told_until_the_failure_is_overcome(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    run(folder, *ONE, *DIVERGE, code=1)
    store = open_store(str(folder))
    blocked = {k: f for k, f in store.failures(store.load_plan("smoke")["stages"]).items() if f["outcome"] == "blocked"}
    for key in blocked:
        (folder / "failures" / f"{key}.json").unlink()  # as if it had been another run's
    totals = run(folder, *ONE, *DIVERGE, code=1)
    assert (totals["failed"], totals["blocked"]) == (1, 2)
    anew = store.failures(blocked)
    [failed] = {f["blocked_by"] for f in anew.values()}
    assert anew.keys() == blocked.keys() and not any(f["provisional"] for f in anew.values())
    assert all("not finite at step" in f["error"] for f in anew.values())
    parent = store.load_plan("smoke")["stages"][failed]
    store.commit(
        {**parent, "outcome": "succeeded", "metrics": {}, "seconds": 1.0, "node": "n", "artifacts": {}, "facts": {}}
    )
    rows = table(folder, tmp_path / "out")
    assert {(r["model"], r["status"]) for r in rows if r["metric"] == "dice"} == {
        ("Random", "succeeded"), ("SimCLR", "succeeded"), ("ConRec", "missing"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.status", "smoke", "--store", str(folder), "--json"],
        cwd=ROOT, env=environment(tmp_path), check=True, capture_output=True, text=True,
    )  # fmt: skip
    state = json.loads(done.stdout)
    assert (state["stages"]["blocked"], state["stages"]["waiting"], state["failures"]) == (0, 2, [])


# Interrupts


SLOW_MLFLOW = """\
import sys, time
from orchestrator.record import tracking
log = tracking.Tracker.log
def slow(self, *args):
    print("writing", file=sys.stderr, flush=True)
    time.sleep({seconds})
    return log(self, *args)
tracking.Tracker.log = slow
from orchestrator.run_grid import main
sys.exit(main(sys.argv[1:]))
"""


def slowly(folder: Path, seconds: float, *more: str) -> subprocess.Popen[str]:
    """A run of 6 stages beside an MLflow that takes `seconds` for each."""
    ask = [sys.executable, "-c", SLOW_MLFLOW.format(seconds=seconds), *command(folder, *ONE, *more)[3:]]
    env = {**environment(folder.parent), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(ask, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.time() + 150
    while time.time() < deadline and process.poll() is None:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come that far")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_while_mlflow_is_completed_loses_nothing(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "runs"
    process = slowly(folder, 20)
    wait_until(lambda: len(open_store(str(folder)).finished()) == 6, process)
    time.sleep(2)  # the last stage is settled; only MLflow is left
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr, stderr
    assert "interrupted while MLflow was being completed" in stderr and "before anything ran" not in stderr
    totals = json.loads(stdout)
    assert (totals["succeeded"], executed(totals)) == (6, {"pretrain": 2, "finetune": 4})
    again = run(folder, *ONE)
    assert executed(again) == {} and again["reused"] == 6
    assert sorted(by_tag(again).values()) == [("succeeded", "", "")] * 6


def test_a_second_ctrl_c_ends_at_once_and_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    process = slowly(folder, 60, "--set", "finetune.steps=3000")
    store = open_store(str(folder), create=True)
    wait_until(lambda: len(store.finished()) >= 1, process)
    time.sleep(2)  # the driver has heard of it, so that there is something to write
    before = store.commits(store.finished())
    process.send_signal(signal.SIGINT)  # then it waits for MLflow
    time.sleep(5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in stderr, stderr
    assert "finished stages are kept" in stderr and "ended at once" in stderr
    assert {key: store.commits([key])[key] for key in before} == before


def test_an_interrupt_before_anything_ran_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    process = slowly(folder, 0)
    wait_until(lambda: (folder / "mlflow.db.lock").exists(), process)  # the preflight opens MLflow
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "") and "interrupted before anything ran" in stderr, stderr
    assert open_store(str(folder)).finished() == set() and "Traceback" not in stderr


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
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
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
