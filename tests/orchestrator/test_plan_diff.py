"""What runs, is reused, blocked or needed by nobody, given what a store holds."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.execute.frontier import Frontier
from orchestrator.plan.diff import Diff, diff, restrict, standing, summary
from orchestrator.plan.stages import Cell, Plan
from tests.orchestrator.made_up import absent, graph, planned, stage


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned("p1-table2", only=["dataset=pets", "fraction=0.05"])  # 18 cells on 3 pretrainings


def counts(found: Diff) -> dict[str, int]:
    return dict(Counter(found.states.values()))


def cells(keys: str) -> tuple[Cell, ...]:
    about = {"scenario": "seg-enc", "frozen": False, "model": "m", "pretext": "p", "pretext_data": "d", "network": "n"}
    return tuple(Cell(**about, dataset="d", fraction=None, n_train=None, seed=0, key=key) for key in keys)


def pretrains(plan: Plan) -> list[str]:
    return [key for key, stage in plan.stages.items() if stage.kind == "pretrain"]


def test_an_empty_store_runs_everything_parents_first(plan: Plan) -> None:
    found = diff([plan], ())
    assert counts(found) == {"to_run": 21} and list(found.to_run) == list(plan.stages)
    Frontier(found.to_run)


def test_a_full_store_runs_nothing(plan: Plan) -> None:
    found = diff([plan], set(plan.stages))
    assert counts(found) == {"reused": 21} and not found.to_run
    assert summary(found)["estimated_device_seconds"] == 0


def test_a_finished_cell_needs_no_parent(plan: Plan) -> None:
    cells = {cell.key for cell in plan.cells}
    found = diff([plan], cells)
    assert counts(found) == {"reused": 18, "unneeded": 3}
    one = next(c for c in plan.cells if c.scenario == "cls-enc")
    found = diff([plan], cells - {one.key})
    assert counts(found) == {"reused": 17, "unneeded": 2, "to_run": 2}
    assert list(found.to_run) == [plan.stages[one.key].parents["pretrain"], one.key]


def test_a_finished_parent_is_not_run_for_its_open_cells(plan: Plan) -> None:
    found = diff([plan], pretrains(plan))
    assert counts(found) == {"reused": 3, "to_run": 18}
    Frontier(found.to_run, finished=found.keys("reused"))


def test_keys_of_other_plans_in_the_store_do_not_count(plan: Plan) -> None:
    found = diff([plan], {"somebody", "else"})
    assert summary(found)["reused"] == 0 and len(found.states) == 21


def test_blocked_stages_tell_why_and_cost_nothing() -> None:
    found = diff([planned("p1-table2", absent)], ())
    assert counts(found) == {"blocked": 114} and set(found.reasons) == set(found.states)
    totals = summary(found)
    assert totals["estimated_device_seconds"] == 0 and totals["naive_device_seconds"] > 0
    assert any("no folder flowers102" in reason for reason in totals["blocked_reasons"])


def test_a_grown_grid_runs_only_what_is_new() -> None:
    old = diff([planned("p1-table2")], ())
    found = diff([planned("p1-table2"), planned("p1-table6")], set(old.stages))
    assert counts(found) == {"reused": 114, "to_run": 20}  # vanilla ConRec: 2 pretrainings, 18 cells
    by_grid = {part["grid"]: (part["reused"], part["to_run"]) for part in summary(found)["grids"]}
    assert by_grid == {"p1-table2": (114, 0), "p1-table6": (20, 20)}


def test_naive_counts_do_not_depend_on_what_is_finished(plan: Plan) -> None:
    fresh, done = summary(diff([plan], ())), summary(diff([plan], set(plan.stages)))
    for name in ("naive_pretrain_stages", "naive_device_seconds", "cells", "stages"):
        assert fresh[name] == done[name]
    assert fresh["naive_pretrain_stages"] == 15


def test_cells_for_themselves_pretrain_again_and_share_all_else() -> None:
    """Preparation p, 10 s; pretraining a, 100 s, for the cells x and y, 5 s each; b, 40 s, for a figure f, 2 s."""
    shared = (stage("p", kind="prepare", cost=10.0), stage("a", "p", kind="pretrain", cost=100.0))
    figure = (stage("b", "p", kind="pretrain", cost=40.0), stage("f", "b", kind="analysis", cost=2.0))
    stages = graph(*shared, *figure, stage("x", "a", cost=5.0), stage("y", "a", cost=5.0))
    for keys, naive in (("x", 157.0), ("xy", 262.0)):
        asked = {key: stages[key] for key in (*"pabf", *keys)}
        totals = summary(diff([Plan("g", "smoke", cells(keys), asked, wanted=("f",))], ()))
        assert totals["naive_pretrain_stages"] == len(keys) and totals["naive_device_seconds"] == naive
        assert totals["estimated_device_seconds"] == naive - 100.0 * (len(keys) - 1)


def test_restrict_to_an_open_cell_brings_its_parent(plan: Plan) -> None:
    cell = plan.cells[-1].key
    found = restrict(diff([plan], ()), cell)
    assert list(found.to_run) == [plan.stages[cell].parents["pretrain"], cell]
    assert counts(found) == {"to_run": 2, "unneeded": 19}


def test_restrict_runs_a_finished_stage_again(plan: Plan) -> None:
    cell = plan.cells[-1].key
    found = restrict(diff([plan], set(plan.stages)), cell)
    assert list(found.to_run) == [cell]
    Frontier(found.to_run, finished=found.keys("reused"))


def test_restrict_to_a_finished_cell_whose_parent_is_not_there(plan: Plan) -> None:
    cell = plan.cells[-1].key
    found = restrict(diff([plan], {c.key for c in plan.cells}), cell)
    assert list(found.to_run) == [plan.stages[cell].parents["pretrain"], cell]
    Frontier(found.to_run, finished=found.keys("reused"))


def test_restrict_to_a_stage_that_nobody_needs(plan: Plan) -> None:
    parent = pretrains(plan)[0]
    found = restrict(diff([plan], {c.key for c in plan.cells}), parent)
    assert list(found.to_run) == [parent]


def test_restrict_keeps_what_is_blocked_blocked() -> None:
    plan = planned("p1-table2", absent)
    cell = plan.cells[-1].key
    found = restrict(diff([plan], ()), cell)
    assert not found.to_run and set(found.keys("blocked")) == {cell, plan.stages[cell].parents["pretrain"]}
    assert set(found.reasons) == set(found.keys("blocked"))


def test_a_blocked_stage_names_the_stage_at_which_the_cause_lies() -> None:
    """a is blocked by its data, b by a; c has failed, d needs c, and e needs d but lacks data of its own."""
    no_data, own = "/data: no folder pets", "/data: no folder flowers17"
    stages = graph(
        stage("a", blocked=no_data), stage("b", "a"), stage("c"), stage("d", "c"), stage("e", "d", blocked=own)
    )
    found = diff([Plan("g", "smoke", cells("bde"), stages)], (), {"c": "boom"})
    assert found.roots == {"a": "a", "b": "a", "d": "c", "e": "c"}
    assert (found.reasons["b"], found.reasons["d"]) == (no_data, "its parent 'stage c' failed: boom")
    assert found.causes == {no_data: ["a", "b"], own: ["e"]}
    assert standing({"b": {"blocked_by": "a"}, "c": {}}, {"a"}) == {"c": {}}
