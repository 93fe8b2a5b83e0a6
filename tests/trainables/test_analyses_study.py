"""The figures of a study: its numbers by hand, and pictures of studies of every kind."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from trainables.analyses import analyse
from trainables.analyses.figures import COLORS
from trainables.context import Context, Result, StageError

BLUE = COLORS[0]  # complete trials, the best so far, the bars of importance


def trial(
    number: int, state: str = "COMPLETE", value: float | None = 1.0, ran: int = 10, **params: Any
) -> dict[str, Any]:
    return {"number": number, "state": state, "value": value, "params": params, "steps_run": ran}


def drawn(folder: Path, trials: list[dict[str, Any]], direction: str = "minimize", **importance: float) -> Result:
    spec = {"analysis": {"kind": "study"}, "name": "simclr | shapes", "metric": "val_loss", "direction": direction}
    return analyse({**spec, "trials": trials, "importance": importance}, Context(folder, folder))


def inked(picture: bytes, color: str) -> int:
    """How many pixels have just this colour."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    wanted = np.array([round(255 * part) for part in to_rgb(color)])
    return int((abs(pixels - wanted).max(axis=-1) <= 1).sum())


TRIALS = [
    trial(0, value=3.0, rate=1e-4, decay=0.0),
    trial(1, "PRUNED", 4.0, ran=3, rate=1e-2, decay=1e-4),
    trial(2, "FAIL", None, ran=0, rate=1.0, decay=0.0),
    trial(3, value=2.0, rate=3e-3, decay=1e-4),
]


@pytest.mark.parametrize(("direction", "best"), [("minimize", 2.0), ("maximize", 3.0)])
def test_its_numbers(tmp_path: Path, direction: str, best: float) -> None:
    result = drawn(tmp_path, TRIALS, direction)
    assert result.metrics == {"trials": 4, "pruned": 1, "failed": 1, "steps_run": 23, "best": best}
    assert set(result.files) == {"history.png", "slices.png"} and result.weights == {}


def test_pictures_are_the_same_each_time_and_fit_a_column(tmp_path: Path) -> None:
    first, second = (drawn(tmp_path, TRIALS, rate=0.7, decay=0.3) for _ in range(2))
    assert first.files == second.files and set(first.files) == {"history.png", "slices.png", "importance.png"}
    for data in first.files.values():
        width, height = Image.open(io.BytesIO(data)).size
        assert 300 < width < 7.5 * 200 and 100 < height < 1000


def test_a_bar_is_as_long_as_its_share(tmp_path: Path) -> None:
    bars = [inked(drawn(tmp_path, TRIALS, rate=share).files["importance.png"], BLUE) for share in (0.25, 0.5, 1.0)]
    assert bars[1] == pytest.approx(2 * bars[0], rel=0.03) and bars[2] == pytest.approx(2 * bars[1], rel=0.03)


def test_only_complete_trials_are_drawn_as_such(tmp_path: Path) -> None:
    pruned = drawn(tmp_path, [trial(n, "PRUNED", 1.0 + n, rate=0.1 * n) for n in range(4)])
    failed = drawn(tmp_path, [trial(n, "FAIL", None, rate=0.1) for n in range(4)])
    for result in (pruned, failed):
        assert "best" not in result.metrics
        assert [inked(data, BLUE) for data in result.files.values()] == [0, 0]
    assert all(inked(data, BLUE) for data in drawn(tmp_path, TRIALS).files.values())


@pytest.mark.parametrize(
    "params",
    [
        [{"tasks": name} for name in ("one", "four", "one")],
        [{"steps": steps} for steps in (10, 20, 40)],
        [{"flag": flag} for flag in (True, False, True)],
        [{"rate": 10.0**-n} for n in range(9)],  # on a logarithmic axis
        [{"rate": n / 10} for n in range(9)],
        [{"rate": 0.1}, {"rate": 0.2, "momentum": 0.9}, {"momentum": 0.99}],  # define by run: not all have all
        [{"mixed": value} for value in (None, "a", 3)],
    ],
)
def test_parameters_of_every_kind(tmp_path: Path, params: list[dict[str, Any]]) -> None:
    result = drawn(tmp_path, [trial(n, value=float(n), **given) for n, given in enumerate(params)])
    assert inked(result.files["slices.png"], BLUE) > 0


@pytest.mark.filterwarnings("error")
def test_without_parameters_there_are_no_slices_and_without_trials_an_empty_history(tmp_path: Path) -> None:
    assert set(drawn(tmp_path, [trial(0), trial(1)]).files) == {"history.png"}
    assert drawn(tmp_path, []).metrics == {"trials": 0, "pruned": 0, "failed": 0, "steps_run": 0}
    drawn(tmp_path, [trial(0, "FAIL", None, rate=0.1)])


def test_an_analysis_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no analysis 'studdy'; there are study"):
        analyse({"analysis": {"kind": "studdy"}}, Context(tmp_path, tmp_path))
