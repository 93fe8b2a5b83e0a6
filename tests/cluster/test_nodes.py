"""Grids on a real Ray of two nodes on this machine: a node is lost, a store is not seen, memory is used up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.record.store import Store, open_store
from tests.chaos.processes import descendants
from tests.cluster.ray_nodes import Cluster, kill_all

pytestmark = [
    pytest.mark.durable,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc"),
]
ROOT = Path(__file__).resolve().parents[2]
GRID = ROOT / "tests" / "chaos" / "grid.yaml"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.stop()


def command(store: Path, *more: str) -> list[str]:
    few = ["--only", "seed=0"]  # 8 cells on 2 pretrainings
    return [sys.executable, "-m", "orchestrator.run_grid", str(GRID), "--store", str(store), "--json", *few, *more]


def metrics(store: Store) -> dict[str, Any]:
    return {key: record["metrics"] for key, record in store.commits(store.finished()).items()}


def test_a_lost_node_is_not_the_cells_fault(tmp_path: Path, cluster: Cluster) -> None:
    node = cluster.join(cpus=2)
    subprocess.run(
        command(tmp_path / "inline", "--executor", "inline"),
        cwd=ROOT, env=cluster.environment, check=True, capture_output=True,
    )  # fmt: skip
    process = subprocess.Popen(
        command(tmp_path / "runs", "--address", cluster.address, "--set", "run.max_failures=0"),
        cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    store = open_store(str(tmp_path / "runs"), create=True)
    deadline = time.monotonic() + 120
    on_node: list[dict[str, Any]] = []
    while not on_node and process.poll() is None and time.monotonic() < deadline:
        there = {p.pid for p in descendants(node.pid)}
        beats = store.leases().values()
        on_node = [b for b in beats if b.get("step", 0) > 3 and not b.get("released") and b["pid"] in there]
        time.sleep(0.05)
    if not on_node:
        process.kill()
    assert on_node, process.communicate()[1]
    kill_all(node.pid, first="ray::")  # its workers first, as when a machine is shut down
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    totals = json.loads(stdout)
    assert (totals["succeeded"], totals["failed"], totals["blocked"]) == (10, 0, 0)
    lost = [line for line in stderr.splitlines() if "preempted: node " in line]
    assert lost and all(line.endswith("died; tried again") for line in lost), stderr
    assert metrics(store) == metrics(open_store(str(tmp_path / "inline")))
    assert not store.failures(store.finished())


def test_a_worker_killed_for_the_nodes_memory_is_tried_alone_and_counts_as_memory(tmp_path: Path) -> None:
    from ray._private.utils import get_system_memory, get_used_memory

    # Enough for Ray and all usual workers; the greedy network, of some 5 GB, comes on top.
    threshold = (get_used_memory() + 5e9) / get_system_memory()
    if threshold > 0.9:
        pytest.skip("not enough free memory on this machine")
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    kept |= {"OMP_NUM_THREADS": "1", "RAY_memory_usage_threshold": f"{threshold:.3f}"}
    small = ["--only", "fraction=0.2", "--set", "pretrain.steps=6", "--set", "finetune.steps=4"]
    greedy = ["--set", "rows.0.network.width=400", "--set", "run.max_failures=0"]
    done = subprocess.run(
        command(tmp_path / "runs", *small, *greedy), cwd=ROOT, env=kept, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    totals = json.loads(done.stdout)
    assert (totals["succeeded"], totals["failed"], totals["blocked"]) == (5, 1, 0), done.stderr
    store = open_store(str(tmp_path / "runs"))
    [failed] = store.failures(store.load_plan("chaos")["stages"]).values()
    assert failed["cause"] == "memory" and "memory of node" in failed["error"]
    assert failed["labels"]["scenario"] == "random-init"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a node its own view of the disk")
def test_a_node_that_does_not_see_the_store_is_named_before_anything_runs(tmp_path: Path, cluster: Cluster) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for more in ("true", 'mkdir "$0/runs"'):  # nothing there; and another folder of the same name
        script = f'mount -t tmpfs none "$0" && {more} && exec "$@"'
        cluster.join(cpus=1, within=("unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(hidden)))
    done = subprocess.run(
        command(hidden / "runs", "--address", cluster.address),
        cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    faults = [line for line in done.stderr.splitlines() if "does not see the store" in line]
    assert len(faults) == 2 and all(str(hidden / "runs") in line and "s3://" in line for line in faults), done.stderr
    assert sum("there is no such folder" in line for line in faults) == 1
    store = open_store(str(hidden / "runs"))
    assert not store.finished() and not store.leases() and not store.grids()
    assert not list((hidden / "runs").rglob("mark"))  # the probe leaves nothing


def test_a_sound_cluster_passes_and_a_wrong_token_is_one_line(tmp_path: Path, cluster: Cluster) -> None:
    wrong = cluster.folder / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("0" * 32)
    ask = command(tmp_path / "runs", "--address", cluster.address, "--only", "scenario=random-init")
    ask += ["--only", "fraction=0.2", "--set", "finetune.steps=2"]
    refused = subprocess.run(
        ask, cwd=ROOT, env=cluster.environment | {"RAY_AUTH_TOKEN_PATH": str(wrong)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused.stderr
    assert [line for line in refused.stderr.splitlines() if line.startswith("error: ")], refused.stderr
    done = subprocess.run(ask, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 1
