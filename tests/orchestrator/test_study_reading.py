"""A run that is killed when its studies are over and its cells finished, before it saves its plan with the winners.

Whoever reads the plan finds the winners all the same: `collect`, `status`, `gc` and the completion of MLflow.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator import collect, gc, status
from orchestrator.record.mlflow_connection import default_uri
from orchestrator.record.store import Store, open_store
from orchestrator.record.tracking import run_ids
from tests.orchestrator.study_runs import TINY, tuned
from tests.orchestrator.test_run import ROOT, environment

# The program, killed by itself where it is about to save its plan for the second time.
KILLED = """
import os, signal, sys
from orchestrator import run_grid
from orchestrator.record.store import Store

save_plan, saved = Store.save_plan, []

def save(self, plan):
    if saved:
        os.kill(os.getpid(), signal.SIGKILL)
    saved.append(plan)
    save_plan(self, plan)

Store.save_plan = save
run_grid.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of such a run: two trials, a cell below their winner and one of its own, and the study's figures."""
    folder = tmp_path_factory.mktemp("killed")
    words = [tuned(folder, trials=2, lengths="[1]", pruning=None), "--store", str(folder / "runs"), *TINY]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words, "--executor", "inline"],
        cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    return folder / "runs"


@pytest.fixture
def store(killed: Path) -> Store:
    """That store, whose plan still names no winner."""
    found = open_store(str(killed))
    (plan,) = [found.load_plan("tuned", name) for name in found.plans("tuned")]
    waiting = {key for key, stage in plan["stages"].items() if stage["awaits"]}
    kinds = sorted(record["kind"] for record in found.commits(found.finished()).values())
    assert len(waiting) == 2 and not waiting & found.finished()
    assert kinds == ["analysis", "finetune", "finetune", "trial", "trial"]
    return found


def told(main: Any, capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capfd.readouterr()
    assert main([*words, "--json"]) == 0
    return dict(json.loads(capfd.readouterr().out))


def test_the_table_has_the_cells_below_the_winner(
    store: Store, killed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = told(collect.main, capfd, "tuned", "--store", str(killed), "--out", str(tmp_path))
    assert (report["cells"], report["succeeded"], report["missing"]) == (2, 2, 0)
    cells = pd.read_csv(report["files"]["cells.csv"], keep_default_na=False)
    dice = cells[cells["metric"] == "dice"]
    commits = store.commits(dice["key"])
    assert [commits[key]["metrics"]["dice"] for key in dice["key"]] == pytest.approx(list(dice["value"]))
    (study,) = store.studies()
    below = [commits[key]["parents"] for key, pretext in zip(dice["key"], dice["pretext"], strict=True) if pretext]
    assert below == [{"pretrain": store.conclusions(study)[2]["key"]}]


def test_it_stands_as_finished(store: Store, killed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = told(status.main, capfd, "tuned", "--store", str(killed))
    assert state["stages"] == {"succeeded": 5, "running": 0, "failed": 0, "blocked": 0, "waiting": 0}
    assert state["studies"][0]["winner"] in store.finished()


def test_nothing_of_it_is_garbage(store: Store, killed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert told(gc.main, capfd, "--store", str(killed))["garbage"]["unreached"]["pieces"] == 0


def test_mlflow_is_completed_with_the_cells_below_the_winner(
    store: Store, killed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = default_uri(tmp_path)
    done = told(status.main, capfd, "--store", str(killed), "--sync-mlflow", "--tracking-uri", uri)
    assert (done["ended"], done["not_taken"]) == (5, 0)
    assert run_ids(uri, "transfergrid", sorted(store.finished())).keys() == store.finished()
