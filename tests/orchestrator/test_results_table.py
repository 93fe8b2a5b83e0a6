"""The table model: aggregation over seeds, and what happens where seeds are not there."""

from __future__ import annotations

import csv
import io
import statistics
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.results import ResultsError
from orchestrator.results.cells import tidy
from orchestrator.results.layout import arrange, digits, printed
from orchestrator.results.references import load
from orchestrator.results.render.comma import table_csv
from orchestrator.results.table import Table, summarise
from tests.orchestrator.results_made_up import LAYOUTS, cell, commit, plan, published

CONTRACT = (
    "scenario,frozen,model,pretext_data,network,dataset,fraction,n_train,metric,unit,mean,std,n,n_asked,"
    "reference_mean,reference_std"
)


def table_of(made: dict[str, Any], commits: dict[str, Any], failures: dict[str, Any] | None = None) -> Table:
    references = load(made["references"]) if made["references"] else []
    return summarise(made, tidy(made, commits, failures or {}), references)


def csv_rows(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv(table))))


def three(values: list[float | None], **given: Any) -> Table:
    """One group with a seed for each value; None: not run."""
    made = plan([cell(seed=n, key=f"k{n}") for n in range(len(values))], **given)
    return table_of(made, {f"k{n}": commit(f"k{n}", dice=v) for n, v in enumerate(values) if v is not None})


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_numbers_come_back_digit_for_digit(name: str) -> None:
    made, commits = published(name)
    table = table_of(made, commits)
    assert table.warnings == ()
    rows = csv_rows(table)
    expected = {(f"{r.mean.normalize():f}", "" if r.std is None else f"{r.std.normalize():f}") for r in load(name)}
    assert {(row["mean"], row["std"]) for row in rows} == expected
    assert len(rows) == len(load(name))
    for row in rows:
        assert float(row["mean"]) == float(row["reference_mean"])
        assert row["std"] == row["reference_std"] == "" or float(row["std"]) == float(row["reference_std"])


def test_table_csv_has_the_contracts_columns_in_order() -> None:
    assert table_csv(three([0.5])).startswith(CONTRACT + ",")


def test_std_is_the_sample_standard_deviation() -> None:
    (row,) = csv_rows(three([0.70, 0.75, 0.83]))
    assert float(row["mean"]) == pytest.approx(100 * statistics.mean([0.70, 0.75, 0.83]), abs=1e-9)
    assert float(row["std"]) == pytest.approx(100 * statistics.stdev([0.70, 0.75, 0.83]), abs=1e-9)
    assert (row["n"], row["n_asked"], row["status"]) == ("3", "3", "complete")


def test_one_seed_has_no_std() -> None:
    (row,) = csv_rows(three([0.7154]))
    assert (row["mean"], row["std"], row["n"]) == ("71.54", "", "1")


def test_equal_seeds_have_std_zero() -> None:
    (row,) = csv_rows(three([0.943, 0.943, 0.943]))
    assert (row["mean"], row["std"]) == ("94.3", "0")


def test_an_incomplete_group_says_so() -> None:
    table = three([0.5, None, 0.7])
    (row,) = csv_rows(table)
    assert (row["mean"], row["n"], row["n_asked"], row["status"], row["missing"]) == ("60", "2", "3", "incomplete", "1")
    assert arrange(table).blocks[0].cells[0][0].mark == "(2/3)"


def test_nan_is_never_averaged_in() -> None:
    (row,) = csv_rows(three([0.5, float("nan"), 0.7]))
    assert (row["mean"], row["n"], row["failed"], row["status"]) == ("60", "2", "1", "incomplete")
    (row,) = csv_rows(three([float("nan")]))
    assert (row["mean"], row["n"], row["status"]) == ("", "0", "failed")


def test_groups_without_a_value_show_why() -> None:
    cells = [cell(fraction=f, key=f"k{f}") for f in (0.01, 0.05, 0.2)] + [cell(fraction=0.5, blocked="no folder")]
    failures = {"k0.01": {"outcome": "failed", "error": "x"}, "k0.05": {"outcome": "blocked", "error": "y"}}
    table = table_of(plan(cells), {}, failures)
    assert [row["status"] for row in csv_rows(table)] == ["failed", "blocked", "missing", "blocked"]
    assert [shown.word for shown in arrange(table).blocks[0].cells[0]] == ["failed", "blocked", "—", "blocked"]


def test_a_constant_is_shown_as_such() -> None:
    cells = [cell(dataset="lucchi", key="a"), cell(dataset="lucchi", model="Casser et al.", constant=0.946, seed=None)]
    table = table_of(plan(cells, table={"unit": "fraction", "decimals": 3}), {"a": commit("a", dice=0.79)})
    shown = [row[0] for row in arrange(table).blocks[0].cells]
    assert [(s.mean, s.mark, s.bold) for s in shown] == [("0.790", "", False), ("0.946", "†", True)]
    assert csv_rows(table)[1]["status"] == "constant"


