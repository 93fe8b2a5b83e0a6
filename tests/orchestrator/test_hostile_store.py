"""A store that came from somebody else, or was damaged: nothing is written or read outside, and one message says so."""

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

from orchestrator import collect, gc, report, run_grid, status
from orchestrator.command_line import guarded
from orchestrator.execute.state import plan_state
from orchestrator.grid.schema import NAME as NAME_OF_GRIDS
from orchestrator.plan.stages import Cell
from orchestrator.record import shape
from orchestrator.record.garbage import find
from orchestrator.record.leases import Watch, acquire, holder
from orchestrator.record.store import Store, StoreError, open_store
from orchestrator.results import ResultsError
from orchestrator.results.written import write_files
from tests.contracts import records
from tests.orchestrator.made_up import GRID, write_grid

ROOT = Path(__file__).resolve().parents[2]
KEY, PLAN = "ab" * 12, "20261121T100000000Z-a"
SECRET = "what only this machine knows"
OUTSIDE = ("../../../pwned.png", "/tmp/pwned.png", ".bashrc.png", "a/b.png", "..png/", "x\n.png")
PLACES = ("/etc/hostname", "../secret", "artifacts/../../secret", f"artifacts/{KEY}/../../../secret", "commits/a.json")


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "here").mkdir()
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.chdir(tmp_path / "here")


def analysed(artifacts: dict[str, Any], label: str = "cam", **given: Any) -> Store:
    """A store at ../runs whose plan wants one analysis, which is finished."""
    store = open_store("../runs", create=True)
    stage = records.stage(KEY, kind="analysis", labels={"analysis": label})
    store.save_plan(records.plan("mine", PLAN, stages={KEY: stage}, wanted=[KEY], **given))
    history = store.put_artifact(KEY, "one", "history.json", b"[]")
    store.commit({**records.commit(KEY, artifacts={"history": history, **artifacts}), **stage})
    return store


def told(main: Any, capfd: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    capfd.readouterr()
    assert main(list(argv)) == code
    out, err = capfd.readouterr()
    assert "Traceback" not in err and SECRET not in out + err
    return str(out + err)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "mlflow" not in path.name}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("main", [collect.main, report.main])
def test_a_file_called_by_a_path(main: Any, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    analysed({name: f"artifacts/{KEY}/one/history.json"})
    before = everything(tmp_path)
    text = told(main, capfd, "mine", "--store", "../runs", "--out", "out")
    assert f"commits/{KEY}.json is damaged or was tampered with: it names the file {name!r}" in text
    assert {name for name in everything(tmp_path) - before if "/out" not in name} <= {"here/out"}


@pytest.mark.parametrize("place", PLACES)
def test_a_file_from_elsewhere(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    store = analysed({"cam.png": place})
    text = told(collect.main, capfd, "mine", "--store", "../runs", "--out", "out")
    assert f"it names the file 'cam.png' at {place!r}" in text
    with pytest.raises(StoreError, match="damaged or was tampered with"):
        store.artifact(place)


def test_a_new_mlflow_gets_no_such_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    analysed({"../../PWNED/.bashrc": "/etc/hostname"})
    text = told(status.main, capfd, "--sync-mlflow", "--store", "../runs", code=1)
    assert "is damaged or was tampered with: it names the file '../../PWNED/.bashrc'" in " ".join(text.split())
    assert not list(tmp_path.rglob(".bashrc"))


def test_weights_elsewhere_are_neither_read_nor_dropped(tmp_path: Path) -> None:
    store = open_store("../runs", create=True)
    secret = tmp_path / "secret"
    store.commit(records.commit(KEY, artifacts={"weights": str(secret)}))
    store.drop_weights(KEY)
    assert secret.read_text() == SECRET
    for path in ("../secret", str(secret)):
        for act in (store._backend.get, lambda p: store._backend.put(p, b""), lambda p: store._backend.delete([p])):
            with pytest.raises(StoreError, match="leaves the store"):
                act(path)


@pytest.mark.parametrize("label", ["../../x", "..", ".ssh", "a/b", "/tmp/x"])
def test_an_analysis_called_by_a_path(label: str, capfd: pytest.CaptureFixture[str]) -> None:
    analysed({}, label)
    text = told(collect.main, capfd, "mine", "--store", "../runs", "--out", "out")
    assert f"plans/mine/{PLAN}.json is damaged or was tampered with: it calls the analysis {KEY} {label!r}" in text


@pytest.mark.parametrize("grid", ["../../pwned", "/tmp/pwned", "other", ".ssh"])
def test_a_plan_of_another_grid(grid: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_store("../runs", create=True).save_plan(records.plan("mine", PLAN))
    [path] = (tmp_path / "runs/plans").rglob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "grid": grid}))
    for main, more in ((collect.main, ["--out", "out"]), (report.main, ["--out", "out"]), (status.main, [])):
        text = told(main, capfd, "mine", "--store", "../runs", *more)
        assert f"is damaged or was tampered with: it is plan {PLAN!r} of grid {grid!r}" in text
    assert not Path("out").exists()


