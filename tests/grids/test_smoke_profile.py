"""Every built-in grid from end to end with `--profile smoke`: synthetic images, through Ray, one store for all.

The grids are those of the folder, so that a new one is run here without being named. Of data there is nothing but files
of weights, made up in torchvision's naming.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18, resnet50

from orchestrator import collect
from orchestrator.grid.load import builtin_grids
from orchestrator.record.store import Store, open_store
from orchestrator.results.cells import tidy
from orchestrator.results.layout import arrange
from orchestrator.results.references import load
from orchestrator.results.table import summarise
from tests.grids.learned import learned

ROOT = Path(__file__).resolve().parents[2]
GRIDS = builtin_grids()
FAMILIES = sorted({grid.partition("-")[0] for grid in GRIDS})  # p1, p2, smoke
# At this size these learn nothing that shows on other images; the profile mini is where they must.
TOO_SHORT = {
    "simclr": "forty batches of 16 leave the contrast at that of a guess",
    "dog-breeds": "a hundred pictures of three textures are learnt by heart",
}
# Rows and columns that the papers print.
LAYOUTS = {
    "p1-table2": (6, 6), "p1-table3": (3, 2), "p1-table4": (12, 2), "p1-table5": (7, 2), "p1-table6": (2, 6),
    "p2-table2": (8, 1), "p2-table3": (8, 1), "p2-table4": (7, 1), "p2-table5": (6, 1),
}  # fmt: skip

pytestmark = [pytest.mark.grids, pytest.mark.timeout(3600)]  # of a command for a whole paper


def run(family: str, folder: Path) -> dict[str, Any]:
    """One command for all grids of a paper; its JSON."""
    grids = [grid for grid in GRIDS if grid.partition("-")[0] == family]
    command = [sys.executable, "-m", "orchestrator.run_grid", *grids, "--profile", "smoke", "--json"]
    command += ["--data-root", str(folder / "data"), "--store", str(folder / "runs")]
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(command, cwd=ROOT, env={**kept, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-8000:]
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds data/ with the weights of ImageNet's place, and the store."""
    made = tmp_path_factory.mktemp("grids")
    weights = made / "data" / "weights"
    weights.mkdir(parents=True)
    torch.manual_seed(0)
    for name, network in (("resnet18", resnet18), ("resnet50", resnet50)):
        torch.save(network(weights=None).state_dict(), weights / f"{name}.pth")
    return made


@pytest.fixture(scope="module")
def totals(folder: Path) -> Mapping[str, dict[str, Any]]:
    """What each paper's command said, the grids being run once."""
    found = {family: run(family, folder) for family in FAMILIES}
    for family, total in found.items():
        print(f"{family}: {total['cells']} cells, {total['executed']}, {total['wall_seconds']:.0f} s")
    return found


@pytest.fixture(scope="module")
def store(folder: Path, totals: Mapping[str, dict[str, Any]]) -> Store:
    return open_store(str(folder / "runs"))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_grids_of_a_paper_run_to_their_end(totals: Mapping[str, dict[str, Any]], family: str) -> None:
    total = totals[family]
    assert (total["failed"], total["blocked"]) == (0, 0)
    assert total["succeeded"] > 0


@pytest.mark.parametrize("grid", GRIDS)
def test_no_cell_is_without_a_value(
    store: Store, folder: Path, tmp_path: Path, grid: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--store", str(folder / "runs"), "--out", str(tmp_path), "--json"]
    assert collect.main([grid, *asked]) == 0
    printed = capsys.readouterr()
    counts = json.loads(printed.out)
    assert [counts[state] for state in ("failed", "blocked", "missing")] == [0, 0, 0]
    assert counts["succeeded"] + counts["constant"] == counts["cells"]
    assert counts["warnings"] == []  # each published value has its place, and each place its value
    if counts["cells"]:
        assert store.load_plan(grid)["title"] in printed.err
        with (tmp_path / grid / "table.csv").open(newline="") as file:
            assert all(line["mean"] for line in csv.DictReader(file))


@pytest.mark.parametrize("grid", LAYOUTS)
def test_a_table_has_the_layout_of_the_papers(store: Store, grid: str) -> None:
    plan = store.load_plan(grid)
    commits = store.commits({cell["key"] for cell in plan["cells"] if cell["key"]})
    sheet = arrange(summarise(plan, tidy(plan, commits, {}), load(plan["references"])))
    assert (len(sheet.rows), len(sheet.ours.columns)) == LAYOUTS[grid]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_pretext_ends_better_than_it_began(store: Store, grid: str) -> None:
    stages = store.load_plan(grid)["stages"]
    trained = [key for key, stage in stages.items() if stage["kind"] == "pretrain"]
    records = store.commits(trained)
    assert set(records) == set(trained)
    for record in records.values():
        if record["labels"]["pretext"] not in TOO_SHORT:
            found = learned(record)
            assert found.better and not found.collapsed, str(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_run_executes_nothing(totals: Mapping[str, dict[str, Any]], folder: Path, family: str) -> None:
    again = run(family, folder)
    assert not any(again["executed"].values())
    assert again["reused"] == totals[family]["succeeded"] + totals[family]["reused"]
