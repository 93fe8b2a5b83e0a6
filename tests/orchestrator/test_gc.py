"""What gc shows and removes, and above all what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from orchestrator import collect, gc, run_grid
from orchestrator.gc import size_text
from orchestrator.record.backend import Backend
from orchestrator.record.garbage import Garbage, find, sweep
from orchestrator.record.leases import acquire, holder
from orchestrator.record.store import Store, StoreError, open_store
from tests.contracts import records
from tests.orchestrator.made_up import GRID, write_grid
from tests.orchestrator.test_run import executed

TINY = ["--set", "pretrain.steps=2", "--set", "network.width=4", "--set", "datasets.shapes.count=40"]
TINY += ["--set", "datasets.shapes.size=32", "--only", "seed=0", "--only", "fraction=0.2", "--executor", "inline"]
LATER = 2 * 3600.0
PARENT, CELL, OLD, NEW = (digit * 24 for digit in "abcd")


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store on a local disk, and one on a backend without folders, as an object store is."""
    if request.param == "folder":
        return open_store(str(tmp_path / "räy runs"), create=True)
    return Store(Backend("memory://", MemoryStore(), None))


def stage(key: str, **parents: str) -> dict[str, Any]:
    kind = "finetune" if parents else "pretrain"
    return records.stage(key, kind=kind, name=f"stage {key[0]}", parents=parents)


def plan(store: Store, number: int, *keys: str, grid: str = "mine") -> None:
    store.save_plan(records.plan(grid, f"2026112{number}", stages={key: stage(key) for key in keys}))


def finish(store: Store, key: str, attempt: str = "one", **parents: str) -> list[str]:
    """Commit a stage; the paths of its commit and artifacts."""
    names = {name: store.put_artifact(key, attempt, name, b"x" * 700) for name in ("weights", "history")}
    store.commit({**records.commit(key, artifacts=names), **stage(key, **parents)})
    return [f"commits/{key}.json", *names.values()]


def beats(store: Store, key: str, **how: Any) -> None:
    lease = acquire(store, key, {**holder("a run"), "kind": "pretrain", "name": "x", **how})
    assert lease is not None


def paths(store: Store) -> set[str]:
    kinds = ("artifacts", "checkpoints", "leases", "ended", "failures", "commits", "plans", "probes")
    return {item.path for kind in kinds for item in store.items(kind)}


def shown(garbage: Garbage) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for piece in garbage.pieces:
        found.setdefault(piece.reason, set()).update(item.path for item in piece.items)
    return found


def removed(store: Store, **how: Any) -> set[str]:
    """What gc removes; checks that it is just what it shows, and that a second time there is nothing."""
    before, garbage = paths(store), find(store, **how)
    assert paths(store) == before
    gone = list(sweep(store, garbage))
    assert gone == list(garbage.pieces)
    left = before - paths(store)
    assert left == {path for part in shown(garbage).values() for path in part}
    assert find(store, **how).pieces == ()
    return left


def test_all_of_a_stage_that_no_plan_reaches_goes_and_nothing_else(store: Store) -> None:
    plan(store, 1, CELL)
    kept = [*finish(store, CELL, pretrain=PARENT), *finish(store, PARENT)]  # a parent, although no plan lists it
    store.fail({"key": CELL, "error": "an earlier one"})
    dropped = finish(store, OLD, pretrain=PARENT)
    store.fail({"key": OLD, "error": "x"})
    store.save_checkpoint(OLD, 1, b"state")
    store.fail({"key": NEW, "error": "x"})
    store.write_lease(NEW, 1, {"key": NEW, "number": 1, "released": True, "beat": time.time()})
    expected = {*dropped, f"failures/{OLD}.json", f"checkpoints/{OLD}/000001.pt"}
    expected |= {f"failures/{NEW}.json", f"leases/{NEW}/000001.json"}
    assert shown(find(store)) == {"unreached": expected}
    assert removed(store) == expected
    assert paths(store) == {*kept, f"failures/{CELL}.json", "plans/mine/20261121.json"}
    if store.folder is not None:  # no empty folders stay
        assert not [p for p in store.folder.glob("*/*") if p.is_dir() and not any(p.iterdir())]


def test_a_commit_goes_before_the_files_it_names(store: Store) -> None:
    plan(store, 1, CELL)
    finish(store, OLD)
    (piece,) = find(store).pieces
    assert piece.items[0].path == f"commits/{OLD}.json" and piece.size > 1400 and piece.name == "pretrain stage c"


