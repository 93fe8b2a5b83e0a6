"""Eight drivers at once write to one MLflow server with authentication on PostgreSQL: nothing lost, nothing twice. Then
its page in a real browser: filter, sort, group and compare by scenario.

    TRANSFERGRID_CELLS=125 TRANSFERGRID_SCREENSHOTS=DIR python -m pytest -m durable tests/docker/test_many_drivers.py

logs a thousand cells instead of 160, and keeps pictures of the page.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.stages import Stage
from tests.docker.drivers import EXPERIMENT, ROWS, graph, start
from tests.docker.mlflow_server import Server, mlflow_server
from tests.orchestrator.postgres import postgresql

DRIVERS, CELLS = 8, int(os.environ.get("TRANSFERGRID_CELLS", "20"))
COLUMN = {"dataset": "flowers17", "fraction": 0.05}  # of the grid; its runs fit on the page, which loads a hundred
PATIENCE = 300_000  # milliseconds for whatever the browser waits for

pytestmark = [pytest.mark.durable, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def asked() -> dict[str, Stage]:
    """The cells of all drivers, by key."""
    return {key: stage for driver in range(DRIVERS) for key, stage in graph(driver, CELLS).items()}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[dict[str, Any]]]]:
    """A server to which all drivers have written, and what they reported."""
    folder = tmp_path_factory.mktemp("many")
    with postgresql() as database, mlflow_server(database, folder / "mlflow") as server:
        environment = {**os.environ, **server.client_environment, "OMP_NUM_THREADS": "1"}
        drivers = start(DRIVERS, CELLS, folder, environment)
        reports = [json.loads(driver.communicate()[0]) for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0] * DRIVERS
        yield server, reports


def test_drivers_on_their_own_stores_lose_nothing(
    logged: tuple[Server, list[dict[str, Any]]], asked: Mapping[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, reports = logged
    counts = [(report["succeeded"], report["not_in_mlflow"]) for report in reports]
    assert counts == [(CELLS, 0)] * DRIVERS, reports
    for name, value in server.client_environment.items():
        monkeypatch.setenv(name, value)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    [experiment] = [e for e in client.search_experiments() if e.name == EXPERIMENT]
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    assert sorted(run.data.tags["transfergrid.key"] for run in runs) == sorted(asked)
    for run in runs:
        stage = asked[run.data.tags["transfergrid.key"]]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["dice"] == stage.spec["seed"] / 1e6
        assert run.data.tags["transfergrid.scenario"] == stage.labels["scenario"]
        assert run.data.params["finetune.dial_15"] == "15"


def test_the_page_filters_sorts_groups_and_compares_by_scenario(
    logged: tuple[Server, list[dict[str, Any]]], asked: Mapping[str, Stage], page: Any, tmp_path: Path
) -> None:
    server, _ = logged
    shots = Path(os.environ.get("TRANSFERGRID_SCREENSHOTS", tmp_path))
    cells = [s for s in asked.values() if all(s.labels[name] == value for name, value in COLUMN.items())]
    best = max(cell.spec["seed"] for cell in cells)  # of one in each scenario
    page.goto(f"{server.uri}/#/experiments/1/runs", wait_until="commit")
    page.wait_for_selector(f"text=/^{min(100, len(asked))} matching runs/")
    close_assistant(page)

    box = page.get_by_test_id("search-box")
    box.fill(" and ".join(f"tags.`transfergrid.{name}` = '{value}'" for name, value in COLUMN.items()))
    page.wait_for_timeout(2000)  # until what it proposes has unfolded over the rows
    box.press("Escape")
    box.press("Enter")
    page.wait_for_selector(f"text=/^{len(cells)} matching runs/")

    page.get_by_test_id("sort-select-dropdown").click()
    page.get_by_test_id("sort-select-dice").click()
    page.wait_for_selector(f'.ag-row[row-index="0"] >> text=/ seed {best}$/')
    page.keyboard.press("Escape")
    page.screenshot(path=shots / "sorted.png", timeout=PATIENCE)

    page.get_by_role("button", name="Group by").click()
    page.get_by_role("menu").get_by_text("transfergrid.scenario", exact=True).first.click()
    page.keyboard.press("Escape")
    page.wait_for_selector("text=/^Group: /")
    page.screenshot(path=shots / "grouped.png", timeout=PATIENCE)
    page.get_by_role("button", name="Group by").locator("span[role=button]").click()  # the cross
    page.wait_for_selector("text=/^Group: /", state="detached")

    page.locator(".ag-header-row input[type=checkbox]:visible").first.click()
    page.get_by_test_id("runs-compare-button").click()
    page.wait_for_selector(f"text=Comparing {len(cells)} Runs from 1 Experiment")
    page.get_by_role("tab", name="Box Plot").click()
    for axis, what in (("x", "scenario"), ("y", "dice")):
        page.locator(f"#{axis}-axis-selector").click()
        page.get_by_role("option", name=what, exact=True).click()
    page.wait_for_selector(".js-plotly-plot .boxlayer .trace")
    page.screenshot(path=shots / "compared.png", timeout=PATIENCE)
    assert set(page.locator(".js-plotly-plot .xtick").all_text_contents()) == set(ROWS)


@pytest.fixture
def page(logged: tuple[Server, list[dict[str, Any]]]) -> Iterator[Any]:
    """A tab of Debian's chromium, logged in as the admin; what MLflow's page throws fails the test."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium here; apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE)
        account = {"username": "admin", "password": logged[0].password}
        context = browser.new_context(viewport={"width": 1700, "height": 1000}, http_credentials=account)
        context.set_default_timeout(PATIENCE)
        tab, thrown = context.new_page(), list[str]()
        tab.on("pageerror", lambda error: thrown.append(str(error)))
        yield tab
        browser.close()
    assert thrown == []


def close_assistant(page: Any) -> None:
    """Close the panel of MLflow's assistant, where one has opened."""
    for button in page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').all():
        button.click()
