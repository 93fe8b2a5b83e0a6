"""The store on a local folder, under hostile names, and where nothing can be written."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.record.garbage import MARGIN_SECONDS, find, sweep
from orchestrator.record.leases import acquire, holder
from orchestrator.record.store import Item, Store, StoreError, open_store
from tests.contracts import records
from tests.contracts.store_contract import ROOT, StoreContract


class TestFolder(StoreContract):
    orders = 120

    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return str(tmp_path / "runs")


class TestFolderWithAHostileName(StoreContract):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return str(tmp_path / "läufe & 'co' #1 100% [x]?" / "ünter ordner")


class TestFileUrl(StoreContract):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return (tmp_path / "räy runs 100%").as_uri()

    def test_it_is_the_folder(self, store: Store, tmp_path: Path) -> None:
        store.commit({"key": "a"})
        folder = open_store(str(tmp_path / "räy runs 100%"))
        assert folder.finished() == {"a"} and store.folder == folder.folder


def refusal(uri: str) -> str:
    """What a start on this address says: it opens the store, then probes it."""
    with pytest.raises(StoreError) as caught:
        open_store(uri, create=True).probe("start")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("store ")
    return str(caught.value)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert f"store {file}: {file} is a file; expected a folder" == refusal(str(file))
    assert f"store {file}/below: cannot make or open it: " in refusal(f"{file}/below")
    assert "store /proc: cannot write probes/start: " in refusal("/proc")
    assert "store /proc/runs: cannot make or open it: " in refusal("/proc/runs")
    assert "File name too long" in refusal("x" * 300)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "expected a path, or file:// and an absolute path"),
        ("file://runs/here", "expected a path, or file:// and an absolute path"),
        ("~nobody-of-this-name/runs", "cannot make or open it"),
        ("ftp://host/runs", "expected a path or a URL of s3, gs, az"),
        ("memory://", "expected a path or a URL of s3, gs, az"),
    ],
)
def test_addresses_that_are_none(uri: str, says: str) -> None:
    assert says in refusal(uri)


def test_an_absent_folder_is_an_empty_store_that_refuses_to_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "not there"
    store = open_store(str(folder))
    assert (store.finished(), store.grids(), store.leases(), store.checkpoint("a")) == (set(), [], {}, None)
    with pytest.raises(StoreError, match="no plan of grid 'smoke'"):
        store.load_plan("smoke")
    for write in (
        lambda: store.commit({"key": "a"}),
        lambda: store.save_checkpoint("a", 1, b""),
        lambda: store.probe("x"),
    ):
        with pytest.raises(StoreError, match=f"cannot write .*{folder} did not exist"):
            write()
    assert not folder.exists()
    open_store(str(folder), create=True)
    with pytest.raises(StoreError, match="did not exist when it was opened"):
        store.commit({"key": "a"})  # never into memory only


def test_a_folder_that_vanishes_is_not_made_anew(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "runs"), create=True)
    (tmp_path / "runs").rmdir()
    with pytest.raises(StoreError, match="does not exist"):
        store.commit({"key": "a"})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", [b"", b'{"key": "a"', b"[1, 2]", b"null", b"\xff\xfe"])
@pytest.mark.parametrize("kind", ["commits", "failures", "plans/smoke"])
def test_a_damaged_record_is_named(tmp_path: Path, kind: str, content: bytes) -> None:
    store = open_store(str(tmp_path), create=True)
    path = tmp_path / kind / "a.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    read = {
        "commits": lambda: store.commits(["a"]),
        "failures": lambda: store.failures(["a"]),
        "plans/smoke": lambda: store.load_plan("smoke"),
    }[kind]
    with pytest.raises(StoreError) as caught:
        read()
    text = str(caught.value)
    assert text.startswith(f"store {tmp_path}: {kind}/a.json ") and text.endswith("; move it away and run again")


def test_foreign_files_do_not_disturb(tmp_path: Path) -> None:
    """Among them those under which NFS keeps a file for a while that was replaced while somebody read it."""
    store = open_store(str(tmp_path), create=True)
    store.commit({"key": "a"})
    store.save_plan({"grid": "smoke", "plan": "id1"})
    store.save_checkpoint("b", 1, b"state")
    lease = acquire(store, "b", holder("one"))
    for name in ("commits/.DS_Store", "commits/b.json.tmp", "plans/.DS_Store", "plans/smoke/.DS_Store", "plans/x.json",
                 "commits/.nfs000000000162e1f700000001", "leases/.DS_Store", "leases/b/.nfs000000000162e1f700000002",
                 "leases/b/x.json", "checkpoints/b/.nfs000000000162e1f700000003", "checkpoints/b/best.pt"):  # fmt: skip
        (tmp_path / name).write_bytes(b"?")
    assert (store.finished(), store.grids(), store.plans("smoke")) == ({"a"}, ["smoke"], ["id1"])
    assert lease is not None and store.leases().keys() == {"b"} and store.checkpoint("b") == b"state"
    lease.renew(1, 2)
    lease.end()
    store.drop_checkpoints("b")
    assert store.leases() == {} and (tmp_path / "checkpoints" / "b" / "best.pt").exists()


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    """Not taken for a commit that another run has made."""
    store = open_store(str(tmp_path), create=True)
    (tmp_path / "commits").write_bytes(b"")
    with pytest.raises(StoreError, match=f"^store {tmp_path}: cannot write commits/a.json: "):
        store.commit({"key": "a"})


def test_half_a_file_is_not_seen_and_gc_finds_it(tmp_path: Path) -> None:
    """A process killed while a part of a large file is on the disk."""
    store, key, size = open_store(str(tmp_path), create=True), "a" * 24, 200_000_000
    store.save_plan(records.plan("smoke", "id1", stages={key: records.stage(key)}))
    code = "import sys; from orchestrator.record.store import open_store; store = open_store(sys.argv[1])\n"
    code += f"store.put_artifact('{key}', 'one', 'weights', b'x' * {size})"
    parts: list[Item] = []
    while not parts:  # again where it was whole before the kill came
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
        while process.poll() is None and not any(item.size for item in store.half_written()):
            pass
        process.kill()
        process.wait()
        parts = store.half_written()
    assert len(parts) == 1 and 0 < parts[0].size <= size
    assert [item.size for item in store.items("artifacts")] in ([], [size])  # whole, if it was not the first
    later = time.time() + 2 * MARGIN_SECONDS
    assert [p.items for p in find(store, now=later).pieces if p.reason == "half-written"] == [tuple(parts)]
    list(sweep(store, find(store, now=later)))
    assert store.half_written() == [] == store.items("artifacts")


def test_a_commit_on_disk_is_plain_json(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    store.commit({"key": "a", "name": "é"})
    assert json.loads((tmp_path / "commits" / "a.json").read_text(encoding="utf-8")) == {"key": "a", "name": "é"}
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "a.json"]  # no temporary file stays
