"""docs/figures: each figure of the papers has its command there, the commands hold, and the pictures are small."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.grid.load import builtin_grids, load_request
from orchestrator.run_grid import main, parser

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "figures"


@pytest.fixture(scope="module")
def make() -> Any:
    spec = importlib.util.spec_from_file_location("make_figures", FOLDER / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_has_a_command_that_can_be_asked_for(make: Any) -> None:
    asked = set()
    for command, pictures in make.commands():
        assert command[:3] == ["python", "-m", "orchestrator.run_grid"]
        given = parser().parse_args(command[3:])
        (grid,) = given.grids
        load_request(grid, profile=given.profile, overrides=given.overrides, only=given.only)
        assert all(picture.startswith(f"{grid}-") for picture in pictures) and pictures
        asked.add(grid)
    figures = {grid for grid in builtin_grids() if "fig" in grid or grid.endswith("table1")}
    assert asked == figures and len(figures) == 16


def test_what_is_not_committed_can_be_made_of_real_images_but_for_weights_that_are_no_small_file(
    shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, real = re.findall(r"```\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.S)
    asked = set()
    for line in real.splitlines():
        variable, grid, *more = shlex.split(line)
        assert variable == "$MINI"
        where = ["--store", str(tmp_path), "--data-root", str(shared_data)]
        assert main(["--profile", "mini", *where, "--dry-run", "--json", grid, *more]) == 0
        found = json.loads(capfd.readouterr().out)
        reasons = [reason.partition(":")[0] for reason in found["blocked_reasons"]]
        assert found["stages"]["analysis"] >= 1
        assert reasons == (["no weights torchvision-resnet18"] if grid == "p1-fig6" else []), reasons
        asked.add(grid)
    assert asked == {"p1-table1", "p1-fig2", "p1-fig6", "p1-fig7"}


def test_pictures_are_named_in_a_command_and_small(make: Any) -> None:
    named = {picture for _, pictures in make.commands() for picture in pictures}
    for path in FOLDER.glob("*.png"):
        assert path.name in named and path.stat().st_size <= make.LIMIT


def test_a_picture_is_made_smaller_until_it_fits_and_no_other(make: Any) -> None:
    def png(pixels: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    noise = np.random.RandomState(0).randint(0, 256, (700, 900, 3), np.uint8)
    found = make.shrunk(png(noise))
    assert len(found) <= make.LIMIT and Image.open(io.BytesIO(found)).width < 900
    flat = np.full((700, 900, 3), 255, np.uint8)
    flat[100:200, 100:300] = (0, 114, 178)
    found = Image.open(io.BytesIO(make.shrunk(png(flat)))).convert("RGB")
    assert (np.asarray(found) == flat).all()
