"""docs/grid.md names every word that a grid may say, and none that it may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.grid.meaning import METRICS
from orchestrator.grid.schema import Grid, Import, Row, Run, Scenario
from trainables.settings import DATASET_OPTIONS, NETWORK_SETTINGS, PRETEXT_SETTINGS
from trainables.settings.analyses import ANALYSIS_SETTINGS
from trainables.settings.datasets import PREPARE_SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "grid.md"


def words(start: str) -> set[str]:
    """What stands in backticks between `start` and the next empty line, of ids alone."""
    text = PAGE.read_text(encoding="utf-8")
    part = text[text.index(start) :].split("\n\n")[0]
    return {word for word in re.findall(r"`([^`]+)`", part) if re.fullmatch(r"[a-z][a-z0-9_-]*", word)}


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
    keys = {*Grid.model_fields, *Run.model_fields, *Row.model_fields, *get_args(Scenario)}
    assert not {key for key in keys if f"`{key}" not in text}
