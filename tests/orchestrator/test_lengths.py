"""How long training is: epochs against what a real pretraining makes of them, lengths and rungs of studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.grid.errors import GridError
from orchestrator.grid.load import load_request
from orchestrator.grid.schema import Tune, check_section
from orchestrator.plan.lengths import in_steps, lengths, rungs, seen_by, trained_on
from tests.orchestrator.made_up import absent, planned, write_grid
from tests.orchestrator.study_runs import GRID
from trainables.context import Context
from trainables.data import open_dataset
from trainables.pretexts.pretrain import pretrain
from trainables.settings import PRETEXT_SETTINGS, PretrainSettings

# Epochs

CASES: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {  # method, dials, images, dials of training
    "a tenth is held out": ("reconstruction", {}, 40, {"epochs": 1.5, "batch": 7}),
    "at most so many are": ("reconstruction", {}, 60, {"epochs": 2, "batch": 9, "validation_images": 3}),
    "two at least are": ("reconstruction", {}, 8, {"epochs": 3, "batch": 5}),
    "two at least train": ("segmentation", {"validation_share": 0.9}, 5, {"epochs": 1, "batch": 2}),
    "a share is": ("segmentation", {"validation_share": 0.25}, 30, {"epochs": 0.1, "batch": 2}),
    "in decimals, not in binary": ("reconstruction", {}, 60, {"epochs": 0.7, "batch": 2, "validation_images": 10}),
}


@pytest.mark.parametrize("case", CASES)
def test_epochs_come_to_the_steps_that_pretraining_takes(tmp_path: Path, case: str) -> None:
    method, own, count, dials = CASES[case]
    options = {"count": count, "size": 32}
    spec = {
        "pretext": check_section(PRETEXT_SETTINGS[method], {"method": method, **own}),
        "network": {"name": "conrec-unet", "width": 2},
        "data": {"reader": "shapes", "options": options},
        "pretrain": check_section(
            PretrainSettings, {"optimizer": "adam", "learning_rate": 1e-3, "input_size": 32} | dials
        ),
        "seed": 0,
    }
    found = open_dataset("shapes", tmp_path, options)
    facts = pretrain(spec, Context(tmp_path, tmp_path / "work", cache_dir=tmp_path / "cache")).facts
    assert trained_on(spec["pretext"], spec["pretrain"], seen_by(spec["pretext"], found)) == facts["n_pretrain"]
    resolved = in_steps(spec["pretext"], spec["pretrain"], found)
    assert resolved == {**spec["pretrain"], "epochs": None, "steps": facts["steps"]}
    assert in_steps(spec["pretext"], resolved, found) == resolved


def test_a_study_of_epochs_counts_their_steps(tmp_path: Path) -> None:
    """240 images, 16 held out by the profile: 224 train, 56 steps of 4 make an epoch."""
    text = GRID.replace("TUNE", "{trials: 3, lengths: [0.5, 1], pruning: {rule: asha}}")
    grid = write_grid(tmp_path, text.replace("steps: 8", "epochs: 5"))
    (study,) = planned(grid).studies.values()
    assert study.steps == (140, 280) and study.rungs == (32, 94)
    assert study.spec["pretrain"]["epochs"] is None and study.spec["pretrain"]["steps"] == 280
    steps = write_grid(tmp_path, text.replace("steps: 8", "steps: 280"), "steps.yaml")
    assert set(planned(steps).studies) == {study.key}
    (waiting,) = planned(grid, absent).studies.values()
    assert waiting.provisional and waiting.blocked


@pytest.mark.parametrize("kind", ["car-patches", "cubes"])
def test_epochs_of_what_is_still_to_be_made_are_told_with_file_and_line(tmp_path: Path, kind: str) -> None:
    text = GRID.replace("TUNE", "{trials: 3}").replace("steps: 8", "epochs: 2.5")
    grid = write_grid(tmp_path, text.replace("    tune:", f"    prepare: {{kind: {kind}}}\n    tune:"))
    with pytest.raises(GridError) as told:
        load_request(grid)
    text = str(told.value)
    assert text.startswith(f"{grid}:14: pretexts.reconstruction.tune: a study counts in steps") and "\n" not in text
    assert text.endswith("an epoch of pretrain.epochs 2.5 has is only known once `prepare` has made them; expected "
                         "pretrain.steps, with pretrain.epochs null")  # fmt: skip


# Lengths and rungs


@pytest.mark.parametrize(
    ("shares", "full", "every", "expected"),
    [
        ([1.0], 90, 10, (90,)),
        ([0.25, 0.5, 1.0], 400, 50, (100, 200, 400)),
        ([0.25, 0.5, 1.0], 90, 20, (20, 40, 90)),  # 22.5 and 45 are brought to points of the curve, 90 is its end
        ([0.5], 90, 10, (40,)),  # 45 lies between; half goes to the even one, as Python rounds
        ([2.0, 1.0], 50, 20, (50, 100)),
        ([0.1, 1.0], 8, 20, (1, 8)),  # the curve has points at 0 and 8 only
        ([0.001, 1.0], 100, 20, (1, 100)),
    ],
)
def test_lengths_fall_on_points_of_the_curve(
    shares: list[float], full: int, every: int, expected: tuple[int, ...]
) -> None:
    assert lengths(Tune(trials=1, lengths=shares), full, every) == expected


@pytest.mark.parametrize(
    ("pruning", "longest", "every", "expected"),
    [
        ({}, 900, 10, (100, 300)),  # 1/9 and 1/3
        ({"least": 0.25, "factor": 2}, 400, 50, (100, 200)),
        ({"least": 0.1, "factor": 2}, 100, 1, (10, 20, 40, 80)),
        ({}, 100, 20, (20, 40)),  # 11.1 and 33.3
        ({}, 40, 20, (20,)),
        ({}, 20, 20, ()),
        ({"least": 0.5}, 90, 50, (50,)),
    ],
)
def test_rungs_are_points_of_the_curve_before_its_end(
    pruning: dict[str, Any], longest: int, every: int, expected: tuple[int, ...]
) -> None:
    tune = Tune.model_validate({"trials": 1, "pruning": pruning})
    assert rungs(tune, longest, every) == expected
    assert rungs(Tune(trials=1), longest, every) == ()
