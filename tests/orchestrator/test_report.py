"""The report of a real small run, in a real browser without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from orchestrator import report
from orchestrator.record.store import open_store
from orchestrator.results.cells import tidy
from orchestrator.results.report.curves import draw, mean_line, ticks
from orchestrator.results.report.glance import glance
from orchestrator.results.report.runs import duration
from orchestrator.results.table import summarise
from tests.orchestrator.made_up import write_grid
from tests.orchestrator.results_made_up import cell, commit, plan
from tests.orchestrator.results_published import published_table

ROOT = Path(__file__).resolve().parents[2]
GRID = """\
grid: reported
title: "A tuned pretext <b>on</b> shapes & \\"textures\\""
profile: smoke
rows:
  - {scenario: random-init, model: Random}
  - {scenario: seg-enc, model: Reconstruction, pretext: reconstruction}
  - {scenario: cls-enc, model: SimCLR, pretext: simclr}
columns:
  - {dataset: shapes, pretext_data: shapes, fractions: [0.2, 1.0]}
seeds: [0, 1]
pretrain: {steps: 4, batch: 4}
pretexts:
  reconstruction:
    pretrain: {steps: 8, report_every: 2, batch: 4}
    tune: {space: learning-rate, trials: 3, lengths: [0.5, 1], startup: 2}
claims:
  - id: r-c1
    statement: A pretrained encoder ends above a random start.
    source: nobody, nowhere
    test: difference
    rows: {scenario: seg-enc}
    against: {scenario: random-init}
    over: {fraction: 0.2}
"""
TINY = ["--set", "finetune.steps=4", "--set", "network.width=4"]
TINY += ["--set", "datasets.shapes.count=40", "--set", "datasets.shapes.size=32"]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hostile folder with a small run and its report. Half of the cells are blocked: no image evaluates them."""
    folder = tmp_path_factory.mktemp("my “räports” & <b>")
    gone = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "TRANSFERGRID_DATA", "TRANSFERGRID_STUDY_STORAGE")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    grid, store = write_grid(folder, GRID, "reported.yaml"), str(folder / "runs")
    words = ["orchestrator.run_grid", grid, "--store", store, "--executor", "inline", *TINY]
    run(words, kept, code=1)
    told = run(["orchestrator.report", grid, "--store", store, "--out", str(folder / "out"), "--json"], kept)
    (folder / "told.json").write_text(told, encoding="utf-8")
    return folder


def run(words: list[str], environment: dict[str, str], code: int = 0) -> str:
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def page_of(folder: Path) -> Path:
    return folder / "out" / "reported" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium under playwright; skipped where either is absent."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium here; apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=200_000)
        yield found
        found.close()


