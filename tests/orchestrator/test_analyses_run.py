"""A grid with analyses from the command to the files: store, MLflow, collect; inline here, on Ray among the durable."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from orchestrator import collect, run_grid, status
from orchestrator.record.store import open_store
from tests.orchestrator.made_up import write_grid

ROOT = Path(__file__).resolve().parents[2]
CELLS = """\
grid: drawn
title: Drawn
profile: smoke
network: {width: 4}
datasets: {shapes: {count: 24, size: 32}}
rows:
  - {scenario: random-init, model: Random}
  - {scenario: seg-enc, model: ConRec, pretext: conrec}
columns:
  - {dataset: shapes, pretext_data: shapes, fractions: [0.2]}
seeds: [0]
profiles:
  smoke:
    network: {width: 4}
    pretrain: {steps: 4, report_every: 2, batch: 4, validation_images: 2}
    finetune: {steps: 4, report_every: 2, batch: 4, curve_images: 4}
"""
ANALYSES = """\
analyses:
  alike:
    kind: cka
    data: shapes
    input_size: 16
    models: [{name: Random}, {name: ConRec, pretext: conrec, pretext_data: shapes}]
  curves: {kind: curves}
  look: {kind: samples, input_size: 32, panels: [{title: Shapes, data: shapes, count: 2, published: 99}]}
  shown: {kind: predictions, panels: [{title: Shapes, cells: {seed: 0}, count: 1}]}
"""
FILES = {
    "alike": ["cka.csv", "cka.png"],
    "curves": ["curves.csv", "curves.png", "steps.csv", "steps.png"],
    "look": ["counts.csv", "counts.md", "samples.png"],
    "shown": ["predictions.csv", "predictions.png"],
}


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "TRANSFERGRID_DATA"):
        monkeypatch.delenv(name, raising=False)


def run(capfd: pytest.CaptureFixture[str], grid: str, store: Path, *more: str) -> dict[str, Any]:
    code = run_grid.main([grid, "--store", str(store), "--json", *more])
    told = capfd.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


def executed(totals: dict[str, Any]) -> dict[str, int]:
    return {kind: count for kind, count in totals["executed"].items() if count}


def check_results(folder: Path, store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The files in the store, in MLflow and in what collect writes are the same."""
    kept = open_store(str(store))
    commits = {c["labels"]["analysis"]: c for c in kept.commits(kept.finished()).values() if c["kind"] == "analysis"}
    assert set(commits) == set(FILES)
    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("transfergrid")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`transfergrid.kind` = 'analysis'")
    logged = {r.data.tags["transfergrid.key"]: r for r in runs}
    assert collect.main(["drawn", "--store", str(store), "--out", str(folder), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    for name, files in FILES.items():
        commit = commits[name]
        assert sorted(file for file in commit["artifacts"] if "." in file) == files
        mlflow_run = logged[commit["key"]]
        assert sorted(a.path for a in client.list_artifacts(mlflow_run.info.run_id)) == files
        assert mlflow_run.data.tags["transfergrid.analysis"] == name
        assert mlflow_run.data.tags["transfergrid.grid.drawn"] == "true"
        for file in files:
            written = folder / "drawn" / "figures" / name / file
            assert str(written) in told["figures"]
            assert written.read_bytes() == kept.artifact(commit["artifacts"][file])
            if file.endswith(".png"):
                with Image.open(written) as picture:
                    assert picture.width > 300 and picture.convert("L").getextrema() != (255, 255)
    assert 0 <= commits["alike"]["metrics"]["cka/random/conrec"] <= 1 + 1e-9
    assert "| Shapes | 24 | 99 |" in (folder / "drawn" / "figures" / "look" / "counts.md").read_text()


def test_figures_asked_for_after_their_cells_and_a_run_that_does_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, inline = tmp_path / "störe", ("--executor", "inline")
    table = run(capfd, write_grid(tmp_path, CELLS), store, *inline)
    assert executed(table) == {"pretrain": 1, "finetune": 2}
    grid = write_grid(tmp_path, CELLS + ANALYSES)
    kept = open_store(str(store))
    before = kept.commits(kept.finished())
    drawn = run(capfd, grid, store, *inline)
    # Their weights had not been kept, so both cells are trained once more beside the finished ones, to the same end.
    assert executed(drawn) == {"finetune": 2, "analysis": 4} and drawn["cells"] == 2
    commits = kept.commits(kept.finished())
    again = [c for c in commits.values() if c["kind"] == "finetune" and c["key"] not in before]
    assert sorted(c["metrics"]["loss"] for c in again) == sorted(
        c["metrics"]["loss"] for c in before.values() if c["kind"] == "finetune"
    )
    check_results(tmp_path / "results", store, capfd)
    assert executed(run(capfd, grid, store, *inline)) == {}
    (key,) = [c["key"] for c in commits.values() if c["labels"].get("analysis") == "alike"]
    assert status.main(["--store", str(store), "--explain", key]) == 0
    told = capfd.readouterr().out
    assert "analysis alike | drawn" in told and "spec.analysis.kind = cka" in told
    changed = run(capfd, grid, store, *inline, "--set", "analyses.curves.share=0.5")
    assert executed(changed) == {"analysis": 1}


@pytest.mark.durable
def test_figures_on_ray(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store, grid = tmp_path / "runs", write_grid(tmp_path, CELLS + ANALYSES)
    command = [sys.executable, "-m", "orchestrator.run_grid", grid, "--store", str(store), "--json"]
    # In a process of its own: one process keeps the token of the first Ray that it ever joined.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)
    assert executed(totals) == {"pretrain": 1, "finetune": 2, "analysis": 4}
    check_results(tmp_path / "results", store, capfd)
