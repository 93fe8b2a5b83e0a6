"""What the README says of one changed line: BYOL on the U-Net of paper 1, SimCLR on the ResNet-50 of paper 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.grid.load import SPACES
from orchestrator.record.store import open_store
from tests.orchestrator.made_up import planned

ROOT = Path(__file__).resolve().parents[2]
GRID = SPACES / "grids" / "p1-table2.yaml"
LITTLE = ["pretrain.steps=2", "pretrain.batch=4", "finetune.steps=2", "finetune.batch=4", "datasets.shapes.count=40"]
CASES = {"byol": ("byol", "conrec-unet"), "resnet50": ("simclr", "resnet50-unet")}


def shown() -> list[str]:
    """The lines of the README without their comments: the one of the grid, then its replacements."""
    block = (ROOT / "README.md").read_text().partition("**Across the papers.**")[2].split("```")[1]
    return [re.sub(r"\s+#.*", "", line) for line in block.splitlines()[1:]]


@pytest.fixture(params=CASES)
def changed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, tuple[str, str]]:
    """P1 Table 2 with one line replaced, and the method and network that the row then has."""
    old, *replacements = shown()
    new = replacements[list(CASES).index(request.param)]
    text = GRID.read_text()
    assert text.count(f"{old}\n") == 1
    path = tmp_path / "p1-table2.yaml"
    path.write_text(text.replace(old, new))
    return path, CASES[request.param]


def test_one_line_changes_one_row_and_nothing_else(changed: tuple[Path, tuple[str, str]]) -> None:
    path, (method, network) = changed
    usual, mine = planned("p1-table2"), planned(str(path))
    assert len(usual.cells) == len(mine.cells) == 108
    differ = [(a, b) for a, b in zip(usual.cells, mine.cells, strict=True) if a.key != b.key]
    assert len(differ) == 18 and {b.scenario for _, b in differ} == {"cls-enc"}
    fresh = [stage for key, stage in mine.stages.items() if stage.kind == "pretrain" and key not in usual.stages]
    assert [(s.spec["pretext"]["method"], s.spec["network"]["name"]) for s in fresh] == [(method, network)] * 2


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_the_changed_row_runs(changed: tuple[Path, tuple[str, str]], tmp_path: Path) -> None:
    path, (method, network) = changed
    store = tmp_path / "runs"
    command = [sys.executable, "-m", "orchestrator.run_grid", str(path), "--profile", "smoke", "--executor", "inline"]
    command += ["--store", str(store), "--json", *(word for dial in LITTLE for word in ("--set", dial))]
    command += ["--only", "scenario=cls-enc", "--only", "seed=0", "--only", "fraction=0.2", "--only", "dataset=pets"]
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    totals: dict[str, Any] = json.loads(done.stdout)
    assert {kind: n for kind, n in totals["executed"].items() if n} == {"pretrain": 1, "finetune": 1}
    opened = open_store(str(store))
    records = {record["kind"]: record for record in opened.commits(opened.finished()).values()}
    spec = records["pretrain"]["spec"]
    assert (spec["pretext"]["method"], spec["network"]["name"]) == (method, network)
    assert records["finetune"]["facts"]["transferred"] > 50  # the tensors of the encoder