def test_rows_and_columns_keep_the_order_of_the_grid() -> None:
    made, commits = published("p1-table4")
    assert [row[:2] for row in arrange(table_of(made, commits)).rows] == [
        ("1 (random-init)", "Random"), ("2 (cls-enc)", "SimCLR"), ("2 (cls-enc)", "Classification"),
        ("3 (seg-enc-dec)", "Reconstruction"), ("3 (seg-enc-dec)", "Segmentation"), ("3 (seg-enc-dec)", "ConRec"),
        ("4 (seg-enc)", "Reconstruction"), ("4 (seg-enc)", "Segmentation"), ("4 (seg-enc)", "ConRec"),
        ("3 (seg-enc-dec)", "Segmentation"), ("4 (seg-enc)", "Segmentation"), ("2 (cls-enc)", "Classification"),
    ]  # fmt: skip


def test_datasets_are_stacked_whatever_the_order_of_the_cells() -> None:
    made, commits = published("p2-table2")
    made["cells"].sort(key=lambda c: c["network"])  # all data sets of a row together, as a grid expands
    sheet = arrange(table_of(made, commits))
    assert [row[0] for row in sheet.rows] == ["Lucchi++"] * 4 + ["Kasthuri++"] * 4
    assert sheet.breaks == {4}
    assert [row[2] for row in sheet.rows[:4]] == [row[2] for row in sheet.rows[4:]]


def test_bold_is_the_best_of_a_column_with_ties_at_the_printed_precision() -> None:
    values = {"A": 0.9531, "B": 0.9529, "C": 0.949}
    cells = [cell(model=name, key=name) for name in values]
    commits = {name: commit(name, dice=value) for name, value in values.items()}
    bold = [row[0].bold for row in arrange(table_of(plan(cells), commits)).blocks[0].cells]
    assert bold == [True, True, False]
    lower = arrange(table_of(plan(cells, table={"higher_is_better": False}), commits))
    assert [row[0].bold for row in lower.blocks[0].cells] == [False, False, True]


def test_stacked_datasets_do_not_compete() -> None:
    made, commits = published("p2-table2")
    best = [row[0].mean for row in arrange(table_of(made, commits)).blocks[0].cells if row[0].bold]
    assert best == ["0.7896", "0.77"]


@pytest.mark.parametrize(
    ("value", "decimals", "published", "text"),
    [
        (0.176, 1, "0.18", "0.18"), (70.7149, 2, "70.715", "70.715"), (0.58, 4, "0.58", "0.58"),
        (0.5821, 4, "0.58", "0.5821"), (0.5810, 4, "0.58", "0.5810"), (94.96, 1, None, "95.0"), (3.0, 2, "3", "3"),
    ],
)  # fmt: skip
def test_ours_have_the_papers_decimals_and_lose_no_digit(
    value: float, decimals: int, published: str | None, text: str
) -> None:
    assert digits(value, decimals, None if published is None else Decimal(published)) == text


def test_differences_are_those_of_the_printed_numbers() -> None:
    made, commits = published("p1-table6")
    key = next(iter(commits))
    three_seeds = [key, *list(commits)[1:3]]
    for each in three_seeds:
        commits[each]["metrics"]["dice"] -= 0.02
    sheet = arrange(table_of(made, commits))
    assert sheet.differences[0][:2] == ("−2.0", "0.0")


def test_halves_are_rounded_as_on_paper() -> None:
    assert [printed(70.715, 2), printed(0.25, 1), printed(94.3, 1), printed(0.0, 1)] == ["70.72", "0.3", "94.3", "0.0"]
    assert printed(500000.0, 0) == "500000"


def test_groups_in_one_place_are_kept_apart_with_a_warning() -> None:
    made, commits = published("p1-table4")
    made["table"]["index"] = ["scenario", "model"]  # two Segmentation rows of scenario 3 differ in their data only
    table = table_of(made, commits)
    assert table.index == ("scenario", "model", "pretext_data")
    assert "added pretext_data" in table.warnings[0]
    assert len(table.groups) == 24


def test_metrics_become_columns_when_the_layout_forgets_them() -> None:
    made = plan([cell(key="a")], table={"value": ["dice", "iou"], "columns": ["dataset"]})
    table = table_of(made, {"a": commit("a", dice=0.5, iou=0.4)})
    assert table.columns == ("dataset", "metric")
    assert [s.mean for s in arrange(table).blocks[0].cells[0]] == ["50.0", "40.0"]


def test_rows_that_look_the_same_are_refused() -> None:
    with pytest.raises(ResultsError, match=r"two rows look the same .*model=Random.*different model names"):
        table_of(plan([cell(key="a"), cell(key="b")]), {})


def test_seeds_may_differ_by_row() -> None:
    made, commits = published("p1-table3")
    assert [(g.axes["scenario"], g.n, g.n_asked) for g in table_of(made, commits).groups][::2] == [
        ("random-init", 1, 1), ("seg-enc", 3, 3), ("seg-enc-dec", 3, 3),
    ]  # fmt: skip


def test_a_restricted_plan_does_not_complain_of_published_values_left_over() -> None:
    made, commits = published("p1-table2")
    made["cells"] = [c for c in made["cells"] if c["dataset"] == "pets"]
    assert len(table_of(made, commits).warnings) == 18
    assert table_of({**made, "only": ["dataset=pets"]}, commits).warnings == ()


def test_a_plan_without_cells_shows_the_published_values() -> None:
    table = table_of(plan([], references="p1-table2"), {})
    sheet = arrange(table)
    assert sheet.blocks[1].cells[0][0].mean == "79.1"
    assert {shown.word for row in sheet.blocks[0].cells for shown in row} == {"—"}
