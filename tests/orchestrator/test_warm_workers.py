"""Workers stay: short packs run on as many processes as there are CPUs, from beginning to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.record.store import open_store

ROOT = Path(__file__).parents[2]
CELLS = 400


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) != 2, reason="counts the workers of a machine with two CPUs")
def test_both_workers_come_up_and_stay(tmp_path: Path) -> None:
    """Packs of eight cells take some 50 ms each, a new process seconds: where Tune ends one that starts, as a worker
    that has become free is given to the pack that it starts for, one worker alone does all of them."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--one", "ours", "--pack", "8"]
    command += ["--cells", str(CELLS), "--folder", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["cells"] == CELLS + 4
    store = open_store(str(tmp_path / "store"))
    commits = sorted(store.commits(store.finished()).values(), key=lambda record: record["finished"])
    later = [record["facts"]["process"] for record in commits[CELLS // 2 :]]
    assert len({record["facts"]["process"] for record in commits}) == 2
    assert min(map(later.count, set(later))) > len(later) / 4