def opened(browser: Any, page: Path, size: str = "desktop", scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """The page with the network off; what the console said, and every address that was asked for beside the page."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    context.set_default_timeout(200_000)  # of a machine with much else to do
    tab, said, asked = context.new_page(), list[str](), list[str]()
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    own = [page.as_uri()]
    return tab, said, [url for url in asked if not url.startswith("data:") and url not in own]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_asks_for_nothing_says_nothing_and_fits(folder: Path, browser: Any, size: str, scheme: str) -> None:
    tab, said, asked = opened(browser, page_of(folder), size, scheme)
    assert (said, asked) == ([], [])
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.evaluate("document.images.length") >= 2  # of the study's analysis


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(folder: Path, browser: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core here")
    tab, _, _ = opened(browser, page_of(folder), "phone", scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = axe.Axe().run(tab)
    violations = [(v["id"], v["impact"], [n["html"][:200] for n in v["nodes"]]) for v in found.response["violations"]]
    assert violations == []


def test_the_keyboard_reaches_the_results_first(folder: Path, browser: Any) -> None:
    tab, _, _ = opened(browser, page_of(folder))
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "scroll"  # the table, to be scrolled by arrows


def test_it_prints_on_few_pages(folder: Path, browser: Any) -> None:
    tab, _, _ = opened(browser, page_of(folder))
    pdf = tab.pdf(prefer_css_page_size=True)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 6


class Headings(HTMLParser):
    """Texts by the id of their element, and the scope of every th."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: list[str | None] = []
        self.captions = self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "th":
            self.scopes.append(dict(attrs).get("scope"))
        self.captions += tag == "caption"
        self.tables += tag == "table"


def test_what_stands_in_it(folder: Path) -> None:
    text = page_of(folder).read_text("utf-8")
    store = open_store(str(folder / "runs"))
    made = store.load_plan("reported")
    assert "<b>on" not in text
    assert "&lt;b&gt;on&lt;/b&gt; shapes &amp; &#34;textures&#34;" in text
    for expected in (
        made["plan"], "smoke profile", "finetune.steps=4", "leaves none of the 40", "study reconstruction | shapes",
        "learning_rate", "Trials of reconstruction", made["stages"][next(iter(made["stages"]))]["fingerprint"][:24],
        "python -m orchestrator.run_grid", "torch (stages)", "seg-enc", "simclr | shapes", "6 blocked",
        "r-c1", "A pretrained encoder ends above a random start.", "Student 1908",
        "Rows compared", "Holm 1979", "Agarwal et al. 2021",
    ):  # fmt: skip
        assert expected in text, expected
    assert "http://" not in text
    assert "https://" not in text
    parser = Headings()
    parser.feed(text)
    assert None not in parser.scopes
    assert parser.captions == parser.tables >= 6
    assert text.count('class="line s') > 6
    told = json.loads((folder / "told.json").read_text("utf-8"))
    assert {name: told[name] for name in ("cells", "succeeded", "blocked")} == {
        "cells": 12,
        "succeeded": 6,
        "blocked": 6,
    }


def test_the_table_is_a_run_of_mlflow_once(folder: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from orchestrator.record.tracking import Tracker

    store, uri = folder / "runs", f"sqlite:///{folder / 'runs' / 'mlflow.db'}"
    assert report.main(["reported", "--store", str(store), "--out", str(tmp_path), "--tracking-uri", uri]) == 0
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    (found,) = client.search_runs(["1"], "tags.`transfergrid.kind` = 'table'")
    assert found.data.metrics["succeeded"] == 6
    assert "| Scenario " in found.data.tags["mlflow.note.content"]
    names = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert names == {"cells.csv", "index.html", "table.csv", "table.html", "table.md", "table.tex"}
    keys = Tracker(uri, "transfergrid", create=False).logged()
    assert found.info.run_id not in {logged.run_id for logged in keys.values()}


def test_cells_link_to_a_server_and_no_password_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.record.mlflow_reader import TrackedRun
    from orchestrator.results.report.runs import Links

    links = Links("http://me:secret@host:5000/", {"k": TrackedRun("abc", "succeeded", experiment_id="7")})
    assert links.of("k") == ("http://host:5000/#/experiments/7/runs/abc", "abc")
    assert links.of("other") == ("", "")
    store = open_store(str(tmp_path / "runs"), create=True)
    store.save_plan(plan([cell(key="00ff")], command="run --tracking-uri postgresql://me:secret@host/db"))
    store.commit({**commit("00ff", dice=0.5), "name": "a", "node": "n", "versions": {}})
    words = ["--store", str(tmp_path / "runs"), "--out", str(tmp_path), "--tracking-uri", "sqlite:////nowhere/x.db"]
    assert report.main(["made-up", *words]) == 0
    assert "secret" not in (tmp_path / "made-up" / "index.html").read_text("utf-8")
    assert "run_id stays empty" in capsys.readouterr().err


def test_nothing_finished_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path / "runs"), create=True)
    store.save_plan(plan([cell(key="00ff", seed=n) for n in range(3)], references="p1-table2"))
    assert report.main(["made-up", "--store", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 0
    assert "no cell has a result yet: 3 missing of 3" in capsys.readouterr().out
    text = (tmp_path / "made-up" / "index.html").read_text("utf-8")
    assert "No stage has finished yet" in text
    assert "71.7 ± 5.2" in text  # the published value is there


def test_a_grid_of_figures_only_has_no_empty_table(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "runs"), create=True)
    labels, spec = {"analysis": "cka"}, {"parents": {}, "spec": {}, "blocked": None}
    stage = {"key": "00ff", "kind": "analysis", "name": "cka | made-up", "labels": labels, "fingerprint": None, **spec}
    store.save_plan(plan([], stages={"00ff": stage}, wanted=["00ff"]))
    words = ["made-up", "--store", str(tmp_path / "runs"), "--out", str(tmp_path)]
    assert report.main(words) == 0
    before = (tmp_path / "made-up" / "index.html").read_text("utf-8")
    assert "analysis cka | made-up: not run yet" in before
    store.commit({**commit("00ff", cka=0.5), "kind": "analysis", "artifacts": {}})
    assert report.main(words) == 0
    after = (tmp_path / "made-up" / "index.html").read_text("utf-8")
    assert "every figure is drawn" in after
    assert 'id="results"' not in after and "cells have a result" not in after


def test_requests_that_cannot_be_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(str(tmp_path / "runs"), create=True).save_plan(plan([cell(key="00ff")]))
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    cases = {"p1-table2": "no plan of grid 'p1-table2'", "made-up": "expected a writable folder"}
    for grid, message in cases.items():
        assert report.main([grid, "--store", str(tmp_path / "runs"), "--out", str(tmp_path / "file")]) == 2
        assert message in capsys.readouterr().err


def test_the_table_as_a_picture_lies_on_one_axis_a_column() -> None:
    """Flowers 17 at 1 %: from 77.3 (SimCLR less its std) to 87.5 (ConRec and its std), so an axis of 75 .. 90."""
    found = glance(published_table("p1-table2"))
    assert found is not None and found.published and found.spread
    assert [mark.text for mark in found.axes[0]] == ["75", "80", "85", "90"]
    lines = [line for body in found.bodies for line in body]
    assert len(lines) == 6 and all(len(line.strips) == 6 for line in lines)
    first = lines[0].strips[0]
    assert first.ours == first.published and first.ours is not None
    low, high = found.axes[0][0].at, found.axes[0][-1].at
    at = [low + (high - low) * (value - 75) / 15 for value in (79.1, 78.1, 80.1)]
    assert [first.ours.at, first.ours.low, first.ours.high] == pytest.approx(at, abs=0.06)
    assert first.said == "79.1 ± 1.0, published 79.1 ± 1.0"


def test_there_is_no_picture_of_nothing() -> None:
    assert glance(summarise(plan([cell(key="00ff")]), tidy(plan([cell(key="00ff")]), {}, {}))) is None


def test_ticks_are_round_and_cover() -> None:
    assert ticks(0.0, 200.0, 4) == [0.0, 50.0, 100.0, 150.0, 200.0]
    found = ticks(61.3, 79.9, 5)
    assert found[0] <= 61.3 < 79.9 <= found[-1]
    assert ticks(0.0, 1e-5, 4)[-1] >= 1e-5


def test_a_band_is_mean_and_sample_std_over_shared_steps_within_limits() -> None:
    line = mean_line("a", 0, [{0: 1.0, 1: 2.0, 3: 9.0}, {0: 3.0, 1: 2.0}], limit=3.0)
    assert line.points == ((0.0, 2.0, pytest.approx(2 - 2**0.5), 3.0), (1.0, 2.0, 2.0, 2.0))
    panel = draw("t", "y", [line])
    assert panel.lines[0].path.startswith("M44 ")
    assert "At the end: a 2" in panel.said


def test_a_flat_or_empty_curve_is_drawn() -> None:
    assert draw("t", "y", [mean_line("a", 0, [{0: 1.0, 5: 1.0}])]).lines[0].band == ""
    assert draw("t", "y", []).lines == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (12.84, "12.8 s"), (250.0, "4 min 10 s"), (7500.0, "2 h 5 min"), (273_600.0, "3 d 4 h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
