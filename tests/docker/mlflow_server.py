"""The MLflow server of docker/mlflow, as its script starts it: PostgreSQL, basic authentication, an artifact folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos.processes import descendants, kill
from tests.orchestrator.postgres import programs

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "docker" / "mlflow"
DATABASE = "mlflow"


class Server:
    """One server: `uri`, and the admin's `password`. `environment` is what the scripts beside serve.sh take too."""

    def __init__(self, database: str, folder: Path) -> None:
        pytest.importorskip("flask_wtf", reason="no flask_wtf here (uv pip install -e '.[cluster]')")
        place = urlsplit(database)
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.password = f"admin/{secrets.token_hex(8)}"
        (folder / "password").write_text(self.password)
        (folder / "key").write_text(secrets.token_hex(16))
        self.artifacts = folder / "artifacts"
        self.port = _free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        path = os.pathsep.join([str(Path(sys.executable).parent), str(programs()), os.environ["PATH"]])
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PG"))}
        self.environment = {
            **kept, "PATH": path,
            "PGHOST": str(place.hostname), "PGPORT": str(place.port), "PGUSER": str(place.username),
            "PGDATABASE": DATABASE, "MLFLOW_ARTIFACTS_DESTINATION": str(self.artifacts),
            "MLFLOW_AUTH_ADMIN_PASSWORD_FILE": str(folder / "password"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY_FILE": str(folder / "key"), "MLFLOW_WORKERS": "1",
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client_environment(self) -> dict[str, str]:
        """What a driver needs in its environment."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    def database(self, *commands: str) -> str:
        """Run SQL commands on the server's maintenance database, or with `createdb`, `dropdb`."""
        done = subprocess.run(
            commands, env=self.environment | {"PGDATABASE": "postgres"}, check=True, capture_output=True, text=True
        )
        return done.stdout

    def script(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run backup.sh or restore.sh."""
        command = [str(SCRIPTS / name), *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def start(self, seconds: float = 240) -> None:
        """Start it and wait until it answers."""
        log = self.folder / "mlflow.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(SCRIPTS / "serve.sh"), "--host", "127.0.0.1", "--port", str(self.port)],
                env=self.environment, cwd=self.folder, stdout=out, stderr=out,
            )  # fmt: skip
        deadline = time.monotonic() + seconds
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.5)

    def stop(self) -> None:
        """End all its processes."""
        if self._process is not None:
            for process in descendants(self._process.pid):
                kill(process)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.uri + "/health", timeout=2):
                return True
        except OSError:
            return False


@contextmanager
def mlflow_server(database: str, folder: Path) -> Iterator[Server]:
    """A running server on an empty database of the PostgreSQL at `database`."""
    server = Server(database, folder)
    server.database("createdb", DATABASE)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.artifacts, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
