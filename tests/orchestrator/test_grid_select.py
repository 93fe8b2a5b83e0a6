"""`--only`: values of one axis add up, axes intersect, and nothing is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.grid.errors import GridError
from orchestrator.grid.load import load_request
from orchestrator.grid.schema import Grid
from tests.orchestrator.made_up import GRID, planned, write_grid


def only(*texts: str, name: str = "p1-table2") -> Grid:
    return load_request(name, only=texts).grid


@pytest.mark.parametrize(
    ("texts", "cells"),
    [
        ([], 108),
        (["seed=0"], 36),
        (["seed=0", "seed=2"], 72),
        (["scenario=seg-enc"], 36),
        (["model=ConRec"], 36),
        (["model=ConRec", "scenario=seg-enc"], 18),
        (["dataset=pets"], 54),
        (["fraction=0.05"], 36),
        (["fraction=5%", "fraction=.2"], 72),
        (["dataset=flowers17", "fraction=0.01", "seed=1", "model=SimCLR"], 1),
    ],
)
def test_values_add_up_and_axes_intersect(texts: list[str], cells: int) -> None:
    assert len(planned("p1-table2", only=texts).cells) == cells


def test_a_part_has_the_same_keys_as_the_whole() -> None:
    whole = {cell.key for cell in planned("p1-table2").cells}
    part = planned("p1-table2", only=["fraction=1%", "scenario=cls-enc"])
    assert {cell.key for cell in part.cells} < whole
    assert {cell.n_train for cell in part.cells} == {8, 74}  # the paper's literal sizes stay with their fractions


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["model"], "--only model: expected AXIS=VALUE with an axis of scenario, model, dataset, fraction, seed"),
        (["colour=red"], "--only colour=red: expected AXIS=VALUE with an axis of"),
        (["model=ConRek"], "--only model=ConRek: the grid has no such model; did you mean 'ConRec'"),
        (["scenario="], "--only scenario=: the grid has no such scenario; allowed: cls-enc, random-init"),
        (["dataset=pet"], "--only dataset=pet: the grid has no such dataset; did you mean 'pets'?"),
        (["fraction=0.5"], "--only fraction=0.5: the grid has no such fraction"),
        (["fraction=many"], "--only fraction=many: the grid has no such fraction; allowed: 0.01, 0.05, 0.2"),
        (["seed=9"], "--only seed=9: the grid has no such seed; allowed: 0, 1, 2"),
        (["model=SimCLR", "scenario=seg-enc"], "--only model=SimCLR scenario=seg-enc: no cell of the grid p1-table2"),
    ],
)
def test_a_wrong_selection(texts: list[str], says: str) -> None:
    with pytest.raises(GridError) as caught:
        only(*texts)
    assert str(caught.value).startswith(says)


def test_a_row_with_its_own_seeds(tmp_path: Path) -> None:
    text = GRID.replace("model: Random}", "model: Random, seeds: [1, 7]}")
    name = write_grid(tmp_path, text)
    grid = only("seed=7", name=name)
    assert [(row.model, row.seeds) for row in grid.rows] == [("Random", [7])]  # the other row has no seed 7
    grid = only("seed=0", name=name)
    assert [row.model for row in grid.rows] == ["ConRec"]
    cells = planned(name, only=["seed=1"]).cells
    assert {(cell.model, cell.seed) for cell in cells} == {("Random", 1), ("ConRec", 1)}


def test_a_column_without_fractions_falls_to_a_selected_fraction(tmp_path: Path) -> None:
    text = GRID.replace("seeds:", "  - {dataset: pets, pretext_data: pets}\nseeds:")
    grid = only("fraction=20%", name=write_grid(tmp_path, text))
    assert [(c.dataset, c.fractions) for c in grid.columns] == [("shapes", [0.2])]
