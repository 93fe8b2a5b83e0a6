"""The published values and how they find their groups."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.grid.load import load_request
from orchestrator.results import ResultsError
from orchestrator.results.references import COLUMNS, Reference, load, match
from tests.orchestrator.results_made_up import LAYOUTS, published
from tests.orchestrator.results_published import RESULT_TABLES

# P1 Table 2 and P2 Table IV as the papers print them, typed independently of the CSV files.
P1_TABLE2 = """
79.1 1.0  89.4 0.8  94.3 0.0  71.7 5.2  84.2 0.9  88.2 0.3
77.7 0.4  88.8 0.3  94.1 0.1  79.2 1.1  85.1 0.1  88.2 0.4
84.4 0.6  91.8 0.2  95.0 0.1  80.5 1.5  86.8 0.2  89.6 0.3
85.7 1.8  92.2 0.4  95.3 0.1  83.1 0.5  87.5 0.6  90.0 0.1
84.6 0.2  92.0 0.1  95.0 0.0  81.2 0.1  86.9 0.5  89.5 0.1
84.7 0.6  92.1 0.1  95.3 0.1  83.3 0.6  87.2 0.4  89.8 0.2
"""
P1_TABLE4 = """
75.0 0.3  65.8 0.5   74.5 0.6  68.3 0.9   77.6 0.9  68.3 1.2   76.6 0.6  68.7 0.8   82.3 0.5  71.0 0.7
76.9 1.0  70.6 1.7   76.4 0.2  68.2 0.2   82.0 0.6  70.2 0.2   77.3 1.1  70.9 0.8   83.6 0.2  73.2 0.3
83.6 0.1  73.0 0.3   83.5 0.7  71.2 0.2
"""
P1_TABLE6 = """
82.5 0.7  91.3 0.2  94.8 0.1  82.4 0.4  87.1 0.18  89.6 0.1
85.7 1.8  92.2 0.4  95.3 0.1  83.1 0.5  87.5 0.6  90.0 0.1
"""
PRINTED = {"p1-table2": P1_TABLE2, "p1-table4": P1_TABLE4, "p1-table6": P1_TABLE6}
P2_TABLE4 = ["71.75", "72.3", "70.715", "59.03", "75.67", "55.32", "36.83"]
ROWS = {
    "p1-table1": 6, "p1-table2": 36, "p1-table3": 6, "p1-table4": 24, "p1-table5": 14, "p1-table6": 12,
    "p2-table1": 6, "p2-table2": 8, "p2-table3": 8, "p2-table4": 7, "p2-table5": 6,
}  # fmt: skip


@pytest.mark.parametrize(("name", "rows"), ROWS.items())
def test_every_table_has_all_its_values(name: str, rows: int) -> None:
    references = load(name)
    assert len(references) == rows
    assert len({str(reference) for reference in references}) == rows  # no two for the same place
    assert {reference.unit for reference in references} <= {"percent", "fraction", "count"}


@pytest.mark.parametrize(("name", "text"), PRINTED.items())
def test_values_are_the_printed_ones_in_the_printed_order(name: str, text: str) -> None:
    assert " ".join(f"{r.mean} {r.std}" for r in load(name)) == " ".join(text.split())


def test_trailing_digits_stay_as_printed() -> None:
    assert [str(r.mean) for r in load("p2-table4")] == P2_TABLE4
    assert [str(r.mean) for r in load("p1-table3")] == ["71.54", "74.47", "75.20", "76.94", "75.10", "76.78"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_published_value_finds_exactly_its_group(name: str) -> None:
    made, _ = published(name)
    metrics = made["table"]["value"]
    groups = {repr({**c, "seed": 0, "key": 0, "metric": m}): {**c, "metric": m} for c in made["cells"] for m in metrics}
    found, warnings = match(list(groups.values()), load(name))
    assert warnings == []
    assert sorted(str(r) for r in found if r) == sorted(str(r) for r in load(name))


@pytest.mark.parametrize("name", RESULT_TABLES)
def test_the_built_in_grids_leave_no_published_value_over(name: str) -> None:
    grid = load_request(name).grid
    groups = [
        {
            "scenario": row.scenario, "frozen": row.frozen or row.scenario == "probe",
            "model": row.model, "dataset": column.dataset,
            "pretext_data": (row.pretext_data or column.pretext_data) if row.pretext else None,
            "network": {**grid.network, **row.network}.get("name", "conrec-unet"), "fraction": fraction,
            "metric": metric,
        }
        for row in grid.rows for column in grid.columns for fraction in column.fractions or [None]
        for metric in grid.table.value
    ]  # fmt: skip
    found, warnings = match(groups, load(name))
    assert grid.references == name
    assert warnings == []
    assert all(found)


def reference(mean: str = "1", **axes: object) -> Reference:
    return Reference(axes, "percent", Decimal(mean), None, "")


def test_a_reference_without_a_group_is_said() -> None:
    found, warnings = match([{"model": "Random"}], [reference(model="ConRec")])
    assert found == [None]
    assert warnings == ["published value without a group in the grid: model=ConRec"]


@pytest.mark.parametrize(
    ("axis", "published_", "other"),
    [("network", "resnet50-unet", "classic-unet"), ("frozen", False, True), ("pretext_data", "flowers102", "pets")],
)
def test_a_value_of_another_network_encoder_or_pretext_data_is_not_ours(
    axis: str, published_: object, other: object
) -> None:
    groups = [{"model": "BYOL", axis: published_}, {"model": "BYOL", axis: other}]
    alone = reference(**{"model": "BYOL", axis: published_})
    assert match(groups, [alone]) == ([alone, None], [])
    assert match(groups[1:], [alone])[1] == [f"published value without a group in the grid: {alone}"]
    anything = reference(model="BYOL")
    assert match(groups, [anything])[0] == [anything, anything]


def test_a_trained_value_without_a_fraction_is_one_of_all_images() -> None:
    groups = [{"scenario": "seg-enc", "fraction": fraction} for fraction in (None, 0.1, 1)]
    whole = reference(scenario="seg-enc")
    assert match(groups, [whole])[0] == [whole, None, whole]


def test_a_group_that_two_references_fit_gets_none() -> None:
    found, warnings = match([{"model": "BYOL"}], [reference(model="BYOL"), reference("2", model="BYOL")])
    assert found == [None]
    assert "2 published values fit one group" in warnings[0]


def test_fractions_match_within_rounding_and_absent_ones_do_not() -> None:
    published_value = reference(fraction=0.2)
    assert match([{"fraction": 0.1 + 0.1}], [published_value])[0] == [published_value]
    assert match([{"fraction": None}], [published_value])[0] == [None]


def test_other_unit_keeps_the_digits() -> None:
    value = Reference({}, "fraction", Decimal("0.7896"), Decimal("0.010"), "").within("percent")
    assert (f"{value.mean:f}", f"{value.std:f}") == ("78.96", "1.0")
    assert Reference({}, "count", Decimal(849), None, "").within("percent").mean == 849


def test_unknown_table_lists_the_known_ones() -> None:
    with pytest.raises(ResultsError, match="no published values named 'p1-tabel2'; there are p1-table1, p1-table2"):
        load("p1-tabel2")
    with pytest.raises(ResultsError, match="no such file"):
        load("mine.csv")


def test_own_file_with_a_bad_number_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "my “values”.csv"
    path.write_text(",".join(COLUMNS) + "\n,,A,,,pets,0.01,,dice,percent,7o.1,,\n", encoding="utf-8")
    with pytest.raises(ResultsError, match="line 2"):
        load(str(path))
    path.write_text("model,mean\nA,1\n", encoding="utf-8")
    with pytest.raises(ResultsError, match="expected the columns scenario"):
        load(str(path))
