"""Studies under force: drivers that are killed, interrupted, or work at one study at the same moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.record.store import Store, open_store
from tests.orchestrator.postgres import postgresql
from tests.orchestrator.study_runs import TINY, journal, tuned
from tests.orchestrator.test_run import ROOT, environment, executed

pytestmark = [pytest.mark.durable, pytest.mark.timeout(900)]
COUNT = 6
SLOW = {"trials": COUNT, "lengths": "[0.5, 1]", "startup": 4, "parallel": 2}
STEPS = ["--set", "pretexts.reconstruction.pretrain={steps: 40, report_every: 10, batch: 8}"]
STEPS += ["--set", "run.checkpoint_seconds=0.1", "--set", "run.lease_seconds=5"]


def command(grid: str, store: Path, *more: str, executor: str = "inline") -> list[str]:
    words = [sys.executable, "-m", "orchestrator.run_grid", grid, "--store", str(store), "--json"]
    return [*words, "--executor", executor, *TINY, *STEPS, *more]


def start(grid: str, store: Path, *more: str, executor: str = "inline") -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(grid, store, *more, executor=executor),
        cwd=ROOT, env=environment(store.parent), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr, stderr
    return dict(json.loads(stdout)) if stdout else {}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.time() + 200
    while time.time() < deadline and process.poll() is None:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come that far")


def trials_of(store: Store) -> dict[str, dict[str, Any]]:
    return {key: r for key, r in store.commits(store.finished()).items() if r["kind"] == "trial"}


def in_the_middle(store: Store, finished: int, step: int) -> Callable[[], bool]:
    """So many trials have ended, and one is at that step."""

    def look() -> bool:
        at_work = [beat for beat in store.leases().values() if beat["kind"] == "trial" and beat["step"] >= step]
        return len(trials_of(store)) >= finished and bool(at_work)

    return look


def check(store: Store, folder: Path, count: int) -> None:
    """Each number given once, each trial recorded once, no zombie among what Optuna is told."""
    (study,) = store.studies()
    proposals = store.proposals(study)
    assert [proposal["number"] for proposal in proposals] == list(range(count))
    assert {proposal["key"] for proposal in proposals} == trials_of(store).keys()
    seen = journal(folder)
    assert [trial.number for trial in seen] == list(range(count))
    assert [trial.user_attrs["key"] for trial in seen] == [proposal["key"] for proposal in proposals]
    assert {trial.state.name for trial in seen} <= {"COMPLETE", "PRUNED"}
    assert store.conclusions(study)[count]["key"] in trials_of(store)
    assert store.items("checkpoints") == [] and store.leases() == {}


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_after_kill_9_the_study_goes_on_and_no_trial_is_lost_or_run_twice(tmp_path: Path, executor: str) -> None:
    grid, folder = tuned(tmp_path, **SLOW), tmp_path / "runs"
    store = open_store(str(folder), create=True)
    process = start(grid, folder, executor=executor)
    wait_until(in_the_middle(store, 2, 5), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(0 if executor == "inline" else 5)  # its workers end a moment later, and may finish what they are at
    before = trials_of(store)
    assert 2 <= len(before) < COUNT
    assert any(trial.state.name == "RUNNING" for trial in journal(folder))
    totals = ended(start(grid, folder, executor=executor))
    assert totals["executed"]["trial"] == COUNT - len(before) and totals["executed"]["analysis"] == 1
    every = COUNT + 2 + 1  # trials, cells, figures
    assert totals["succeeded"] == every == totals["reused"] + sum(totals["executed"].values())
    after = trials_of(store)
    assert {key: after[key]["attempt"] for key in before} == {key: before[key]["attempt"] for key in before}
    check(store, folder, COUNT)
    families = {json.dumps({**r["spec"]["pretrain"], "steps": 0}) for r in after.values()}
    assert sum(r["facts"]["steps_run"] for r in after.values()) <= 40 * len(families)


def test_killed_between_its_last_trial_and_telling_optuna_it_leaves_no_zombie(tmp_path: Path) -> None:
    grid, folder = tuned(tmp_path, trials=2, pruning=None, lengths="[1]"), tmp_path / "runs"
    ended(start(grid, folder))
    (folder / "studies" / "optuna.log").unlink()
    from orchestrator.execute.study_mirror import mirror
    from orchestrator.execute.trials import read_trials
    from orchestrator.plan.build import restore_plan

    store = open_store(str(folder))
    (study,) = restore_plan(store.load_plan("tuned")).studies.values()
    from dataclasses import replace

    running = [replace(trial, state="RUNNING", value=None, values={}) for trial in read_trials(store, study)]
    mirror(str(folder / "studies" / "optuna.log"), study, running)
    assert [trial.state.name for trial in journal(folder)] == ["RUNNING", "RUNNING"]
    assert executed(ended(start(grid, folder))) == {}
    check(store, folder, 2)


def test_an_interrupted_study_leaves_trials_that_wait_and_are_run_later(tmp_path: Path) -> None:
    grid, folder = tuned(tmp_path, **SLOW), tmp_path / "runs"
    store = open_store(str(folder), create=True)
    process = start(grid, folder)
    wait_until(in_the_middle(store, 2, 5), process)
    process.send_signal(signal.SIGINT)
    ended(process, 130)
    states = [trial.state.name for trial in journal(folder)]
    assert "RUNNING" not in states and "WAITING" in states
    ended(start(grid, folder))
    check(store, folder, COUNT)


def test_two_drivers_share_one_study(tmp_path: Path) -> None:
    grid, folder = tuned(tmp_path, **SLOW), tmp_path / "runs"
    store = open_store(str(folder), create=True)
    both = [ended(process) for process in [start(grid, folder), start(grid, folder)]]
    check(store, folder, COUNT)
    assert sum(totals["executed"]["trial"] for totals in both) == COUNT
    assert sum(totals["executed"]["finetune"] for totals in both) == 2
    assert [totals["wasted"] for totals in both] == [0, 0]
    assert all(totals["executed"]["trial"] for totals in both)


def test_a_smaller_and_a_larger_grid_share_one_study_at_the_same_moment(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    small, large = tuned(tmp_path / "small", **{**SLOW, "trials": 3}), tuned(tmp_path, **SLOW)
    folder = tmp_path / "runs"
    store = open_store(str(folder), create=True)
    both = [ended(process) for process in [start(large, folder), start(small, folder)]]
    check(store, folder, COUNT)
    assert sum(totals["executed"]["trial"] for totals in both) == COUNT
    assert [totals["failed"] + totals["blocked"] for totals in both] == [0, 0]


def test_studies_in_postgresql_are_those_of_the_store(tmp_path: Path) -> None:
    """Two drivers write one study there, and a third finds nothing left to write."""
    import optuna

    grid, folder = tuned(tmp_path, **SLOW), tmp_path / "runs"
    store = open_store(str(folder), create=True)
    with postgresql() as url:
        for process in [start(grid, folder, "--study-storage", url) for _ in range(2)]:
            ended(process)
        assert executed(ended(start(grid, folder, "--study-storage", url))) == {}
        name = optuna.get_all_study_names(url)
        (seen,) = [optuna.load_study(study_name=found, storage=url).trials for found in name]
    (study,) = store.studies()
    proposals = store.proposals(study)
    assert [trial.user_attrs["key"] for trial in seen] == [proposal["key"] for proposal in proposals]
    assert [trial.params for trial in seen] == [proposal["params"] for proposal in proposals]
    commits = trials_of(store)
    assert [trial.value for trial in seen] == [commits[p["key"]]["metrics"]["objective"] for p in proposals]
    assert not (folder / "studies" / "optuna.log").exists()


def test_a_database_that_is_not_there_is_told_and_the_study_runs(tmp_path: Path) -> None:
    grid, folder = tuned(tmp_path, trials=2, lengths="[1]", pruning=None), tmp_path / "runs"
    process = start(grid, folder, "--study-storage", "postgresql://nobody@127.0.0.1:1/none")
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0 and json.loads(stdout)["executed"]["trial"] == 2
    told = [line for line in stderr.splitlines() if "Optuna" in line]
    assert len(told) == 1 and told[0].endswith("the store holds them all") and "Traceback" not in stderr
