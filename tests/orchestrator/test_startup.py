"""Commands import what they need and nothing before: help and plans stay quick, whatever the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.test_run import ROOT

HEAVY = {"torch", "torchvision", "ray", "mlflow", "optuna", "pandas", "scipy", "matplotlib", "sqlalchemy"}
LIGHTER = {"numpy", "pydantic", "yaml", "obstore", "rich", "PIL"}  # a tenth of a second each
COMMANDS = [
    name for name in ("run_grid", "collect", "report", "status", "gc") if (ROOT / f"orchestrator/{name}.py").is_file()
]
CODE = """
import importlib, json, sys
command = importlib.import_module("orchestrator." + sys.argv[1])
try:
    code = command.main(sys.argv[2:])
except SystemExit as end:
    code = end.code
imported = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"code": code, "imported": imported}), file=sys.stderr)
"""


def imported(*words: str) -> tuple[str, list[str], set[str]]:
    """What a command prints, the lines on stderr, and the packages that it has imported when it ends with 0."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    *said, last = done.stderr.splitlines()
    found = json.loads(last)
    assert not found["code"], done.stderr
    return done.stdout, said, set(found["imported"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_only_the_command_line(command: str) -> None:
    out, said, found = imported(command, "--help")
    assert out.startswith("usage: ") and said == [] and not found & (HEAVY | LIGHTER)


@pytest.mark.parametrize("grid", ["smoke", "p1-table2", "p1-table4-tuned"])
def test_a_plan_is_made_without_what_runs_it(grid: str, tmp_path: Path) -> None:
    """One with published values, and one with studies, too."""
    out, said, found = imported("run_grid", grid, "--dry-run", "--json", "--data-root", str(tmp_path))
    assert json.loads(out)["cells"] > 0 and said == [] and not found & HEAVY


def test_how_a_run_stands_is_told_without_what_runs_it(tmp_path: Path) -> None:
    from orchestrator.grid.load import load_request
    from orchestrator.plan.build import plan_record
    from orchestrator.record.store import open_store
    from tests.orchestrator.made_up import absent, planned

    store, name = open_store(str(tmp_path), create=True), "p1-table4-tuned"
    plan = planned(name, absent, profile="smoke")
    store.save_plan(plan_record(load_request(name), plan, plan_id="20260101", command="", data_root=Path("data")))
    for command in ("status", "gc"):
        assert not imported(command, "--store", str(tmp_path), "--json")[-1] & HEAVY
