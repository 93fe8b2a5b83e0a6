"""Tidy rows: nothing lost, nothing averaged."""

from __future__ import annotations

import csv
import io
import math

import pytest

from orchestrator.results.cells import tidy
from orchestrator.results.render.comma import cells_csv
from tests.orchestrator.results_made_up import cell, commit, plan

CONTRACT = (
    "grid,scenario,frozen,model,pretext,pretext_data,network,dataset,fraction,n_train,seed,"
    "metric,value,status,key,run_id"
)


def rows(
    made: dict, commits: dict | None = None, failures: dict | None = None, run_ids: dict | None = None
) -> list[dict]:
    text = cells_csv(tidy(made, commits or {}, failures or {}, run_ids))
    return list(csv.DictReader(io.StringIO(text)))


def test_columns_are_the_contracts_in_order() -> None:
    assert cells_csv(tidy(plan([]), {}, {})).startswith(CONTRACT + ",")


def test_a_succeeded_cell_has_a_row_for_each_metric_at_full_precision() -> None:
    made = plan([cell(key="a")])
    got = rows(made, {"a": commit("a", loss=0.1, dice=0.1 + 0.2, iou=1)}, run_ids={"a": "run-1"})
    assert [(r["metric"], float(r["value"]), r["status"]) for r in got] == [
        ("dice", 0.1 + 0.2, "succeeded"), ("loss", 0.1, "succeeded"), ("iou", 1.0, "succeeded"),
    ]  # fmt: skip
    assert {(r["key"], r["run_id"], r["frozen"], r["n_train"], r["fraction"], r["pretext"]) for r in got} == {
        ("a", "run-1", "false", "74", "0.01", "")
    }


def test_cells_without_a_result_have_a_row_for_each_asked_metric() -> None:
    made = plan(
        [cell(seed=n, key=f"k{n}") for n in range(4)] + [cell(seed=4, key=None, blocked="no folder\n pets")],
        table={"value": ["dice", "iou"]},
    )
    failures = {
        "k0": {"key": "k0", "outcome": "failed", "error": "CUDA out of memory"},
        "k1": {"key": "k1", "outcome": "blocked", "error": "its pretext failed"},
        "k2": {"key": "k2", "outcome": "failed", "error": "first attempt"},
    }
    got = rows(made, {"k2": commit("k2", dice=0.5, iou=0.4)}, failures)
    assert [(r["seed"], r["metric"], r["value"], r["status"], r["error"]) for r in got] == [
        ("0", "dice", "", "failed", "CUDA out of memory"),
        ("0", "iou", "", "failed", "CUDA out of memory"),
        ("1", "dice", "", "blocked", "its pretext failed"),
        ("1", "iou", "", "blocked", "its pretext failed"),
        ("2", "dice", "0.5", "succeeded", ""),  # the commit outweighs an earlier failure
        ("2", "iou", "0.4", "succeeded", ""),
        ("3", "dice", "", "missing", ""),
        ("3", "iou", "", "missing", ""),
        ("4", "dice", "", "blocked", "no folder pets"),
        ("4", "iou", "", "blocked", "no folder pets"),
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "abc"])
def test_a_value_that_is_no_finite_number_counts_as_failed(value: object) -> None:
    (row,) = rows(plan([cell(key="a")]), {"a": commit("a", dice=value)})
    assert (row["value"], row["status"]) == ("", "failed")
    assert "dice is" in row["error"]


def test_an_asked_metric_that_was_not_reported_counts_as_failed() -> None:
    got = rows(plan([cell(key="a")]), {"a": commit("a", loss=0.1)})
    assert [(r["metric"], r["status"]) for r in got] == [("dice", "failed"), ("loss", "succeeded")]


def test_a_constant_is_its_own_value_and_status() -> None:
    (row,) = rows(plan([cell(constant=0.946)]))
    assert (row["value"], row["status"], row["key"]) == ("0.946", "constant", "")
    (row,) = rows(plan([cell(constant=0.946)], table={"value": ["miou", "loss"]}))
    assert (row["metric"], row["value"]) == ("miou", "0.946")


def test_stand_ins_are_named_where_they_serve() -> None:
    cells = [cell(dataset="flowers17", pretext_data="flowers102"), cell(dataset="pets", pretext_data=None)]
    served = plan(cells, stand_ins={"flowers102": "flowers17"})
    assert [r["stand_ins"] for r in rows(served)] == ["flowers102=flowers17", ""]
    assert [r["stand_ins"] for r in rows(plan(cells, stand_ins={"*": "shapes"}))] == [
        "flowers102=shapes; flowers17=shapes",
        "pets=shapes",
    ]