def test_unfinished_work_of_a_plan_stays(store: Store) -> None:
    plan(store, 1, CELL, PARENT)
    store.save_checkpoint(CELL, 1, b"state")
    store.write_lease(CELL, 1, {"key": CELL, "number": 1, "beat": 0.0})  # dead for long; its number is taken
    store.fail({"key": PARENT, "error": "x"})
    assert find(store, now=time.time() + LATER).pieces == ()


def test_leftovers_of_finished_stages(store: Store) -> None:
    plan(store, 1, CELL, PARENT)
    finish(store, CELL)
    finish(store, PARENT)
    for number in (1, 2, 3):  # killed between its commit and clearing up; the last number stays taken
        store.save_checkpoint(CELL, number, b"state")
        store.write_lease(CELL, number, {"key": CELL, "number": number, "beat": 0.0})
    store.save_checkpoint(PARENT, 1, b"state")
    beats(store, PARENT)  # its worker has committed, and is about to clear up itself
    assert find(store).live == (PARENT,)
    names = {f"checkpoints/{CELL}/00000{number}.pt" for number in (1, 2, 3)}
    assert removed(store) == names | {f"leases/{CELL}/000001.json", f"leases/{CELL}/000002.json"}
    assert store.latest_lease(CELL) == (3, False)


def test_what_a_sleeper_writes_after_the_end(store: Store) -> None:
    plan(store, 1, CELL)
    beats(store, CELL)
    taker = acquire(store, CELL, holder("another run"), over=1)
    assert taker is not None
    kept = finish(store, CELL)
    taker.end()
    store.drop_checkpoints(CELL)
    assert find(store).pieces == ()
    now = {**holder("a run"), "key": CELL, "beat": time.time()}
    for number in (1, 2):  # a beat of the taker's own thread may come late too
        store.save_checkpoint(CELL, number, b"state")
        store.write_lease(CELL, number, {**now, "number": number})
    assert find(store).live == ()
    late = {f"checkpoints/{CELL}/00000{number}.pt" for number in (1, 2)}
    assert removed(store) == late | {f"leases/{CELL}/00000{number}.json" for number in (1, 2)}
    assert paths(store) == {*kept, "plans/mine/20261121.json", f"ended/{CELL}/000002"}


def test_an_end_goes_with_its_stage(store: Store) -> None:
    plan(store, 1, CELL)
    beats(store, OLD)
    gone = {*finish(store, OLD), f"ended/{OLD}/000001"}
    store.end_leases(OLD, 1)
    assert removed(store) == gone


def test_attempts_that_no_commit_names(store: Store) -> None:
    plan(store, 1, CELL, PARENT)
    finish(store, CELL, "winner")
    orphan = {store.put_artifact(key, "loser", "weights", b"1234") for key in (CELL, PARENT, OLD)}
    young = find(store)
    assert young.pieces == ()  # somebody may be about to commit it
    assert set(young.young) == {f"artifacts/{key}/loser" for key in (CELL, PARENT, OLD)}
    assert shown(find(store, now=time.time() + LATER)) == {"attempt": orphan}
    assert removed(store, now=time.time() + LATER) == orphan
    assert set(store.commits([CELL])[CELL]["artifacts"].values()) <= paths(store)


def test_a_live_lease_spares_all_of_its_stage(store: Store) -> None:
    plan(store, 1, CELL)
    finish(store, OLD)
    store.put_artifact(OLD, "another", "weights", b"1234")
    store.save_checkpoint(OLD, 1, b"state")
    beats(store, OLD)
    found = find(store)
    assert (found.pieces, found.live) == ((), (OLD,))
    there = find(store, now=time.time() + LATER)  # two hours without a beat
    assert shown(there)["unreached"] >= {f"commits/{OLD}.json", f"checkpoints/{OLD}/000001.pt"}
    before = paths(store)
    assert list(sweep(store, there)) == [] and paths(store) == before  # but it does beat


@pytest.mark.parametrize(
    ("lease", "live"),
    [
        ({}, True),
        ({"released": True}, False),
        ({"beat": time.time() - LATER}, False),
        ({"space": "another host", "born": "?"}, True),
        ({"space": "another host", "born": "?", "beat": time.time() - LATER}, False),
        ({"born": "an earlier process of this number"}, False),
    ],
)
def test_which_leases_are_alive(tmp_path: Path, lease: dict[str, Any], live: bool) -> None:
    store = open_store(str(tmp_path), create=True)
    plan(store, 1, CELL)
    held = {"key": OLD, "number": 1, "started": time.time(), "step": 3, "steps": 9, "beat": time.time()}
    store.write_lease(OLD, 1, {**held, **holder("a run"), **lease})
    found = find(store)
    assert (found.live == (OLD,), found.pieces == ()) == (live, live)


