"""The same results from the store and from MLflow's database or server, whatever has happened to them."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from orchestrator import collect
from orchestrator.record import cell_reader
from orchestrator.record.cell_reader import load_plan, newest_of_profile, profiles_of, read_results
from orchestrator.record.mlflow_connection import TrackingError
from orchestrator.record.mlflow_reader import is_database, read_runs, read_tracked
from orchestrator.record.store import Store, StoreError, open_store
from orchestrator.record.tracking import PREFIX, Tracker
from tests.benchmarks import made_up_store
from tests.orchestrator.results_made_up import commit, plan

EXPERIMENT = "mine"
LABELS = {"name": "a cell", "spec": {}, "labels": {}, "parents": {}, "finished": "2026-11-21T23:15:00+00:00"}
RECORDS: dict[str, dict[str, Any]] = {
    "good": {**commit("good", dice=0.1 + 0.2, miou=1.0, iou=0.0), **LABELS},
    "nan": {**commit("nan", dice=math.nan, loss=math.inf, miou=-math.inf), **LABELS},
    "failed": {**LABELS, "key": "failed", "kind": "finetune", "outcome": "failed", "error": "x\ny"},
    "blocked": {**LABELS, "key": "blocked", "kind": "finetune", "outcome": "blocked", "error": "its pretext failed"},
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database in which MLflow itself has written these records."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('ml flöw') / 'mlflow.db'}"
    tracker = Tracker(uri, EXPERIMENT)
    history = [{"step": 0.0, "eval_dice": 0.3}, {"step": 1.0, "eval_dice": 0.4}]
    for record in RECORDS.values():
        tracker.log(record, history, ["made-up"], None)
    return uri


def stored(folder: Path) -> Store:
    """The same records in a store."""
    store = open_store(str(folder), create=True)
    for record in RECORDS.values():
        if record["outcome"] == "succeeded":
            store.commit(record)
        else:
            store.fail(record)
    return store


def test_the_database_gives_what_the_store_gives(tracked: str, tmp_path: Path) -> None:
    commits, failures = read_results(stored(tmp_path / "s"), [*RECORDS, "unknown"])
    theirs, lost = read_tracked(read_runs(tracked, EXPERIMENT, [*RECORDS, "unknown"]))
    assert set(commits) == set(theirs) == {"good", "nan"}
    assert set(failures) == set(lost) == {"failed", "blocked"}
    for key, record in commits.items():
        assert repr(sorted(record["metrics"].items())) == repr(sorted(theirs[key]["metrics"].items()))
    assert {key: lost[key]["outcome"] for key in lost} == {"failed": "failed", "blocked": "blocked"}


def test_ids_are_those_of_mlflow_itself(tracked: str) -> None:
    logged = Tracker(tracked, EXPERIMENT, create=False).logged()
    found = read_runs(tracked, EXPERIMENT, list(RECORDS), metrics=False)
    assert {key: run.run_id for key, run in found.items()} == {key: logged[key].run_id for key in RECORDS}
    assert all(run.metrics == {} for run in found.values())


def test_another_way_to_the_database_gives_the_same(tracked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy serves PostgreSQL and others; here it reads the same SQLite file under a longer name."""
    direct = read_runs(tracked, EXPERIMENT, list(RECORDS))
    longer = tracked.replace("sqlite:", "sqlite+pysqlite:")
    assert is_database(longer)
    assert repr(read_runs(longer, EXPERIMENT, list(RECORDS))) == repr(direct)


