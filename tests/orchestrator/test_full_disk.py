"""A store of 50 MB that fills up in mid-run: one message, exit 1, nothing corrupted; with room again, it goes on."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load

from orchestrator.collect import main as collect
from orchestrator.record.store import Store, open_store
from tests.orchestrator.test_run import ROOT, command, environment, metrics

pytestmark = pytest.mark.durable
RUN = ["--only", "seed=0", "--set", "pretrain.steps=60", "--set", "run.checkpoint_seconds=0.2"]
BLOCK = 64 * 1024
MOST = 60 * 2**20  # never fill more than the small disk, whatever becomes of its mount


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mount.stderr.strip() or 'not permitted'}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "runs"
    subprocess.run(command(folder, *RUN, "--executor", "inline"), cwd=ROOT, env=environment(folder.parent), check=True)
    return metrics(open_store(str(folder))), table(str(folder), folder.parent)


class Ballast:
    """A file that takes all the room there is, and what gets free later, but `spare` bytes."""

    def __init__(self, folder: Path, spare: int) -> None:
        self._path, self._stop = folder / "ballast", threading.Event()
        self._spare = spare
        self._fill()
        self._thread = threading.Thread(target=self._keep_full, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def remove(self) -> None:
        self.stop()
        self._path.unlink()

    def _fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for size in (BLOCK, 4096, 1):
                try:
                    while file.tell() < MOST and file.write(b"\0" * size) == size:
                        pass
                except OSError:
                    continue
            if self._spare:
                file.truncate(max(0, file.tell() - self._spare))

    def _keep_full(self) -> None:
        while not self._spare and not self._stop.wait(0.02):
            self._fill()


@pytest.mark.parametrize(
    ("executor", "mlflow", "spare"),
    [
        pytest.param("inline", "elsewhere", 0, id="inline-full-to-the-last-byte"),
        pytest.param("inline", "elsewhere", 3 * 4096, id="inline-small-files-still-fit"),
        pytest.param("ray", "in the store", 0, id="ray-with-MLflow-on-the-same-disk"),
    ],
)
def test_a_disk_that_fills_up(
    request: pytest.FixtureRequest,
    disk: Path,
    tmp_path: Path,
    undisturbed: tuple[dict[str, dict], bytes],
    executor: str,
    mlflow: str,
    spare: int,
) -> None:
    folder = disk / "runs"
    more = [*RUN, "--executor", executor]
    if mlflow == "elsewhere":
        more += ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    process = subprocess.Popen(
        command(folder, *more), cwd=ROOT, env=environment(tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    before = wait_for_commits(folder, process, 3)
    ballast = Ballast(disk, spare)
    request.addfinalizer(ballast.stop)  # before the disk is unmounted
    stdout, stderr = process.communicate(timeout=200)
    says = [line for line in stderr.splitlines() if "space" in line.lower() and not line.startswith("warning: MLflow")]
    assert process.returncode == 1, stderr
    assert "Traceback" not in stderr and len(says) == 1, stderr
    assert str(folder) in says[0] and "No space left" in says[0]
    totals = json.loads(stdout)
    assert totals["failed"] == 0 and totals["blocked"] == 0  # nobody's fault
    assert totals["succeeded"] < 10
    check_whole(open_store(str(folder)), before)
    ballast.remove()
    after_room = open_store(str(folder))
    before = after_room.commits(after_room.finished())
    again = subprocess.run(command(folder, *more), cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    totals = json.loads(again.stdout)
    assert totals["reused"] == len(before) and sum(totals["executed"].values()) == 10 - len(before)
    check_whole(after_room, before)
    assert metrics(after_room) == undisturbed[0]
    assert table(str(folder), tmp_path) == undisturbed[1]


def wait_for_commits(folder: Path, process: subprocess.Popen[str], number: int) -> dict[str, dict]:
    deadline = time.time() + 150
    while time.time() < deadline and process.poll() is None:
        store = open_store(str(folder))
        if len(keys := store.finished()) >= number:
            return store.commits(keys)
        time.sleep(0.02)
    raise AssertionError("the run did not come that far")


def check_whole(store: Store, before: dict[str, dict]) -> None:
    """All that was finished stands as it was, and every file that a record names is whole."""
    commits = store.commits(store.finished())
    assert {key: commits.get(key) for key in before} == before
    for record in commits.values():
        json.loads(store.artifact(record["artifacts"]["history"]))
        if "weights" in record["artifacts"]:
            assert load(store.artifact(record["artifacts"]["weights"]))
    store.failures(commits)
    store.load_plan("smoke")


def table(store: str, out: Path) -> bytes:
    """table.csv of a store; MLflow is not asked."""
    assert collect(["smoke", "--store", store, "--out", str(out), "--tracking-uri", f"sqlite:///{out}/none.db"]) == 0
    return (out / "smoke" / "table.csv").read_bytes()