def test_only_the_newest_plans_count_and_those_that_run(store: Store) -> None:
    for number, key in enumerate((PARENT, CELL, OLD)):
        plan(store, number, key)
        finish(store, key)
    plan(store, 0, NEW, grid="another")
    assert find(store).pieces == ()
    assert shown(find(store, keep_plans=2)) == {
        "unreached": {f"commits/{PARENT}.json", *(f"artifacts/{PARENT}/one/{n}" for n in ("weights", "history"))},
        "plan": {"plans/mine/20261120.json"},
    }
    store.save_checkpoint(PARENT, 1, b"state")
    plan(store, 0, PARENT, "e" * 24)
    beats(store, "e" * 24)  # a run works at the oldest plan, so its finished parent is in use
    found = shown(find(store, keep_plans=1))
    assert found["plan"] == {"plans/mine/20261121.json"} and f"commits/{CELL}.json" in found["unreached"]
    assert f"commits/{PARENT}.json" not in found["unreached"] and found["finished"] == {
        f"checkpoints/{PARENT}/000001.pt"
    }
    removed(store, keep_plans=1)
    assert store.finished() == {PARENT, OLD} and store.plans("mine") == ["20261120", "20261122"]
    assert store.plans("another") == ["20261120"]


def test_a_plan_that_comes_meanwhile_stops_it(store: Store) -> None:
    plan(store, 1, CELL)
    kept = finish(store, OLD)
    garbage = find(store)
    plan(store, 2, OLD)
    with pytest.raises(StoreError, match="a run has begun meanwhile"):
        list(sweep(store, garbage))
    assert set(kept) <= paths(store)


