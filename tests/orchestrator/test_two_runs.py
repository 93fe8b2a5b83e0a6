"""Two runs on one store: at the same moment, and one that sleeps beyond its lease."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.record.store import open_store
from tests.orchestrator.test_run import ROOT, command, environment, metrics, run

pytestmark = pytest.mark.durable
SLOW = ["--executor", "inline", "--only", "seed=0", "--set", "pretrain.steps=60", "--set", "run.checkpoint_seconds=0.2"]


def start(store: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(store, *SLOW, *more),
        cwd=ROOT, env=environment(store.parent), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_overlapping_grids_at_the_same_moment_share_the_work(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    open_store(str(folder), create=True)
    both = [start(folder), start(folder, "--only", "seed=1")]
    totals = []
    for process in both:
        stdout, stderr = process.communicate(timeout=250)
        assert process.returncode == 0, stderr
        totals.append(json.loads(stdout))
    unique = open_store(str(folder)).finished()
    assert len(unique) == 2 + 8 + 8
    assert sum(sum(t["executed"].values()) for t in totals) == len(unique)
    assert [t["wasted"] for t in totals] == [0, 0]
    assert all(t["executed"] for t in totals)  # neither only waited for the other


def test_a_run_that_sleeps_beyond_its_lease_and_wakes_up_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    sleeper = start(folder, "--set", "run.lease_seconds=1.5")
    held = _held_pretrain(folder, sleeper)
    os.kill(sleeper.pid, signal.SIGSTOP)
    try:
        other = run(folder, *SLOW, "--set", "run.lease_seconds=1.5")
        store = open_store(str(folder))
        before = store.commits(store.finished())
        assert other["succeeded"] == 10 and held in before
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    stdout, stderr = sleeper.communicate(timeout=120)
    assert sleeper.returncode == 0, stderr
    woken = json.loads(stdout)
    assert woken["succeeded"] == 10 and woken["wasted"] == 0
    assert sum(woken["executed"].values()) + sum(other["executed"].values()) == 10
    assert store.commits(store.finished()) == before
    undisturbed = tmp_path / "undisturbed"
    run(undisturbed, *SLOW)
    assert metrics(open_store(str(undisturbed))) == metrics(store)


def _held_pretrain(folder: Path, process: subprocess.Popen[str]) -> str:
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        for beat in open_store(str(folder)).leases().values():
            if beat["kind"] == "pretrain" and 5 <= beat["step"] < 40:
                return str(beat["key"])
        time.sleep(0.02)
    raise AssertionError("no pretraining came that far")
