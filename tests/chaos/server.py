"""A real MLflow server that can be killed and comes back after some seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.chaos.processes import descendants, kill


class MlflowServer:
    """`mlflow server` on a SQLite file, always on the same port of the loopback address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._back_at = 0.0

    def start(self) -> None:
        """Start the server; `up` tells when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "mlartifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "mlflow.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **quiet})

    def kill(self, back_after: float | None = None) -> int:
        """kill -9 all its processes. `back_after`: seconds until `tick` may start it again. Returns the pid."""
        if self._process is None:
            return 0
        pid = self._process.pid
        for process in descendants(pid):
            kill(process)
        self._process.wait()
        self._process = None
        self._back_at = float("inf") if back_after is None else time.monotonic() + back_after
        return pid

    def tick(self) -> None:
        """Start it again when its time has come."""
        if self._process is None and time.monotonic() >= self._back_at:
            self.start()

    def up(self) -> bool:
        """Whether it answers now."""
        if self._process is None:
            return False
        try:
            with urllib.request.urlopen(self.uri + "/health", timeout=2):
                return True
        except OSError:
            return False

    def wait(self, seconds: float = 240) -> None:
        """Wait until it answers, starting it again where need be."""
        deadline = time.monotonic() + seconds
        while not self.up():
            self.tick()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the MLflow server did not answer within {seconds:g} s; see its mlflow.log")
            time.sleep(0.3)