def test_old_probes_and_half_written_files(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    plan(store, 1, CELL)
    finish(store, CELL)
    names = ["probes/start-1", "probes/start-2", f"checkpoints/{CELL}/000001.pt#1"]
    names += [f"artifacts/{CELL}/dead/weights#12"]
    for name in (*names, f"checkpoints/{CELL}/000001.pt#2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
        if name != "probes/start-2" and not name.endswith("#2"):
            os.utime(tmp_path / name, (time.time() - LATER,) * 2)
    found = shown(find(store))
    assert found == {"probe": {names[0]}, "half-written": set(names[2:])}
    list(sweep(store, find(store)))
    assert sorted(p.name for p in tmp_path.rglob("*") if "#" in p.name or "probes/" in str(p)) == [
        "000001.pt#2", "start-2"
    ]  # fmt: skip
    assert not (tmp_path / "artifacts" / CELL / "dead").exists() and store.finished() == {CELL}


def test_what_the_store_has_not_made_is_not_its_to_remove(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    plan(store, 1, CELL)
    for name in ("commits/notes.json", "commits/.DS_Store", f"commits/{OLD}.json.bak", "artifacts/mine/one/x",
                 "checkpoints/best.pt", "leases/x/1.json", "mlflow.db", "mlartifacts/1/weights"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
        os.utime(tmp_path / name, (0, 0))
    assert find(store).pieces == ()


def told(capfd: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> tuple[str, str]:
    capfd.readouterr()
    assert gc.main(list(argv)) == code
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return out, err


def test_requests_that_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path / "runs"), create=True)
    kept = finish(store, OLD)
    for place in (store.uri, str(tmp_path / "nowhere")):
        says = f"error: store {place} holds no plan, so nothing tells what is in use; run a grid first\n"
        assert told(capfd, "--store", place, "--delete", code=2) == ("", says)
    plan(store, 1, CELL)
    damaged = tmp_path / "runs" / "plans" / "mine" / "20261120.json"
    for content, says in (("{", "is not valid JSON"), ("{}", "is damaged or was tampered with")):
        damaged.write_text(content)
        for more in ([], ["--keep-plans", "1"]):
            out, err = told(capfd, "--store", store.uri, "--delete", *more, code=2)
            assert out == "" and err.count("\n") == 1 and f"plans/mine/20261120.json {says}" in err
    assert set(kept) <= paths(store) and not (tmp_path / "nowhere").exists()
    for argv in (["--keep-plans", "0"], ["--everything"]):
        with pytest.raises(SystemExit) as caught:
            gc.main(argv)
        assert caught.value.code == 2


def test_what_fails_to_go_stops_it_with_one_message(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    plan(store, 1, CELL)
    kept = finish(store, OLD)[1:]
    garbage = find(store)
    (tmp_path / "commits" / f"{OLD}.json").unlink()
    (tmp_path / "commits" / f"{OLD}.json").mkdir()
    with pytest.raises(StoreError, match=f"cannot delete commits/{OLD}.json: ") as caught:
        list(sweep(store, garbage))
    assert "\n" not in str(caught.value) and set(kept) <= paths(store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may delete anything")
def test_a_store_that_does_not_delete(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path / "runs"), create=True)
    plan(store, 1, CELL)
    finish(store, OLD)
    (tmp_path / "runs" / "commits").chmod(0o500)
    try:
        out, err = told(capfd, "--store", store.uri, "--delete", "--json", code=1)
    finally:
        (tmp_path / "runs" / "commits").chmod(0o700)
    assert f"cannot delete commits/{OLD}.json" in err and json.loads(out)["deleted"]["files"] == 0


def tables(out: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (out / "mine").iterdir()}


def test_around_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Two plans of a grid; the older one's stages go, the newer one's table and its stages stay as they are."""
    for name in ("MLFLOW_TRACKING_URI", "TRANSFERGRID_DATA", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    grid = write_grid(tmp_path, GRID)

    def run(steps: int) -> dict[str, Any]:
        capfd.readouterr()
        assert run_grid.main([grid, *TINY, "--set", f"finetune.steps={steps}", "--json"]) == 0
        return dict(json.loads(capfd.readouterr().out))

    first, second = run(3), run(2)
    assert (executed(first), executed(second)) == ({"pretrain": 1, "finetune": 2}, {"finetune": 2})
    assert collect.main([grid, "--out", "before"]) == 0
    store = open_store("runs")
    newer = store.load_plan("mine", second["plan"])["stages"].keys()
    older = store.finished() - newer
    orphan = Path(store.put_artifact(min(newer), "killed", "weights.safetensors", b"x" * 5000))
    os.utime(tmp_path / "runs" / orphan, (time.time() - LATER,) * 2)
    before = paths(store)

    argv = ["--keep-plans", "1", "--json"]
    dry = json.loads(told(capfd, *argv)[0])
    assert paths(store) == before and dry["deleted"] == {"pieces": 0, "files": 0, "bytes": 0}
    by_reason = {reason: counts["pieces"] for reason, counts in dry["garbage"].items() if counts["pieces"]}
    assert by_reason == {"unreached": 2, "attempt": 1, "plan": 1}
    assert {piece["key"] for piece in dry["pieces"] if piece["reason"] == "unreached"} == older and len(older) == 2
    sizes = [(tmp_path / "runs" / name).stat().st_size for piece in dry["pieces"] for name in piece["files"]]
    assert dry["total"] == {"pieces": 4, "files": len(sizes), "bytes": sum(sizes)}
    text = told(capfd, "--keep-plans", "1")[0]
    assert "1 of 2 plans count" in text and "attempts that no commit names: 1, 5 kB in 1 file\n" in text
    assert text.endswith("nothing was deleted; --delete does it\n") and all(key in text for key in older)

    done = json.loads(told(capfd, *argv, "--delete")[0])
    assert done["deleted"] == done["total"] == dry["total"] and done["error"] is None
    assert before - paths(store) == {name for piece in dry["pieces"] for name in piece["files"]}
    assert store.finished() == newer and store.plans("mine") == [second["plan"]]
    assert not (tmp_path / "runs" / orphan.parent).exists()
    assert collect.main([grid, "--out", "after"]) == 0
    assert tables(tmp_path / "after") == tables(tmp_path / "before")
    again = run(2)
    assert executed(again) == {} and again["reused"] == 3
    assert "nothing to remove" in told(capfd)[0]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (3449, "3.45 kB"), (999_499, "999 kB"), (999_500, "1 MB"),
     (123_456_789, "123 MB"), (5_000_000_000, "5 GB"), (7_200_000_000_000, "7.2 TB")],
)  # fmt: skip
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_folders_that_vanish_while_it_looks_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases end while runs go on, and their folders with them."""
    store = open_store(str(tmp_path / "runs"), create=True)
    for key in (CELL, OLD, NEW):
        beats(store, key)
    half = f"leases/{CELL}/000001.json#12"
    (tmp_path / "runs" / half).write_bytes(b"123")
    listed = os.scandir

    def scandir(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(path).name in (OLD, NEW):  # a number: of rmtree itself
            shutil.rmtree(path, ignore_errors=True)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [item.path for item in store.half_written()] == [half]
    assert not (tmp_path / "runs" / "leases" / OLD).exists()