PLAN_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "it lacks cells, command, created"),
    "newer": ({"format": 2}, "its format is 2, and this program reads 1"),
    "cells": (records.plan("mine", PLAN, cells=[{}]), "cell 1: it lacks dataset, fraction"),
    "cells that are none": (records.plan("mine", PLAN, cells=[1]), "cell 1: expected key: value"),
    "stages": (records.plan("mine", PLAN, stages={KEY: {}}), f"stage '{KEY}': it lacks key, kind"),
    "another key": (records.plan("mine", PLAN, stages={KEY: records.stage("b")}), f"stage '{KEY}' has the key 'b'"),
    "a list": (records.plan("mine", PLAN, stages=[]), "its stages is no dict"),
    "wanted": (records.plan("mine", PLAN, wanted=["b"]), "it has no stage 'b', which it wants"),
}


@pytest.mark.parametrize("name", PLAN_FAULTS)
def test_a_plan_that_lacks_something(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content, says = PLAN_FAULTS[name]
    path = tmp_path / "runs" / "plans" / "mine" / f"{PLAN}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    out = ["--out", "out"]
    for main, argv in ((collect.main, ["mine", *out]), (report.main, ["mine", *out]), (status.main, []), (gc.main, [])):
        text = told(main, capfd, *argv, "--store", "../runs")
        assert f"plans/mine/{PLAN}.json is damaged or was tampered with: {says}" in text and "move it away" in text


@pytest.mark.parametrize("kind", ["commits", "failures"])
def test_a_record_that_lacks_something(kind: str, tmp_path: Path) -> None:
    store = open_store("../runs", create=True)
    read = store.commits if kind == "commits" else store.failures
    whole = records.commit(KEY) if kind == "commits" else records.failure(KEY)
    path = tmp_path / "runs" / kind / f"{KEY}.json"
    path.parent.mkdir()
    for content in ({}, {**whole, "key": "b"}, {n: v for n, v in whole.items() if n != "outcome"}):
        path.write_text(json.dumps(content))
        with pytest.raises(StoreError, match=rf"{kind}/{KEY}\.json is damaged or was tampered with: .*; move it away"):
            read([KEY])
    path.write_text(json.dumps(whole))
    assert read([KEY]) == {KEY: whole}


def test_results_bear_plain_names(tmp_path: Path) -> None:
    for name in (*OUTSIDE, "", ".", ".."):
        with pytest.raises(ResultsError, match="expected a plain name"):
            write_files(tmp_path / "out", {"fine.txt": "", name: "x"})
    assert not (tmp_path / "out").exists()


def test_what_is_checked_is_what_planning_writes() -> None:
    assert shape.NAME.pattern == NAME_OF_GRIDS.strip("^$")
    fields = Cell.__dataclass_fields__
    assert fields.keys() - {"constant", "blocked"} == shape.CELL_FIELDS


# Requests


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--tracking-uri", "http://["], "MLflow at http://[: no such address; expected http://HOST:PORT"),
        (["--tracking-uri", "http://host:port"], "MLflow at http://host:port: no such address"),
        (["--tracking-uri", "foo"], "MLflow at foo: no such address"),
        (["--store", "s3://[x"], "store 's3://[x': "),
        (["--store", "file://["], "store 'file://[': "),
    ],
)
def test_addresses_that_are_none(argv: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    open_store("runs", create=True).save_plan(records.plan("mine", PLAN))
    assert says in told(run_grid.main, capfd, "smoke", "--dry-run", *argv)
    assert says in told(collect.main, capfd, "mine", "--out", "out", *argv)
    assert says in told(report.main, capfd, "mine", "--out", "out", *argv)
    assert says in told(status.main, capfd, "--sync-mlflow", *argv)


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (status.main, ["--replay", "a", "--explain", "b"]),
        (status.main, ["--replay", "a", "--sync-mlflow"]),
        (status.main, ["--watch", "--json"]),
        (run_grid.main, ["smoke", "--devices", "4"]),
        (gc.main, ["--stor", "s", "--sotre=postgresql://me:secret@host/db"]),
    ],
)
def test_options_of_which_one_would_silently_win(main: Any, argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    out, err = capfd.readouterr()
    assert caught.value.code == 2 and "error: " in err and "secret" not in out + err


def test_grids_of_different_dials(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = write_grid(Path(), GRID.replace("grid: mine", "grid: one") + "run: {pack: 2}\n", "one.yaml")
    two = write_grid(Path(), GRID.replace("grid: mine", "grid: two") + "run: {pack: 3}\n", "two.yaml")
    text = told(run_grid.main, capfd, str(one), str(two), "--dry-run")
    assert "error: grids one and two differ in run.pack, of which one run has one value" in text
    told(run_grid.main, capfd, str(one), str(two), "--dry-run", "--set", "run.pack=4", code=0)


@pytest.mark.parametrize(
    "words",
    [
        "orchestrator.collect mine --out out", "orchestrator.report mine --out out", "orchestrator.status mine",
        "orchestrator.gc", "orchestrator.run_grid smoke --dry-run", "trainables.data check shapes --data-root .",
    ],
)  # fmt: skip
def test_an_interrupt_is_one_line(words: str) -> None:
    """At whatever moment it comes; only before Python has begun with the package it is Python's own."""
    open_store("runs", create=True).save_plan(records.plan("mine", PLAN))
    for delay in (0.15, 0.3, 0.5, 0.8, 1.1):
        process = subprocess.Popen(
            [sys.executable, "-m", *words.split()], env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        err = process.communicate()[1]
        if ("Traceback" in err or process.returncode < 0) and str(ROOT) not in err:
            continue  # on a busy machine: Python itself was still starting
        assert "Traceback" not in err and process.returncode in (0, 1, 2, 130), (delay, process.returncode, err)
        if process.returncode == 130:
            assert "interrupted" in err.splitlines()[-1]


def test_an_interrupt_that_a_library_hands_on_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """As pydantic does while it builds its models."""

    def ending(error: Exception) -> Callable[[], int]:
        @guarded
        def main() -> int:
            raise error

        return main

    assert ending(RuntimeError("Error building `literal` serializer:\nKeyboardInterrupt: "))() == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ValueError, match="its own"):
        ending(ValueError("its own"))()


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [("key", "cd" * 12), ("number", "1"), ("started", None), ("beat", "now"), ("beat", 10**400), ("pid", "x"),
     ("space", None), ("born", 7)],
)  # fmt: skip
def test_a_lease_with_a_wrong_field_stops_nobody(name: str, value: Any, released: bool) -> None:
    store = planned_store()
    held = {**holder("a run"), "key": KEY, "number": 1, "started": 1.0, "beat": time.time(), "step": 3, "steps": 9}
    store.write_lease(KEY, 1, {**held, "released": released})
    assert store.lease(KEY, 1)["run"] == "a run"
    store.write_lease(KEY, 1, {**held, "released": released, name: value})
    assert_nobody_holds(store)


@pytest.mark.parametrize("name", ["key", "number", "started", "beat", "pid", "space", "step", "steps"])
def test_a_lease_that_lacks_a_field_stops_nobody(name: str) -> None:
    store = planned_store()
    held = {**holder("a run"), "key": KEY, "number": 1, "started": 1.0, "beat": time.time(), "step": 3, "steps": 9}
    store.write_lease(KEY, 1, {field: value for field, value in held.items() if field != name})
    assert_nobody_holds(store)


@pytest.mark.parametrize("text", ['{"x": 1}', "{}", "[]", "{", '{"released": 1}'])
def test_what_is_no_lease_stops_nobody(text: str) -> None:
    store = planned_store()
    path = Path("../runs/leases") / KEY / "000001.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert_nobody_holds(store)


def planned_store() -> Store:
    """A store at ../runs whose plan holds one stage, not finished."""
    store = open_store("../runs", create=True)
    store.save_plan(records.plan("mine", PLAN, stages={KEY: records.stage(KEY, fingerprint="")}))
    return store


def assert_nobody_holds(store: Store) -> None:
    """The stage's lease reads as none for all who look, and its number stays taken."""
    assert store.lease(KEY, 1) == {} == store.leases()
    assert Watch(60).dead(store.leases().values()) == {} and find(store).live == ()
    assert plan_state(store, store.load_plan("mine"))["stages"]["running"] == 0
    lease = acquire(store, KEY, holder("another"))
    assert lease is not None and lease.number == 2
