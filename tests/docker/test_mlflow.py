"""docker/mlflow for real: a server on PostgreSQL that refuses strangers, is backed up, wiped, and comes back equal."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.docker.mlflow_server import DATABASE, ROOT, Server, mlflow_server
from tests.orchestrator.postgres import postgresql

pytestmark = pytest.mark.durable  # two starts of a server
CELL = ["smoke", "--only", "seed=0", "--only", "fraction=0.2", "--only", "model=Random", "--executor", "inline"]
DUMP = """
import json, sys
from mlflow.tracking import MlflowClient
client, found = MlflowClient(), []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        info, history = run.info, client.get_metric_history
        curves = {name: [(m.step, m.value) for m in history(info.run_id, name)] for name in run.data.metrics}
        found.append([experiment.name, info.run_id, info.run_name, info.status, run.data.params, run.data.tags, curves,
                      sorted(artifact.path for artifact in client.list_artifacts(info.run_id))])
print(json.dumps(sorted(found, key=lambda run: run[1])))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with postgresql() as database, mlflow_server(database, tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="module")
def logged(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose one cell is logged, with credentials from the file that MLflow's client reads."""
    home = tmp_path_factory.mktemp("home")
    (home / ".mlflow").mkdir()
    (home / ".mlflow" / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {server.password}\n"
    )
    done = run(tmp_path_factory.mktemp("store"), HOME=str(home), MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 1
    return home


def run(store: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.run_grid", *CELL, "--store", str(store), "--json", *more],
        cwd=ROOT, env=kept | {"OMP_NUM_THREADS": "1"} | environment, capture_output=True, text=True,
    )  # fmt: skip


def runs(server: Server) -> list[Any]:
    environment = {**os.environ, **server.client_environment}
    done = subprocess.run([sys.executable, "-c", DUMP], env=environment, check=True, capture_output=True, text=True)
    return list(json.loads(done.stdout))


@pytest.mark.parametrize(
    "path",
    ["/", "/api/2.0/mlflow/experiments/search?max_results=1", "/api/2.0/mlflow-artifacts/artifacts", "/graphql"],
)
@pytest.mark.parametrize("given", [None, "admin:wrong", "nobody:wrong"])
def test_without_credentials_nothing_is_shown(server: Server, path: str, given: str | None) -> None:
    request = urllib.request.Request(server.uri + path)
    if given:
        request.add_header("Authorization", "Basic " + base64.b64encode(given.encode()).decode())
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 401


def test_a_driver_without_credentials_is_told_what_to_set(server: Server, tmp_path: Path) -> None:
    for given in ({}, {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "not it"}):
        done = run(tmp_path / "runs", HOME=str(tmp_path), MLFLOW_TRACKING_URI=server.uri, **given)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert server.uri in error and "~/.mlflow/credentials" in error and "not it" not in error
    assert not list((tmp_path / "runs").glob("commits/*"))


def test_passwords_are_in_no_command_line_and_no_log(server: Server, logged: Path) -> None:
    shown = subprocess.run(["ps", "-eww", "-o", "args"], check=True, capture_output=True, text=True).stdout
    assert "--app-name basic-auth" in shown and server.password not in shown
    assert server.password not in (server.folder / "mlflow.log").read_text()


def test_a_password_in_the_address_works_and_is_shown_nowhere(server: Server, tmp_path: Path) -> None:
    escaped = quote(server.password, safe="")
    uri = server.uri.replace("http://", f"http://admin:{escaped}@")
    for more in ((), ("--retry-failed",)):
        done = run(tmp_path / "runs", "--tracking-uri", uri, "--experiment", "by-address", *more, HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tracking_uri"] == server.uri.replace("http://", "http://admin:***@")
        said = (done.stdout + done.stderr).encode()
        kept = b"".join(path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file())
        assert all(secret.encode() not in said + kept for secret in (server.password, escaped))
        assert b"View run" not in said  # MLflow's own lines


def test_backup_wipe_restore_gives_the_same_runs(server: Server, logged: Path, tmp_path: Path) -> None:
    before = runs(server)
    assert ("transfergrid", "FINISHED") in [(name, status) for name, _, _, status, *_ in before]
    attach(server, before[0][1], "picture.txt", "pixels")
    before = runs(server)
    made = server.script("backup.sh", str(tmp_path / "backups"))
    assert made.returncode == 0, made.stderr
    backup = Path(made.stdout.strip())
    assert {path.name for path in backup.iterdir()} == {"mlflow.dump", "artifacts.tar", "SHA256SUMS"}
    assert backup.stat().st_mode & 0o077 == 0

    refused = server.script("restore.sh", str(backup))  # into what is still there
    assert refused.returncode == 2 and "is not empty" in refused.stderr
    server.stop()
    server.database("dropdb", DATABASE)
    server.database("createdb", DATABASE)
    server.artifacts.rename(server.artifacts.with_name("lost"))
    restored = server.script("restore.sh", str(backup))
    assert restored.returncode == 0, restored.stderr
    server.start()
    assert runs(server) == before  # the admin's password still opens it: users are in the dump
    assert fetch(server, before[0][1], "picture.txt") == "pixels"


def test_a_damaged_backup_is_refused(server: Server, logged: Path, tmp_path: Path) -> None:
    backup = Path(server.script("backup.sh", str(tmp_path)).stdout.strip())
    content = bytearray((backup / "mlflow.dump").read_bytes())
    content[len(content) // 2] ^= 1
    (backup / "mlflow.dump").chmod(0o600)
    (backup / "mlflow.dump").write_bytes(content)
    refused = server.script("restore.sh", str(backup))
    assert refused.returncode == 2 and "damaged" in refused.stderr


def test_an_empty_server_is_filled_from_the_store(server: Server, tmp_path: Path) -> None:
    """What remains where there is no backup either: the store knows every run but what people attached by hand."""
    store = tmp_path / "runs"
    assert run(store, **server.client_environment).returncode == 0
    subprocess.run(
        [sys.executable, "-m", "orchestrator.status", "--store", str(store), "--experiment", "anew", "--sync-mlflow"],
        cwd=ROOT, env={**os.environ, **server.client_environment}, check=True, capture_output=True,
    )  # fmt: skip
    names = [name for name, *_ in runs(server)]
    assert names.count("anew") == 1


def attach(server: Server, run_id: str, name: str, text: str) -> None:
    code = "import sys; from mlflow.tracking import MlflowClient; MlflowClient().log_text(*sys.argv[1:])"
    command = [sys.executable, "-c", code, run_id, text, name]
    subprocess.run(command, env={**os.environ, **server.client_environment}, check=True, capture_output=True)


def fetch(server: Server, run_id: str, name: str) -> str:
    code = "import sys; from mlflow.artifacts import load_text; print(load_text(f'runs:/{sys.argv[1]}/{sys.argv[2]}'))"
    command = [sys.executable, "-c", code, run_id, name]
    environment = {**os.environ, **server.client_environment}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
