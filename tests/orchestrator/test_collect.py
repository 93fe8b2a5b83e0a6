"""The command: what it writes, what it prints, how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator import collect
from orchestrator.record.store import Store, open_store
from tests.orchestrator.results_made_up import cell, commit, plan, published

FILES = ["cells.csv", "table.csv", "table.html", "table.md", "table.tex"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a hostile folder, without MLflow beside it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store(str(tmp_path / "my “runs” ü"), create=True)


def run(store: Store, *arguments: str) -> int:
    return collect.main([*arguments, "--store", str(store.folder)])


def fill(store: Store, made: dict[str, Any], commits: dict[str, dict[str, Any]]) -> None:
    names = {key: f"{n:016x}" for n, key in enumerate(commits)}
    store.save_plan({**made, "cells": [{**c, "key": names.get(c["key"])} for c in made["cells"]]})
    for key, record in commits.items():
        store.commit({**record, "key": names[key]})


def test_published_values_come_back(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, *published("p1-table2"))
    assert run(store, "p1-table2", "--out", str(tmp_path / "out")) == 0
    folder = tmp_path / "out" / "p1-table2"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    table = pd.read_csv(folder / "table.csv")
    assert (table["mean"] == table["reference_mean"]).all()
    assert (table["std"] == table["reference_std"]).all()
    cells = pd.read_csv(folder / "cells.csv")
    assert len(cells) == 108
    assert cells["value"].between(0, 1).all()
    assert cells["run_id"].isna().all()
    printed, err = capsys.readouterr()
    assert err.startswith("warning: run_id stays empty: MLflow at sqlite:")
    assert err.count("\n") == 1
    assert "85.7 ± 1.8" in printed
    assert "all 108 cells have a result" in printed
    assert str(folder / "table.md") in printed


def test_newest_plan_is_read_and_an_older_one_by_its_id(store: Store, tmp_path: Path) -> None:
    made, commits = published("p1-table6")
    fill(store, {**made, "plan": "20260101T000000Z-aaaa", "profile": "mini"}, {})
    fill(store, made, commits)
    for arguments, profile in (([], "paper"), (["--plan", "20260101T000000Z-aaaa"], "mini")):
        assert run(store, "p1-table6", "--out", str(tmp_path), *arguments) == 0
        assert f"profile {profile}" in (tmp_path / "p1-table6" / "table.md").read_text("utf-8")


def test_an_unfinished_grid_is_no_error(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"{n:016x}" for n in range(5)]
    store.save_plan(plan([cell(seed=n, key=key) for n, key in enumerate(keys)]))
    store.commit(commit(keys[0], dice=0.5))
    store.fail({"key": keys[1], "outcome": "failed", "error": "out of memory"})
    store.fail({"key": keys[2], "outcome": "blocked", "error": "its pretext failed"})
    assert run(store, "made-up", "--out", str(tmp_path), "--json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    counts = {name: report[name] for name in ("cells", "succeeded", "failed", "blocked", "missing", "constant")}
    assert counts == {"cells": 5, "succeeded": 1, "failed": 1, "blocked": 1, "missing": 2, "constant": 0}
    assert "1 of 5 cells have a result; 1 failed, 1 blocked, 2 missing" in err
    assert sorted(report["files"]) == FILES
    assert "50.0 (1/5)" in Path(report["files"]["table.md"]).read_text("utf-8")


def test_nothing_finished_yet(store: Store, tmp_path: Path) -> None:
    store.save_plan(plan([cell(key="00ff")]))
    assert run(store, "made-up", "--out", str(tmp_path)) == 0
    assert (tmp_path / "made-up" / "cells.csv").read_text("utf-8").count("missing") == 1


@pytest.mark.parametrize("header", ["grid: made-up\n", "title: no name\n"])
def test_grid_given_as_yaml_file(store: Store, tmp_path: Path, header: str) -> None:
    path = tmp_path / ("made-up.yaml" if "title" in header else "elsewhere.yaml")
    path.write_text(header, encoding="utf-8")
    store.save_plan(plan([cell(key="00ff")]))
    assert run(store, str(path), "--out", str(tmp_path)) == 0


def test_requests_that_cannot_be_met(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.save_plan(plan([cell(key="00ff")]))
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", encoding="utf-8")
    cases = [
        (["p1-table2", "--out", str(tmp_path)], "no plan of grid 'p1-table2'; it holds plans of made-up"),
        (["made-up", "--plan", "2020", "--out", str(tmp_path)], "its newest are 20261121T231500Z-ab12cd34"),
        (["made-up", "--out", str(blocked)], "expected a writable folder"),
    ]
    for arguments, message in cases:
        assert run(store, *arguments) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("error: ") == 1
        assert "Traceback" not in err


def test_a_missing_reference_file_is_only_a_warning(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.save_plan(plan([cell(key="00ff")], references="p9-table9"))
    assert run(store, "made-up", "--out", str(tmp_path)) == 0
    assert "warning: no published values named 'p9-table9'" in capsys.readouterr().err


def test_run_ids_come_from_mlflow(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.record.tracking import Tracker

    key, uri = "00ff", f"sqlite:///{tmp_path / 'mlflow.db'}"
    store.save_plan(plan([cell(key=key), cell(key="0001", seed=1)]))
    store.commit(commit(key, dice=0.5))
    labels = {"name": "a cell", "spec": {}, "labels": {}, "parents": {}, "finished": "2026-11-21T23:15:00Z"}
    run_id = Tracker(uri, "mine").log({**commit(key, dice=0.5), **labels}, [], ["made-up"], None)
    arguments = ["--out", str(tmp_path), "--tracking-uri", uri, "--experiment", "mine", "--json"]
    assert run(store, "made-up", *arguments) == 0
    report = json.loads(capsys.readouterr().out)
    cells = pd.read_csv(report["files"]["cells.csv"], dtype=str, keep_default_na=False)
    assert list(zip(cells["key"], cells["run_id"], strict=True)) == [(key, run_id), ("0001", "")]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orchestrator import collect\n"
        "try: collect.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'pandas', 'rich', 'obstore'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
