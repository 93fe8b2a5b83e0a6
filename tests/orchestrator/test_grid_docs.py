"""docs/grid.md names every word that a grid may say, and none that it may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.grid import claims
from orchestrator.grid.meaning import METRICS
from orchestrator.grid.schema import (
    Axis,
    Column,
    Downstream,
    Grid,
    Import,
    Pruning,
    Row,
    Run,
    Scenario,
    SeedLooks,
    Table,
    Tune,
)
from orchestrator.results.references import COLUMNS
from search_spaces.spaces import SPACES
from trainables.settings import DATASET_OPTIONS, NETWORK_SETTINGS, PRETEXT_SETTINGS
from trainables.settings.analyses import ANALYSIS_SETTINGS
from trainables.settings.datasets import PREPARE_SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "grid.md"


def words(start: str) -> set[str]:
    """What stands in backticks between `start` and the next empty line, of ids alone."""
    text = PAGE.read_text(encoding="utf-8")
    part = text[text.index(start) :].split("\n\n")[0]
    return {word for word in re.findall(r"`([^`]+)`", part) if re.fullmatch(r"[a-z][a-z0-9_-]*", word)}


def keys(start: str) -> set[str]:
    """The words in the first column of the table that begins with `start`."""
    text = PAGE.read_text(encoding="utf-8")
    rows = text[text.index(start) :].split("\n\n")[0].splitlines()[2:]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.mark.parametrize(
    ("start", "known"),
    [
        ("Pretexts: ", set(PRETEXT_SETTINGS)),
        ("Networks: ", set(NETWORK_SETTINGS)),
        ("Preparations ", set(PREPARE_SETTINGS)),
        ("Analyses ", set(ANALYSIS_SETTINGS)),
        ("Metrics ", set(METRICS)),
    ],
)
def test_lists_are_those_of_the_registries(start: str, known: set[str]) -> None:
    assert words(start) == known


def test_data_sets_and_formats() -> None:
    assert set(DATASET_OPTIONS) == words("Data sets: ")
    assert set(get_args(Import.model_fields["format"].annotation)) <= words("Weights from a file: ")


def test_every_key_and_scenario_is_told() -> None:
    text = PAGE.read_text(encoding="utf-8")
    models = (Grid, Run, Row, Column, Table, SeedLooks, Tune, claims.Rows, claims.Columns, *claims.KINDS.values())
    told = {key for model in models for key in model.model_fields}
    told |= {"profiles", *get_args(Scenario), *get_args(Axis), *claims.KINDS, *SPACES}
    assert not {key for key in told if not re.search(rf"`{key}(?![\w-])", text)}


@pytest.mark.parametrize(
    ("start", "known"),
    [
        ("| `table.` |", {*Table.model_fields}),
        ("| `seeds.` |", {*SeedLooks.model_fields}),
        (
            "| `tune.` |",
            {
                *Tune.model_fields,
                *(f"pruning.{key}" for key in Pruning.model_fields),
                *(f"objective.{key}" for key in Downstream.model_fields),
            },
        ),
        ("| `claims.` |", {key for kind in claims.KINDS.values() for key in kind.model_fields}),
    ],
)
def test_tables_have_the_keys_of_the_models(start: str, known: set[str]) -> None:
    assert keys(start) == known


def test_the_columns_of_published_values() -> None:
    assert f"`{','.join(COLUMNS)}`" in PAGE.read_text(encoding="utf-8")
