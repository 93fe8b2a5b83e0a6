"""Data on the nodes of a cluster: decoded once a node, one copy in memory for its workers, and told where they lack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.ray_nodes import Cluster, host_address
from tests.trainables.data_trees import folder_set

ROOT = Path(__file__).resolve().parents[2]
COUNT, SIZE = 64, 128
WORKER = """
import os, sys
from pathlib import Path
from trainables.data import decode, open_dataset
from trainables.data.stack import load_stack
data, cache, log = sys.argv[1:]
read = decode.read_image
def counted(listing, number):
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {number}\\n")
    return read(listing, number)
decode.read_image = counted
listing = open_dataset("folder", data, {"path": "set"}, cache_dir=cache)
print("listed", flush=True)
sys.stdin.readline()
stack = load_stack(listing, range(len(listing.images)), SIZE, masks=True, cache_dir=cache)
print("loaded", int(stack.images.sum()), flush=True)
sys.stdin.readline()
here, kept = False, {}
for line in Path("/proc/self/smaps").read_text().splitlines():
    if "-" in line.split(" ")[0]:
        here = line.endswith("images.npy")
    elif here:
        name, _, value = line.partition(":")
        kept[name] = kept.get(name, 0) + int(value.split()[0]) if value.strip().endswith("kB") else 0
print(kept["Rss"], kept["Private_Dirty"] + kept["Private_Clean"], flush=True)
""".replace("SIZE", str(SIZE))
GRID = """
grid: own
title: One cell on files
profile: smoke
datasets: {mine: {reader: folder, path: set}}
rows: [{scenario: random-init, model: Random}]
columns: [{dataset: mine, pretext_data: mine, fractions: [0.2]}]
seeds: [0]
stand_ins: {mine: mine}
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc/self/smaps")
def test_the_workers_of_a_node_decode_each_picture_once_and_share_its_memory(tmp_path: Path) -> None:
    folder_set(tmp_path / "set", count=COUNT)
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(tmp_path / "cache"), str(tmp_path / "log")]
    workers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [read(worker) for worker in workers] == ["listed", "listed"]
    for worker in workers:
        tell(worker)
    sums = {read(worker) for worker in workers}
    assert len(sums) == 1 and sums.pop().startswith("loaded")
    for worker in workers:
        tell(worker)
    pages = [list(map(int, read(worker).split())) for worker in workers]
    assert [worker.wait(60) for worker in workers] == [0, 0]

    decoded = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(int(number) for _, number in decoded) == list(range(COUNT))  # by both together, each picture once
    whole = COUNT * 3 * SIZE * SIZE / 1024
    for resident, private in pages:
        assert resident >= 0.95 * whole and private <= 0.05 * whole


def read(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def tell(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


@pytest.mark.durable
@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs root to give a node its own disk")
def test_a_node_without_the_data_is_told_with_the_path_before_anything_runs(tmp_path: Path) -> None:
    cluster = Cluster()
    try:
        data = folder_set(tmp_path / "data" / "set", count=20).parent
        (tmp_path / "own.yaml").write_text(GRID)
        hide = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
        cluster.join(cpus=1, within=(*hide, str(data / "set" / "images")))
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.run_grid", str(tmp_path / "own.yaml"), "--data-root", str(data),
             "--store", str(tmp_path / "runs"), "--address", cluster.address],
            cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
    finally:
        cluster.stop()
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    [fault] = [line for line in done.stderr.splitlines() if " has no " in line]
    assert str(data / "set" / "images") in fault and f"({host_address()})" in fault, fault
    assert not list((tmp_path / "runs").glob("commits/*"))
