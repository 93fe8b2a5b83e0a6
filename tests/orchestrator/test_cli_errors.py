"""The command line on wrong requests and bad data: exit codes, one clear message, no traceback, nothing half done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.run_grid import main
from tests.orchestrator.made_up import GRID, write_grid
from tests.orchestrator.test_run import executed
from tests.trainables.data_trees import folder_set, save_image, save_mask

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--set", "finetune.steps=2", "--set", "pretrain.steps=2", "--only", "seed=0", "--executor", "inline"]
MINE = (
    GRID.replace("dataset: shapes", "dataset: mine")
    .replace("pretext_data: shapes", "pretext_data: mine")
    .replace("[0.05, 0.2]", "[0.2]")
    + "datasets: {mine: {reader: folder, path: set}}\nstand_ins: {mine: mine}\n"
)


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path / "cache"))
    for name in ("TRANSFERGRID_DATA", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


class Told:
    """What a command said: exit code, stdout and stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in out + err, err


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    def call(*argv: str) -> Told:
        capfd.readouterr()
        return Told(main(list(argv)), *capfd.readouterr())

    return call


def commits(store: Path) -> list[Path]:
    return [p for part in ("commits", "artifacts", "plans") for p in (store / part).rglob("*.json")]


def refused(told: Told, store: Path | None = None) -> str:
    """The one message of a refusal with exit code 2, the last that is said."""
    assert (told.code, told.out) == (2, ""), told.err
    assert store is None or not commits(store)
    starts = [number for number, line in enumerate(told.err.splitlines()) if line.startswith("error: ")]
    assert len(starts) == 1, told.err
    return "\n".join(told.err.splitlines()[starts[0] :]).removeprefix("error: ")


# Requests that are wrong


def test_an_unknown_grid(run: Any, tmp_path: Path) -> None:
    assert "no grid 'p1-tabel2': did you mean 'p1-table2'" in refused(run("p1-tabel2"))
    assert not (tmp_path / "runs").exists()  # not even an empty store


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["smoke", "--profile", "large"], "--profile large: no such profile"),
        (["smoke", "--set", "finetune.stepz=1"], "--set finetune.stepz=1: unknown key"),
        (["smoke", "--only", "seed=7"], "--only seed=7: the grid has no such seed; allowed: 0, 1, 2"),
        (["smoke", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["smoke", "--stage", "zzz", "--executor", "inline"], "--stage zzz: 0 stages of this plan"),
        (["smoke", "--store", "ftp://host/x"], "store ftp://host/x: "),
    ],
)
def test_a_wrong_request_is_refused_before_anything(run: Any, argv: list[str], says: str, tmp_path: Path) -> None:
    assert says in refused(run(*argv), tmp_path / "runs")
    assert says in refused(run(*argv, "--dry-run", "--json"), tmp_path / "runs")


@pytest.mark.parametrize("argv", [["--max-concurrent", "0"], ["--executor", "threads"], ["--nonsense"]])
def test_wrong_options_are_argparses_business(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["smoke", *argv])
    assert caught.value.code == 2 and "error: " in capfd.readouterr().err


