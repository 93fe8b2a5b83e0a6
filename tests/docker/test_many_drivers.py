"""Eight drivers at once write to one MLflow server with authentication on PostgreSQL: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.docker.drivers import EXPERIMENT, graph, start
from tests.docker.mlflow_server import mlflow_server
from tests.orchestrator.postgres import postgresql

DRIVERS, CELLS = 8, 20


@pytest.mark.durable
@pytest.mark.timeout(900)
def test_drivers_on_their_own_stores_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgresql() as database, mlflow_server(database, tmp_path / "mlflow") as server:
        environment = {**os.environ, **server.client_environment, "OMP_NUM_THREADS": "1"}
        drivers = start(DRIVERS, CELLS, tmp_path, environment)
        reports = [json.loads(driver.communicate()[0]) for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0] * DRIVERS
        assert reports == [{"succeeded": CELLS, "not_in_mlflow": 0, "warnings": []}] * DRIVERS

        for name, value in server.client_environment.items():
            monkeypatch.setenv(name, value)
        from mlflow.tracking import MlflowClient

        client = MlflowClient(server.uri)
        [experiment] = [e for e in client.search_experiments() if e.name == EXPERIMENT]
        runs = client.search_runs([experiment.experiment_id], max_results=5000)
        asked = {key: stage for driver in range(DRIVERS) for key, stage in graph(driver, CELLS).items()}
        assert sorted(run.data.tags["transfergrid.key"] for run in runs) == sorted(asked)
        for run in runs:
            stage = asked[run.data.tags["transfergrid.key"]]
            assert run.info.status == "FINISHED"
            assert run.data.metrics["dice"] == stage.spec["seed"] / 1e6
            assert run.data.tags["transfergrid.scenario"] == stage.labels["scenario"]
            assert run.data.params["finetune.dial_15"] == "15"
