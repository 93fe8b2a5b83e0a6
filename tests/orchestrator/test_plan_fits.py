"""Data that do not go with a network or with what finetuning looks at: blocked in the plan, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.data import DataFacts, examine
from tests.orchestrator.made_up import planned, present, write_grid

RANDOM = """\
grid: mine
title: Mine
profile: paper
rows:
  - {scenario: random-init, model: Random}
columns:
  - {dataset: shapes, fractions: [0.05]}
  - {dataset: nodules}
seeds: [0]
"""
VOLUMES = RANDOM + "network: {name: genesis-unet3d}\n"
GENESIS = VOLUMES.replace(
    "columns:", "  - {scenario: seg-enc, model: G, pretext: models-genesis, pretext_data: DATA}\ncolumns:"
)
GENESIS += "pretexts: {models-genesis: {prepare: {kind: cubes}}}\n"
NO_PART = (
    "finetune: shapes has no validation part, which keep: best, plateau and patience look at; expected keep: last "
)


def facts(spec: Mapping[str, Any]) -> DataFacts:
    """As they are: what is synthetic lies on no disk."""
    return examine(spec["reader"], spec["options"], Path("/nowhere"))


def whys(folder: Path, text: str, facts_of: Any = facts) -> dict[tuple[str, str], str | None]:
    """Why each cell is blocked, by model and data set."""
    plan = planned(write_grid(folder, text), facts_of)
    for stage in plan.stages.values():
        assert stage.provisional or stage.blocked is None
    return {(cell.model, cell.dataset): cell.blocked for cell in plan.cells}


def test_pictures_for_volumes_and_the_reverse(tmp_path: Path) -> None:
    assert whys(tmp_path, RANDOM) == {
        ("Random", "shapes"): None,
        ("Random", "nodules"): "network conrec-unet takes pictures, but nodules holds volumes; expected network.name "
        "genesis-unet3d",
    }
    assert whys(tmp_path, VOLUMES) == {
        ("Random", "shapes"): "network genesis-unet3d takes volumes, but shapes holds pictures; expected another "
        "network or dataset",
        ("Random", "nodules"): None,
    }  # fmt: skip


def test_a_pretext_of_pictures_on_volumes(tmp_path: Path) -> None:
    text = RANDOM.replace(
        "columns:", "  - {scenario: cls-enc, model: S, pretext: simclr, pretext_data: nodules}\ncolumns:"
    )
    assert whys(tmp_path, text)["S", "shapes"] == "nodules: holds volumes; expected a dataset of pictures here"
    probe = RANDOM.replace("random-init", "probe").replace("dataset: shapes", "dataset: textures")
    assert whys(tmp_path, probe)["Random", "textures"] is None


def test_a_preparation_of_what_the_data_do_not_hold(tmp_path: Path) -> None:
    told = whys(tmp_path, GENESIS.replace("DATA", "shapes"))
    assert told["G", "nodules"] == "cubes: shapes holds pictures; expected volumes, such as luna16 or nodules"
    assert whys(tmp_path, GENESIS.replace("DATA", "nodules"))["G", "nodules"] is None
    row = "  - {scenario: seg-enc, model: P, pretext: segmentation, pretext_data: nodules}\ncolumns:"
    patches = "pretexts: {segmentation: {prepare: {kind: KIND}}}\n"
    text = RANDOM.replace("columns:", row) + patches.replace("KIND", "car-patches")
    assert str(whys(tmp_path, text)["P", "shapes"]).startswith("car-patches: nodules is no task of one class")
    color = RANDOM.replace("columns:", row.replace("segmentation", "byol-color"))
    color += "pretexts: {byol-color: {prepare: {kind: colorize, colours: pseudo}}}\n"
    assert str(whys(tmp_path, color)["P", "shapes"]).startswith("colorize: nodules ((synthetic)) has no pictures")


@pytest.mark.parametrize("wish", ["keep: best", "plateau: 2", "patience: 3"])
def test_a_finetune_that_looks_at_a_validation_part(tmp_path: Path, wish: str) -> None:
    asked = whys(tmp_path, RANDOM + f"finetune: {{{wish}}}\n")
    assert str(asked["Random", "shapes"]).startswith(NO_PART)
    nodules = whys(tmp_path, VOLUMES + f"finetune: {{{wish}}}\n")
    assert nodules["Random", "nodules"] is None  # it has such a part
    assert whys(tmp_path, RANDOM + f"finetune: {{{wish}, validation_share: 0.25}}\n")["Random", "shapes"] is None


def test_a_share_of_too_few_images(tmp_path: Path) -> None:
    text = RANDOM.replace("0.05", "0.005") + "finetune: {validation_share: 0.25}\n"  # one image of 240
    assert whys(tmp_path, text)["Random", "shapes"] == (
        "0.25 of the training images are to be held out, but there are 1 of them"
    )
    without = whys(tmp_path, text.replace("0.25", "0"))
    assert without["Random", "shapes"] is None


def test_volumes_that_cannot_have_that_size(tmp_path: Path) -> None:
    def small(width: int, depth: int, size: int) -> str:
        return (
            VOLUMES + f"datasets: {{nodules: {{width: {width}, depth: {depth}}}}}\nfinetune: {{input_size: {size}}}\n"
        )

    assert whys(tmp_path, small(64, 32, 32))["Random", "nodules"] is None
    assert whys(tmp_path, small(16, 16, 128))["Random", "nodules"] is None  # they stay as they are
    assert "the side of 32 would be no whole number" in str(whys(tmp_path, small(40, 32, 16))["Random", "nodules"])
    assert "takes sides that are a multiple of 8" in str(whys(tmp_path, small(32, 16, 24))["Random", "nodules"])
    pretrain = GENESIS.replace("DATA", "nodules") + "pretrain: {input_size: 16}\n"
    assert "a multiple of 8 and at least 16" in str(whys(tmp_path, pretrain)["G", "nodules"])


def test_scans_are_cut_to_the_size_of_the_prepare_stage(tmp_path: Path) -> None:
    def of_scans(spec: Mapping[str, Any]) -> DataFacts:
        found = facts(spec)
        return found if found.listing is None else replace(found, listing=replace(found.listing, kind="scans"))

    grid = GENESIS.replace("DATA", "nodules")
    assert whys(tmp_path, grid, of_scans)["G", "nodules"] is None
    flat = grid.replace("kind: cubes", "kind: cubes, depth: 8")
    assert "at least 16" in str(whys(tmp_path, flat, of_scans)["G", "nodules"])


def test_a_studys_objective(tmp_path: Path) -> None:
    text = RANDOM.replace(
        "columns:", "  - {scenario: cls-enc, model: S, pretext: simclr, pretext_data: shapes}\ncolumns:"
    )
    tune = "pretexts: {simclr: {tune: {trials: 2, objective: {dataset: textures, finetune: {DIALS}}}}}\n"
    assert whys(tmp_path, text + tune.replace("DIALS", ""))["S", "shapes"] is None
    told = str(whys(tmp_path, text + tune.replace("DIALS", "keep: best"))["S", "shapes"])
    assert told.startswith(NO_PART.replace("shapes", "textures"))


def test_absent_data_are_told_first(tmp_path: Path) -> None:
    def nothing(spec: Mapping[str, Any]) -> DataFacts:
        return (
            DataFacts(spec["reader"], "absent", absent="/data: not there")
            if spec["reader"] != "shapes"
            else present(spec)
        )

    assert whys(tmp_path, RANDOM + "finetune: {keep: best}\n", nothing)["Random", "nodules"] == "/data: not there"
