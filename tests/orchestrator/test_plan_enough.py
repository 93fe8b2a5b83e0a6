"""Too little data to pretrain on: its stages are blocked in the plan, before anything runs, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.plan.data import DataFacts
from orchestrator.plan.diff import diff
from orchestrator.plan.unfold import unfold
from tests.orchestrator.made_up import listing, planned, present, write_grid
from trainables.data import Listing

GRID = """\
grid: mine
title: Mine
profile: paper
pretexts:
  breeds: {method: classification}
  patches: {method: segmentation, prepare: {kind: car-patches}}
rows:
  - {scenario: random-init, model: Random}
  - {scenario: seg-enc, model: Segmentation, pretext: segmentation}
  - {scenario: cls-enc, model: Classification, pretext: breeds}
  - {scenario: seg-enc, model: Patches, pretext: patches}
columns:
  - {dataset: shapes, pretext_data: flowers17, fractions: [0.2]}
seeds: [0, 1]
"""
TUNED = GRID.replace("{method: classification}", "{method: classification, tune: {space: learning-rate, trials: 3}}")
LABELS = "flowers17: pretraining needs at least 4 images with image labels, 2 of them for validation, but /{} has {}"
MASKS = "flowers17: pretraining needs at least 4 images with masks, 2 of them for validation, but /{} has {}"


def where(count: int, **changed: Any) -> Any:
    """Facts with `count` annotated images in the data set that pretraining sees."""

    def facts(spec: Mapping[str, Any]) -> DataFacts:
        found = listing("flowers17", count)
        few: Listing = replace(found, folder=Path("/place"), **changed)
        return present(spec) if spec["reader"] == "shapes" else DataFacts("flowers17", f"files of {few.labels}", few)

    return facts


def blocked(grid: str, facts: Any) -> dict[str, str]:
    """Why each pretext's stages are blocked; all of its stages and cells alike, their keys provisional."""
    plan = unfold(planned(grid, facts), {})
    found = diff([plan], ())
    reasons: dict[str, set[str | None]] = {}
    for key, stage in found.stages.items():
        if stage.kind != "prepare" and stage.labels.get("pretext"):
            reason = found.reasons.get(key)
            assert (found.states[key] == "blocked") is (reason is not None)
            assert stage.provisional or reason is None
            reasons.setdefault(str(stage.labels["pretext"]), set()).add(reason)
    cells = {(cell.pretext, cell.blocked) for cell in plan.cells}
    told = {pretext: whys.pop() for pretext, whys in reasons.items() if len(whys) == 1}
    assert told.keys() == reasons.keys() and cells >= set(told.items()) and (None, None) in cells
    return {pretext: why for pretext, why in told.items() if why is not None}


def test_without_labels_classification_alone_is_blocked(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, GRID)
    assert blocked(grid, where(8)) == {"breeds": LABELS.format("place", 0)}
    one_class = where(8, labels=(0,) * 8)
    assert blocked(grid, one_class) == {"breeds": "flowers17: expected at least 2 classes, but /place has 1"}
    enough = where(8, labels=(0, 1) * 4)
    assert blocked(grid, enough) == {}
    assert blocked(grid, where(8, labels=(0, 1, 1) + (None,) * 5)) == {"breeds": LABELS.format("place", 3)}
    few, there = planned(grid, one_class), planned(grid, enough)
    pretrains = [{k for k, s in plan.stages.items() if s.kind == "pretrain"} for plan in (few, there)]
    assert not pretrains[0] & pretrains[1]  # a larger set has other keys, as the provisional ones say


def test_without_masks_all_that_needs_them_is_blocked_and_nothing_is_prepared(tmp_path: Path) -> None:
    facts = where(3, labels=(0, 1, 0))
    why = MASKS.format("place", 3)
    grid = write_grid(tmp_path, GRID)
    assert blocked(grid, facts) == {
        "segmentation": why, "patches": why, "breeds": LABELS.format("place", 3),
    }  # fmt: skip
    found = diff([planned(grid, facts)], ())
    (prepare,) = [key for key, stage in found.stages.items() if stage.kind == "prepare"]
    assert found.states[prepare] == "unneeded" and found.stages[prepare].blocked is None


def test_a_studys_trials_are_blocked_with_it(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, TUNED)
    assert blocked(grid, where(8)) == {"breeds": LABELS.format("place", 0)}
    found = diff([unfold(planned(grid, where(8)), {})], ())
    trials = [key for key, stage in found.stages.items() if stage.kind == "trial"]
    assert len(trials) == 3 and {found.states[key] for key in trials} == {"blocked"}
    assert blocked(grid, where(8, labels=(0, 1) * 4)) == {}
