"""Two runs on one store: at the same moment, and one that sleeps beyond its lease."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execute.elsewhere import Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import Outcome
from orchestrator.record.garbage import find
from orchestrator.record.leases import acquire, holder
from orchestrator.record.store import open_store
from tests.contracts import records
from tests.orchestrator.made_up import graph
from tests.orchestrator.test_device_lost import Silent
from tests.orchestrator.test_fusing import cell
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
    assert all(any(t["executed"].values()) for t in totals)  # neither only waited for the other


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


class Worker:
    """`stopping_worker` on one stage; it stops itself before its checkpoint number `which`."""

    def __init__(self, store: Path, stage: dict[str, Any], *, over: int = 0, which: int = 0) -> None:
        job = {"store": str(store), "data_root": "data", "run": f"run {over}", "checkpoint_seconds": 0.0}
        job |= {"beat_seconds": 0.1, "cache_dir": str(store.parent / "cache")}
        words = [json.dumps(job), json.dumps(stage), str(over), str(which)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.orchestrator.stopping_worker", *words],
            cwd=ROOT, env=environment(store.parent), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_until_stopped(self) -> None:
        assert os.WIFSTOPPED(os.waitpid(self._process.pid, os.WUNTRACED)[1])

    def wake_and_end(self) -> dict[str, Any]:
        self._process.send_signal(signal.SIGCONT)
        stdout, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0
        return dict(json.loads(stdout))

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def test_a_worker_stopped_between_its_look_and_its_write_spoils_no_checkpoint(tmp_path: Path) -> None:
    """It is woken once while who took over trains, and once after that has finished."""
    run(tmp_path / "planned", *SLOW, "--only", "fraction=0.2", "--only", "model=SimCLR")
    plan = open_store(str(tmp_path / "planned")).load_plan("smoke")
    stage = next(stage for stage in plan["stages"].values() if stage["kind"] == "pretrain")
    key, undisturbed = stage["key"], metrics(open_store(str(tmp_path / "planned")))
    store = open_store(str(tmp_path / "runs"), create=True)
    store.save_plan(plan)
    workers = [Worker(tmp_path / "runs", stage, which=4)]
    try:
        workers[0].wait_until_stopped()
        workers += [Worker(tmp_path / "runs", stage, over=1, which=3)]
        workers[1].wait_until_stopped()
        before = store.checkpoint(key)
        assert [item.path for item in store.items("checkpoints")] == [f"checkpoints/{key}/000002.pt"]
        assert workers[0].wake_and_end()["outcome"] == "elsewhere"  # and it has written
        assert len(store.items("checkpoints")) == 2 and store.checkpoint(key) == before
        assert store.leases()[key]["run"] == "run 1"

        workers += [Worker(tmp_path / "runs", stage, over=2)]
        ended = workers[2].wake_and_end()
        assert (ended["outcome"], ended["executed"], ended["wasted"]) == ("succeeded", True, False)
        commits = store.commits([key])
        assert commits[key]["facts"]["resumed_from"] > 0 and store.items("checkpoints") == []
        assert workers[1].wake_and_end()["outcome"] == "elsewhere"
    finally:
        for worker in workers:
            worker.kill()
    assert store.commits([key]) == commits and commits[key]["metrics"] == undisturbed[key]
    assert store.leases() == {} and store.latest_lease(key) == (3, True)
    late = [item.path for piece in find(store).pieces for item in piece.items]
    assert late == [f"checkpoints/{key}/000002.pt"] == [item.path for item in store.items("checkpoints")]


def _held_pretrain(folder: Path, process: subprocess.Popen[str]) -> str:
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        for beat in open_store(str(folder)).leases().values():
            if beat["kind"] == "pretrain" and 5 <= beat["step"] < 40:
                return str(beat["key"])
        time.sleep(0.02)
    raise AssertionError("no pretraining came that far")


EARLIER = {"cause": "stage", "error": "of an earlier run", "finished": "2026-11-20T10:00:00+00:00"}
NEWER = {"cause": "stage", "error": "of the other run", "finished": "2026-11-19T10:00:00+00:00"}  # of a slower clock


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ({}, NEWER, "of the other run"),
        (EARLIER, NEWER, "of the other run"),
        (EARLIER, {}, None),  # this run is to try again what had failed
        ({}, {}, None),
        ({}, {**NEWER, "cause": "data"}, None),
        ({}, {**NEWER, "outcome": "blocked"}, None),
    ],
)
def test_what_the_holder_fails_by_its_own_fault_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any], after: dict[str, Any],
    error: str | None, dies: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("orchestrator.execute.elsewhere.LOOK_SECONDS", 0.0)
    store, stage = open_store(str(tmp_path / "runs"), create=True), cell("a")
    if before:
        store.fail(records.failure(stage.key, **before))
    lease = acquire(store, stage.key, holder("another"))
    frontier, listener = Frontier(graph(stage)), Listener(Silent())
    elsewhere = Elsewhere(store, "here", -1.0 if dies else 60.0)  # -1: dead at the second look
    [taken] = frontier.take()
    listener.settle(frontier, Outcome(taken.key, "elsewhere", executed=False))
    elsewhere.look(frontier, listener)
    assert frontier.deferred == {stage.key} and lease is not None
    if after:
        store.fail(records.failure(stage.key, **after))
    if not dies:
        lease.release()
    elsewhere.look(frontier, listener)
    assert frontier.deferred == set()
    assert frontier.failed == ({} if error is None else {stage.key: error}) and frontier.ready == (error is None)
    assert [outcome.executed for outcome in listener.outcomes.values()] == ([] if error is None else [False])
