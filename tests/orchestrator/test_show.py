"""A plan in words: the cost beside what it would be without sharing, and one or several of a thing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.execute.preparation import compare
from orchestrator.execute.summary import headline
from orchestrator.plan.build import Plans
from orchestrator.plan.diff import diff, summary
from orchestrator.plan.show import print_plan
from orchestrator.plan.unfold import unfold
from orchestrator.plan.words import counted
from orchestrator.record.store import open_store
from tests.orchestrator.made_up import GRID, absent, planned, present, write_grid

NOTHING: dict[str, Any] = {"facts": {}, "metrics": {}, "artifacts": {}}
UNTIMED = "estimated time on one CPU core, as no stage was timed in this store yet"
ONE = GRID.replace("[0.05, 0.2]", "[0.2]").replace("[0, 1]", "[0]")


def shown(folder: Path, text: str, facts: Any, done: int = 0) -> tuple[str, str, dict[str, Any]]:
    """What is printed of a plan whose first `done` stages are finished, the first line of a run, and the totals."""
    plan = unfold(planned(write_grid(folder, text), facts), {})
    found = diff([plan], list(plan.stages)[:done])
    totals = {**summary(found), "faults": (), "notes": ()}
    screen = io.StringIO()
    print_plan(found, totals, Console(file=screen, width=200))
    return screen.getvalue(), headline(found), totals


def test_the_cost_of_a_plan_and_what_sharing_saves(tmp_path: Path) -> None:
    text, line, totals = shown(tmp_path, GRID, present)
    ratio = totals["naive_device_seconds"] / totals["estimated_device_seconds"]
    assert f"{ratio:.1f} times as much" in text and "blocked" not in text.split("estimated time")[1]
    assert "(4 pretrain stages): " in text and text.startswith("profile smoke: 8 cells\n")
    assert line == "8 cells, 9 stages to run, 0 reused"


def test_no_ratio_where_stages_are_blocked_or_reused(tmp_path: Path) -> None:
    text, _, totals = shown(tmp_path, GRID, absent)
    assert totals["blocked"] == 9 and "blocked (9 stages): /data: no folder shapes" in text
    last = text.strip().splitlines()[-1]
    assert last.startswith(f"{UNTIMED}: 0 s (9 stages blocked, not counted); if every cell")
    assert "times as much" not in text
    assert "times as much" not in shown(tmp_path, GRID, present, done=1)[0]


def test_one_of_a_thing(tmp_path: Path) -> None:
    one = ONE.replace("  - scenario: seg-enc\n    model: ConRec\n    pretext: conrec\n", "")
    text, line, _ = shown(tmp_path, one, present)
    assert text.startswith("profile smoke: 1 cell\n") and line == "1 cell, 1 stage to run, 0 reused"
    text, line, _ = shown(tmp_path, one, absent)
    assert "blocked (1 stage): " in text and "(1 stage blocked, not counted)" in text
    assert line == "1 cell, 0 stages to run, 0 reused, 1 blocked"
    assert "(1 pretrain stage): " in shown(tmp_path, ONE, present)[0]


@pytest.mark.parametrize(("number", "says"), [(0, "0 cells"), (1, "1 cell"), (2, "2 cells")])
def test_counted(number: int, says: str) -> None:
    assert counted(number, "cell") == says


def test_trials_are_counted_at_full_length_and_said_so(tmp_path: Path) -> None:
    tuned = GRID.replace("rows:", "pretexts:\n  conrec: {tune: {trials: 3, pruning: {rule: asha}}}\nrows:", 1)
    text, _, totals = shown(tmp_path, tuned, present)
    assert totals["stages"]["trial"] == 3 and "\nthat counts 3 trials at full length; " in text
    assert "trials" not in shown(tmp_path, GRID, present)[0]


@pytest.mark.parametrize(("device", "says"), [("cpu", "one CPU core"), ("cuda", "one GPU")])
def test_the_time_is_of_the_device_that_finished_stages_were_timed_on(tmp_path: Path, device: str, says: str) -> None:
    plan = planned(write_grid(tmp_path, GRID), present)
    built, store = Plans((plan,), (), ()), open_store(str(tmp_path / "runs"), create=True)
    assert compare(built, store).timed_on is None
    first = next(iter(plan.stages.values()))
    store.commit({**first.record(), "outcome": "succeeded", "seconds": 3.0, "device": device, **NOTHING})
    found = compare(built, store)
    totals = {**summary(found), "faults": (), "notes": ()}
    assert totals["timed_on"] == totals["grids"][0]["timed_on"] == device
    screen = io.StringIO()
    print_plan(found, totals, Console(file=screen, width=200))
    assert f"estimated time on {says}, by what finished stages took: " in screen.getvalue()
