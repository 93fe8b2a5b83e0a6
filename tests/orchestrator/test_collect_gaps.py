"""Results with gaps: each gives a table that shows them, and one clear message."""

from __future__ import annotations

import json
import math
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from orchestrator import collect
from orchestrator.record.store import Store, open_store
from tests.orchestrator.results_made_up import cell, commit, plan

KEYS = [f"{n:016x}" for n in range(6)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store(str(tmp_path / "runs"), create=True)


class Collected:
    """What a call wrote and said."""

    def __init__(self, store: Store, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> None:
        assert collect.main(["made-up", "--store", str(store.folder), "--out", str(out), "--json", *more]) == 0
        printed, self.err = capsys.readouterr()
        self.report: dict[str, Any] = json.loads(printed)
        self.files = {name: Path(path).read_text("utf-8") for name, path in self.report["files"].items()}
        self.screen = " ".join(self.err.split())

    def everywhere(self, *texts: str) -> None:
        """Each text stands in every format made for people."""
        for name in ("table.md", "table.tex", "table.html"):
            plain = " ".join(unescape(self.files[name]).replace("\\_", "_").replace("$", "").split())
            for text in texts:
                assert text in plain, (name, text)
        for text in texts:
            assert text in self.screen, text


def two_rows(store: Store) -> None:
    """Three seeds of two models."""
    cells = [cell(model="A", seed=n, key=KEYS[n]) for n in range(3)]
    store.save_plan(plan(cells + [cell(model="B", seed=n, key=KEYS[3 + n]) for n in range(3)]))


def test_failed_cells(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_rows(store)
    store.commit(commit(KEYS[0], dice=0.5))
    for key in KEYS[1:]:
        store.fail({"key": key, "outcome": "failed", "error": "CUDA out of memory:\n 2 GiB & <more>"})
    told = Collected(store, tmp_path, capsys)
    told.everywhere("failed", "(1/3)", "1 of 2 groups are incomplete", "5 of 6 values are not there: 5 failed")
    assert "Failed (5): CUDA out of memory: 2 GiB" in told.screen
    assert "1 of 6 cells have a result; 5 failed" in told.screen
    assert told.files["table.csv"].count(",failed,3,0,0,") == 1


def test_one_seed_only(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.save_plan(plan([cell(key=KEYS[0])]))
    store.commit(commit(KEYS[0], dice=0.7154))
    told = Collected(store, tmp_path, capsys)
    told.everywhere("71.5", "one seed each, no standard deviation")
    assert all("71.5 ±" not in text and r"71.5 \pm" not in text for text in told.files.values())


def test_zero_finished_cells(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_rows(store)
    told = Collected(store, tmp_path, capsys)
    assert "no cell has a result yet: 6 missing of 6" in told.screen
    told.everywhere("6 of 6 values are not there: 6 missing")
    assert told.report["missing"] == 6
    assert "warning" not in told.err  # nothing is wrong, it only has not run


def test_metrics_that_are_not_a_number(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_rows(store)
    for n, key in enumerate(KEYS):
        store.commit(commit(key, dice=math.nan if n in (0, 3, 4, 5) else 0.6))
    told = Collected(store, tmp_path, capsys)
    told.everywhere("(2/3)", "dice is nan; expected a finite number", "4 failed")
    assert told.report["failed"] == 4
    assert ",nan," not in told.files["cells.csv"]
    assert ",60,0,2,3," in told.files["table.csv"]


def test_a_plan_of_another_profile_in_the_same_store(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, small = "20260101T000000000Z-aaaa", "20260202T000000000Z-bbbb"
    store.save_plan(plan([cell(key=KEYS[0])], plan=full))
    store.save_plan(plan([cell(key=KEYS[1])], plan=small, profile="mini"))
    store.commit(commit(KEYS[0], dice=0.8))
    store.commit(commit(KEYS[1], dice=0.3))
    newest = Collected(store, tmp_path, capsys)
    assert "30.0" in newest.files["table.md"]
    assert "80.0" not in newest.files["table.md"]
    said = f"this is plan {small} of profile mini; the store also holds plans of profile paper (newest: --plan {full})"
    assert said in newest.screen
    newest.everywhere("mini profile: sizes and budgets are not the paper's")
    asked = Collected(store, tmp_path, capsys, "--profile", "paper")
    assert (asked.report["plan"], "80.0" in asked.files["table.md"]) == (full, True)
    assert collect.main(["made-up", "--store", str(store.folder), "--out", str(tmp_path), "--profile", "huge"]) == 2
    assert "no plan of grid 'made-up' with profile 'huge'; there are mini, paper" in capsys.readouterr().err


def test_a_damaged_record_is_named(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_rows(store)
    assert store.folder is not None
    (store.folder / "commits").mkdir()
    (store.folder / "commits" / f"{KEYS[0]}.json").write_text("{", encoding="utf-8")
    assert collect.main(["made-up", "--store", str(store.folder), "--out", str(tmp_path)]) == 2
    assert f"commits/{KEYS[0]}.json is not valid JSON" in capsys.readouterr().err