# Places that are wrong


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/runs", "/proc"])
def test_a_store_that_cannot_be_written(run: Any, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    told = refused(run("smoke", "--store", place, *TINY))
    assert told.startswith(f"store {place}: ") and "\n" not in told


def test_mlflow_where_nothing_answers(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(run("smoke", *TINY, "--tracking-uri", "http://127.0.0.1:9"), tmp_path / "runs")
    assert told.startswith("MLflow at http://127.0.0.1:9: nothing answers") and "--tracking-uri" in told
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "MLflow at http://127.0.0.1:9: nothing answers" in run("smoke", *TINY).err
    assert run("smoke", "--dry-run", *TINY).code == 0  # a plan needs no MLflow


def test_a_data_root_that_is_missing_or_empty(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, says, lines in (("nowhere", "cannot read the data root", 1), ("empty", "no folder ", 3)):
        told = refused(run("p1-table2", "--data-root", place, "--executor", "inline"), tmp_path / "runs")
        assert told.startswith("nothing can run:\n") and says in told and place in told
        assert len(told.splitlines()) == 1 + lines  # a line for each thing that is missing, not for each cell


def test_absent_data_leave_the_rest_to_run_and_the_exit_code_says_it(run: Any, tmp_path: Path) -> None:
    text = GRID.replace("seeds:", "  - {dataset: pets, pretext_data: pets, fractions: [0.2]}\nseeds:") + (
        "profiles:\n  smoke: {stand_ins: {pets: pets}}\n"
    )
    name = write_grid(tmp_path, text)
    told = run(name, *TINY, "--only", "model=Random", "--json", "--data-root", str(tmp_path))
    assert told.code == 1
    assert "blocked: " in told.err and f"{tmp_path}: no folder oxford-iiit-pet" in told.err
    totals = json.loads(told.out)
    assert (totals["cells"], totals["succeeded"], totals["failed"], totals["blocked"]) == (3, 2, 0, 1)
    assert executed(totals) == {"finetune": 2}
    again = run(name, *TINY, "--only", "model=Random", "--json", "--data-root", str(tmp_path))
    assert (again.code, executed(json.loads(again.out)), json.loads(again.out)["reused"]) == (1, {}, 2)


# Dry runs


def test_a_dry_run_with_absent_data_is_no_error_and_writes_nothing(run: Any, tmp_path: Path) -> None:
    told = run("p1-table2", "--dry-run", "--data-root", str(tmp_path / "nowhere"))
    assert (told.code, told.out) == (0, "")
    assert re.search(
        r"pretrain conrec \| pets +[0-9a-f]{24} \(provisional\) +18  blocked +[0-9.]+ h", told.err
    )  # not cut
    assert "108 cells" in told.err and "provisional" in told.err and str(tmp_path / "nowhere") in told.err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_gives_exactly_one_json_object(run: Any, tmp_path: Path) -> None:
    told = run("p1-table2", "p1-table6", "--dry-run", "--json", "--data-root", str(tmp_path / "nowhere"))
    assert told.code == 0 and told.out.count("\n") == 1
    found = json.loads(told.out)
    assert {
        "profile", "cells", "stages", "reused", "to_run", "blocked", "deferred", "naive_pretrain_stages",
        "estimated_device_seconds", "naive_device_seconds", "grids",
    } <= found.keys()  # fmt: skip
    assert (found["cells"], found["stages"]["pretrain"], found["blocked"]) == (126, 8, 134)
    assert [part["grid"] for part in found["grids"]] == ["p1-table2", "p1-table6"]


def test_several_profiles_are_named_together(run: Any, tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID.replace("profile: smoke", "profile: mini"))
    found = json.loads(run("smoke", name, "--dry-run", "--json").out)
    assert found["profile"] == "smoke,mini" and [part["grid"] for part in found["grids"]] == ["smoke", "mine"]


def test_a_wrong_option_is_refused_where_absent_data_would_only_be_blocked(run: Any, tmp_path: Path) -> None:
    other = "  - {dataset: shapes, pretext_data: shapes, fractions: [0.2]}\nseeds:"
    text = MINE.replace("seeds:", other, 1).replace("mine: mine}", "mine: mine, shapes: shapes}")
    folder = folder_set(tmp_path / "data" / "set", count=20)
    asked = [write_grid(tmp_path, text), *TINY, "--only", "model=Random", "--data-root", "data"]
    wrong = ["--set", "datasets.mine.target=cat"]
    for more in (wrong, [*wrong, "--dry-run"]):
        assert "target 'cat', but no classes" in refused(run(*asked, *more), tmp_path / "runs")
    folder.rename(tmp_path / "data" / "elsewhere")
    assert run(*asked, *wrong, "--dry-run").code == 0
    told = run(*asked, *wrong, "--json")
    assert told.code == 1 and executed(json.loads(told.out)) == {"finetune": 1}, told.err
    assert "blocked: data/set: no such folder; expected one with images/" in told.err


# Data that are there and wrong


def truncate(folder: Path) -> None:
    (folder / "images" / "p3.png").unlink()
    save_image(folder / "images" / "p3.jpg", height=200, width=200)
    content = (folder / "images" / "p3.jpg").read_bytes()
    (folder / "images" / "p3.jpg").write_bytes(content[: len(content) // 2])


FAULTS = {
    "truncated image": (truncate, "images/p3.jpg: this image "),
    "a picture that is text": (lambda f: (f / "images" / "p3.png").write_text("hello"), "images/p3.png: this image "),
    "mask of another size": (
        lambda f: save_mask(f / "masks" / "p4.png", [0, 255, 0, 0], 10, 30),
        "masks/p4.png: this mask has 30 x 10 pixels; expected 30 x 20",
    ),
    "unknown value": (lambda f: save_mask(f / "masks" / "p5.png", [0, 7, 0, 0]), "masks/p5.png: this mask "),
    "missing mask": (lambda f: (f / "masks" / "p6.png").unlink(), "images/p6.png: image without a mask"),
    "empty class": (
        lambda f: [Image.new("L", (30, 20)).save(p) for p in (f / "masks").iterdir()],
        "no mask has a pixel of the class object",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_files_stop_everything_before_it_starts(run: Any, tmp_path: Path, fault: str) -> None:
    damage, says = FAULTS[fault]
    folder = folder_set(tmp_path / "data" / "set", count=20)
    damage(folder)
    name = write_grid(tmp_path, MINE)
    told = refused(run(name, *TINY, "--data-root", "data"), tmp_path / "runs")
    assert told.startswith("the data have faults; nothing was run:\n") and says in told, told
    dry = run(name, "--dry-run", "--data-root", "data")
    assert dry.code == 0 and says in dry.err


def test_a_fraction_that_is_no_image(run: Any, tmp_path: Path) -> None:
    folder_set(tmp_path / "data" / "set", count=20)
    name = write_grid(tmp_path, MINE.replace("[0.2]", "[0.01]"))
    told = refused(run(name, *TINY, "--data-root", "data"), tmp_path / "runs")
    assert "nothing can run" in told and "1 % of 20 images is 0 images; at least 1 must train" in told
    assert run(name, "--dry-run", "--data-root", "data").code == 0


def test_a_folder_that_is_not_there(run: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    told = refused(run(write_grid(tmp_path, MINE), *TINY, "--data-root", "data"), tmp_path / "runs")
    assert "data/set: no such folder; expected one with images/" in told
