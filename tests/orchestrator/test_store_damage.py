"""Whole runs on a store that was spoiled: weights cut short, failures written after a commit."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.record.store import Store, open_store
from tests.orchestrator.test_run import ROOT, command, environment, executed, metrics

pytestmark = pytest.mark.durable
ONE = ["--executor", "inline", "--only", "seed=0", "--only", "fraction=0.2"]  # 4 cells on 2 pretrains


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("finished") / "runs"
    totals = start(folder)
    assert executed(totals) == {"pretrain": 2, "finetune": 4}
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled; what is trained on it gives other metrics if anything is off."""
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


def start(folder: Path, *more: str, code: int = 0) -> dict[str, Any]:
    return dict(json.loads(ask(command(folder, *ONE, *more), folder, code)[0]))


def ask(argv: list[str], folder: Path, code: int = 0) -> tuple[str, str]:
    done = subprocess.run(argv, cwd=ROOT, env=environment(folder.parent), capture_output=True, text=True, timeout=250)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def module(name: str, *argv: str) -> list[str]:
    return [sys.executable, "-m", f"orchestrator.{name}", *argv]


def test_weights_cut_short_are_one_message_and_cost_only_what_needs_them(folder: Path) -> None:
    store = open_store(str(folder))
    before = metrics(store)
    commits = store.commits(before)
    parent = next(key for key, record in commits.items() if record["kind"] == "pretrain")
    children = [key for key, record in commits.items() if parent in record["parents"].values()]
    for key in children:
        (folder / "commits" / f"{key}.json").unlink()
    weights = commits[parent]["artifacts"]["weights"]
    (folder / weights).write_bytes((folder / weights).read_bytes()[:-100])
    way_out = f"put it back from a copy, or delete commits/{parent}.json and run again"
    says = f"store {folder}: {weights} is no whole safetensors file: "

    _, stderr = ask(module("status", "--export", parent, str(folder / "out"), "--store", str(folder)), folder, code=2)
    assert stderr.startswith(f"error: {says}") and stderr.endswith(f"{way_out}\n") and stderr.count("\n") == 1
    assert not (folder / "out").exists()

    totals = start(folder, code=1)
    assert (totals["failed"], totals["succeeded"]) == (len(children), 6 - len(children)) and children
    for failure in store.failures(children).values():
        assert (failure["outcome"], failure["cause"]) == ("failed", "store")
        assert failure["error"].startswith(says) and failure["error"].endswith(way_out)

    (folder / "commits" / f"{parent}.json").unlink()  # the way out
    totals = start(folder)
    assert executed(totals) == {"pretrain": 1, "finetune": len(children)} and totals["failed"] == 0
    assert metrics(store) == before


def test_curves_cut_short_are_named(folder: Path) -> None:
    """By whoever fills a new MLflow from the store; the other stages get there."""
    store = open_store(str(folder))
    key, record = next(iter(store.commits(store.finished()).items()))
    path = record["artifacts"]["history"]
    (folder / path).write_bytes(b'[{"step": 1')
    uri = f"sqlite:///{folder.parent / 'new.db'}"
    argv = module("status", "--sync-mlflow", "--store", str(folder), "--tracking-uri", uri)
    stdout, _ = ask(argv, folder, code=1)
    assert f"{path} is no valid JSON" in stdout and f"delete commits/{key}.json and run again" in stdout
    assert "5 of 6 ended stages are in MLflow" in stdout and "does not take runs" not in stdout


def test_a_failure_written_after_the_commit_counts_for_nothing(folder: Path) -> None:
    """A sleeper that wakes up late may fail; what is finished stays so for everybody who looks."""
    store: Store = open_store(str(folder))
    plan = store.load_plan("smoke")
    for record in store.commits(store.finished()).values():
        late = {"outcome": "failed", "error": "a sleeper's", "cause": "stage", "finished": record["finished"]}
        store.fail({**plan["stages"][record["key"]], **late})
    before = metrics(store)

    state = json.loads(ask(module("status", "smoke", "--store", str(folder), "--json"), folder)[0])
    assert (state["stages"]["succeeded"], state["stages"]["failed"], state["failures"]) == (6, 0, [])
    ask(module("collect", "smoke", "--store", str(folder), "--out", str(folder / "out")), folder)
    with (folder / "out" / "smoke" / "cells.csv").open(newline="") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"succeeded"}
    planned = start(folder, "--dry-run")
    assert (planned["reused"], planned["to_run"]) == (6, 0)
    for more in ([], ["--retry-failed"]):
        totals = start(folder, *more)
        assert (executed(totals), totals["reused"], totals["failed"]) == ({}, 6, 0)
    assert metrics(store) == before
