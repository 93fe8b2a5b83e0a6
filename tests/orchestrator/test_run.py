"""Whole runs on the synthetic set: Ray against inline, repeating, growing, kill -9, MLflow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.record.store import Store, open_store

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--set", "pretrain.steps=6", "--set", "finetune.steps=4", "--set", "network.width=4"]
TINY += ["--set", "datasets.shapes.count=40", "--set", "datasets.shapes.size=32"]


def command(store: Path, *more: str, grid: str = "smoke") -> list[str]:
    return [sys.executable, "-m", "orchestrator.run_grid", grid, "--store", str(store), "--json", *TINY, *more]


def environment(tmp: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "TRANSFERGRID_DATA")}
    return {**kept, "TRANSFERGRID_CACHE": str(tmp / "cache"), "OMP_NUM_THREADS": "1"}


def run(store: Path, *more: str, code: int = 0) -> dict:
    done = subprocess.run(
        command(store, *more), cwd=ROOT, env=environment(store.parent), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def executed(totals: dict) -> dict[str, int]:
    """The kinds of stage that a run executed; its JSON names the others too, with 0."""
    assert list(totals["executed"]) == ["prepare", "pretrain", "trial", "import", "finetune", "probe", "analysis"]
    return {kind: count for kind, count in totals["executed"].items() if count}


def metrics(store: Store) -> dict[str, dict]:
    return {key: record["metrics"] for key, record in store.commits(store.finished()).items()}


@pytest.fixture(scope="module")
def ray_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("räy store") / "runs"
    return folder, run(folder, "--only", "seed=0")


def test_a_run_on_ray_finishes_every_stage(ray_store: tuple[Path, dict]) -> None:
    folder, totals = ray_store
    assert executed(totals) == {"pretrain": 2, "finetune": 8}
    assert (totals["cells"], totals["succeeded"], totals["failed"], totals["blocked"], totals["reused"]) == (
        8,
        10,
        0,
        0,
        0,
    )
    assert len(open_store(str(folder)).finished()) == 10


def test_inline_and_ray_agree_digit_for_digit(ray_store: tuple[Path, dict], tmp_path: Path) -> None:
    run(tmp_path / "runs", "--only", "seed=0", "--executor", "inline")
    assert metrics(open_store(str(tmp_path / "runs"))) == metrics(open_store(str(ray_store[0])))


def test_the_same_command_executes_nothing_and_a_grown_grid_only_what_is_new(ray_store: tuple[Path, dict]) -> None:
    folder, _ = ray_store
    again = run(folder, "--only", "seed=0")
    assert executed(again) == {} and again["reused"] == 10
    grown = run(folder, "--only", "seed=0", "--only", "seed=1", "--executor", "inline")
    assert executed(grown) == {"finetune": 8} and grown["reused"] == 10


def test_mlflow_holds_one_complete_run_per_stage(ray_store: tuple[Path, dict]) -> None:
    from mlflow.tracking import MlflowClient

    folder, totals = ray_store
    client = MlflowClient(totals["tracking_uri"])
    experiment = client.get_experiment_by_name("transfergrid")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    store = open_store(str(folder))
    counts = Counter(r.data.tags["transfergrid.key"] for r in runs)
    assert set(counts) == store.finished() and set(counts.values()) == {1}
    assert {r.info.status for r in runs} == {"FINISHED"}
    for r in runs:
        record = store.commits([r.data.tags["transfergrid.key"]])[r.data.tags["transfergrid.key"]]
        for name, value in record["metrics"].items():
            assert r.data.metrics[name] == pytest.approx(value)
        tags = {k.removeprefix("transfergrid."): v for k, v in r.data.tags.items() if k.startswith("transfergrid.")}
        assert tags["grid.smoke"] == "true" and tags["profile"] == "smoke" and tags["node"]
        if tags["kind"] == "finetune":
            assert {"scenario", "frozen", "model", "network", "dataset", "fraction", "seed", "parents"} <= tags.keys()
            assert tags["dataset"] == "shapes" and tags["frozen"] == "false" and tags["fraction"] in ("0.05", "0.2")
            assert [m.step for m in client.get_metric_history(r.info.run_id, "curve/eval_dice")] == [0, 4]
        else:
            assert {"pretext", "pretext_data"} <= tags.keys()


# Long enough that the worker of a killed driver cannot finish before it notices.
LONG = ["--only", "seed=0", "--set", "pretrain.steps=250", "--set", "run.checkpoint_seconds=0.2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("undisturbed") / "runs"
    run(folder, *LONG, "--executor", "inline")
    return metrics(open_store(str(folder)))


@pytest.mark.durable
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_after_kill_9_the_grid_finishes_and_nothing_runs_twice(
    tmp_path: Path, victim: str, undisturbed: dict[str, dict]
) -> None:
    folder = tmp_path / "runs"
    process = subprocess.Popen(
        command(folder, *LONG), cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    beat = _wait_for_step(folder, process, 10)
    os.kill(process.pid if victim == "driver" else beat["pid"], signal.SIGKILL)
    stdout, _ = process.communicate(timeout=200)
    store = open_store(str(folder))
    if victim == "worker":
        assert json.loads(stdout)["succeeded"] == 10
    else:
        before = store.commits(store.finished())
        totals = run(folder, *LONG)
        assert totals["reused"] == len(before) and sum(totals["executed"].values()) == 10 - len(before)
        after = store.commits(store.finished())
        assert {k: after[k]["attempt"] for k in before} == {k: before[k]["attempt"] for k in before}
    assert store.commits([beat["key"]])[beat["key"]]["facts"]["resumed_from"] > 0
    assert metrics(store) == undisturbed


def _wait_for_step(folder: Path, process: subprocess.Popen[bytes], step: int) -> dict:
    """Wait until a pretraining has gone that far and has a checkpoint."""
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        store = open_store(str(folder))
        for beat in store.leases().values():
            if beat["kind"] == "pretrain" and beat["step"] >= step and store.checkpoint(beat["key"]) is not None:
                return beat
        time.sleep(0.02)
    raise AssertionError("no pretraining came that far")