def test_the_servers_way_gives_the_same(tracked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server is asked goes through MLflow's client; the client on the file gives the same answers."""
    direct = read_runs(tracked, EXPERIMENT, list(RECORDS))
    monkeypatch.setattr("orchestrator.record.mlflow_reader.DATABASES", ())
    assert repr(read_runs(tracked, EXPERIMENT, list(RECORDS))) == repr(direct)


def test_of_several_runs_a_complete_one_counts_and_deleted_ones_do_not(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(uri, EXPERIMENT)
    cut_off = tracker._client.create_run(tracker._experiment_id, tags={PREFIX + "key": "good"}).info.run_id
    assert read_runs(uri, EXPERIMENT, ["good"])["good"].run_id == cut_off
    whole = tracker.log(RECORDS["good"], [], [], None)
    assert read_runs(uri, EXPERIMENT, ["good"])["good"].run_id == whole
    tracker.log(RECORDS["good"], [], [], None)
    assert read_runs(uri, EXPERIMENT, ["good"])["good"].run_id == whole  # the oldest of two complete ones
    tracker._client.delete_run(whole)
    assert read_runs(uri, EXPERIMENT, ["good"])["good"].run_id not in (whole, cut_off)


def test_faults_of_mlflow_are_one_message(tracked: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no such database"):
        read_runs(f"sqlite:///{tmp_path / 'none.db'}", EXPERIMENT, ["a"])
    with pytest.raises(TrackingError, match="no experiment 'other'"):
        read_runs(tracked, "other", ["a"])
    sqlite3.connect(tmp_path / "empty.db").close()
    with pytest.raises(TrackingError, match="no such table"):
        read_runs(f"sqlite:///{tmp_path / 'empty.db'}", EXPERIMENT, ["a"])
    with pytest.raises(TrackingError, match=r"MLflow at postgresql://me:\*\*\*@nowhere.invalid"):
        read_runs("postgresql://me:secret@nowhere.invalid/x", EXPERIMENT, ["a"])


def test_many_cells_give_the_same_tables_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made_up_store.write_store(tmp_path / "runs", 1200)
    made_up_store.write_mlflow(tmp_path / "runs" / "mlflow.db", 1200)
    tables = []
    for source in ("store", "mlflow"):
        out = tmp_path / source
        words = [made_up_store.GRID, "--store", str(tmp_path / "runs"), "--out", str(out), "--from", source]
        assert collect.main(words) == 0
        files = sorted((out / made_up_store.GRID).iterdir())
        tables.append({file.name: file.read_bytes() for file in files})
    assert tables[0] == tables[1]
    assert tables[0]["cells.csv"].count(b",failed,") == 4  # two without a result, two without a number


def test_from_mlflow_without_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(str(tmp_path / "runs"), create=True).save_plan(plan([]))
    words = ["--store", str(tmp_path / "runs"), "--out", str(tmp_path), "--from", "mlflow"]
    assert collect.main(["made-up", *words]) == 2
    assert "error: --from mlflow: MLflow at sqlite:" in capsys.readouterr().err


@pytest.mark.parametrize("few", [1, 500])
def test_a_listing_or_not_gives_the_same(tmp_path: Path, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_reader, "FEW", few)
    commits, failures = read_results(stored(tmp_path / "s"), [*RECORDS, "unknown"])
    assert (set(commits), set(failures)) == ({"good", "nan"}, {"failed", "blocked"})
    assert read_results(open_store(str(tmp_path / "absent")), ["a", "b"]) == ({}, {})


def test_an_object_store_is_read_the_same_way(tmp_path: Path) -> None:
    from obstore.store import MemoryStore

    from orchestrator.record.backend import Backend

    store = Store(Backend("memory://", MemoryStore(), None))
    for number in range(cell_reader.FEW + 20):
        store.commit(commit(f"k{number}", dice=number / 1000))
    commits, failures = read_results(store, [f"k{number}" for number in range(cell_reader.FEW + 40)])
    assert len(commits) == cell_reader.FEW + 20
    assert commits["k7"]["metrics"] == {"dice": 0.007}
    assert failures == {}


def test_a_damaged_record_has_the_stores_own_message(tmp_path: Path) -> None:
    store = stored(tmp_path / "s")
    for text, message in (("[]", "holds no record"), ("{", "not valid JSON")):
        (tmp_path / "s" / "commits" / "good.json").write_text(text, encoding="utf-8")
        with pytest.raises(StoreError, match=message):
            read_results(store, RECORDS)


def test_profiles_are_told_from_plans_as_the_store_writes_them(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s"), create=True)
    store.save_plan(plan([], plan="1", profile="mini", title='"plan": "9", "profile": "x"'))
    store.save_plan(plan([], plan="2"))
    assert profiles_of(store, "made-up") == {"1": "mini", "2": "paper"}
    assert load_plan(store, "made-up")["plan"] == "2"


def test_the_newest_plan_of_a_profile_is_found_below_any_number_of_others(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "s"), create=True)
    store.save_plan(plan([], plan="000"))
    for number in range(1, cell_reader.NEWEST + 3):
        store.save_plan(plan([], plan=f"{number:03}", profile="mini"))
    assert newest_of_profile(store, "made-up", "paper") == "000"
    assert newest_of_profile(store, "made-up", "mini") == f"{cell_reader.NEWEST + 2:03}"
    with pytest.raises(StoreError, match=r"no plan of grid 'made-up' with profile 'smoke'; there are mini, paper"):
        newest_of_profile(store, "made-up", "smoke")
