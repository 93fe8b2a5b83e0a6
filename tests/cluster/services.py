"""What stands beside a Ray cluster, on a host of its own: PostgreSQL, MLflow with authentication on it, and Redis."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

from tests.cluster.hosts import SHARED, Host, wait_for

MLFLOW_PORT, REDIS_PORT = 5000, 6379
_DATABASE = Path("/tmp/postgresql")  # on the host's own disk
USER = "researcher"


def lacking() -> str | None:
    """Which of the servers is not installed; None where all are."""
    there = {
        "postgresql": postgres_folder(),
        "redis-server": shutil.which("redis-server"),
        "curl": shutil.which("curl"),
    }
    absent = " ".join(name for name, path in there.items() if path is None)
    return f"needs what Debian has by: apt-get install {absent}" if absent else None


def postgres_folder() -> Path | None:
    """Where Debian keeps the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


class Services:
    """The servers on `host`. PostgreSQL answers the host itself only, MLflow and Redis the network, with passwords."""

    def __init__(self, host: Host, logs: Path) -> None:
        self.host, self._logs = host, logs
        self.password, self._admin_password = secrets.token_hex(12), secrets.token_hex(12)
        self._database_password, self._redis_password = secrets.token_hex(12), secrets.token_hex(12)
        self.mlflow_uri = f"http://{host.address}:{MLFLOW_PORT}"
        self.redis = {"RAY_REDIS_ADDRESS": f"{host.address}:{REDIS_PORT}", "RAY_REDIS_PASSWORD": self._redis_password}

    def start(self) -> None:
        """Make a database, start all servers, and wait until they answer."""
        self.host.run("install", "-d", "-o", "postgres", str(_DATABASE), "/run/postgresql")
        self._as_postgres("initdb", "-D", str(_DATABASE), "--auth-local", "peer", "--auth-host", "scram-sha-256")
        self.start_postgres()
        self._as_postgres("psql", "-qc", f"CREATE ROLE mlflow LOGIN PASSWORD '{self._database_password}'")
        self._as_postgres("createdb", "-O", "mlflow", "mlflow")
        self.start_redis()
        self.start_mlflow()
        self.wait()

    def start_postgres(self) -> None:
        """Start the database; also after `stop_postgres`."""
        options = "-c listen_addresses=127.0.0.1 -c unix_socket_directories=/run/postgresql -c shared_buffers=32MB"
        self._as_postgres("pg_ctl", "-D", str(_DATABASE), "-w", "-l", "/tmp/postgresql.log", "-o", options, "start")

    def stop_postgres(self) -> None:
        """End it as a crash would: open transactions are lost."""
        self._as_postgres("pg_ctl", "-D", str(_DATABASE), "-w", "-m", "immediate", "stop")

    def start_redis(self) -> None:
        """Start Redis with a password; it writes each change to disk."""
        self.host.run("install", "-d", "/tmp/redis")
        self.host.popen(
            "redis-server", "--bind", self.host.address, "127.0.0.1", "--port", str(REDIS_PORT), "--dir", "/tmp/redis",
            "--requirepass", self._redis_password, "--appendonly", "yes", log=self._logs / "redis.log",
        )  # fmt: skip

    def start_mlflow(self) -> None:
        """Start the server by docker/mlflow/serve.sh; `wait` until it answers."""
        told = {
            "PGHOST": "127.0.0.1", "PGPASSWORD": self._database_password,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self._admin_password, "MLFLOW_WORKERS": "1", "OMP_NUM_THREADS": "1",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self._database_password,
            "MLFLOW_ARTIFACTS_DESTINATION": str(SHARED / "mlartifacts"),
        }  # fmt: skip
        words = ["/mnt/config/mlflow/serve.sh", "--host", "0.0.0.0", "--port", str(MLFLOW_PORT)]
        self.host.popen(*words, log=self._logs / "mlflow.log", environment=told)

    def stop_mlflow(self) -> None:
        """kill -9 the server with its workers."""
        for pid in self.host.processes("bin/mlflow server|mlflow.server"):
            self.host.run("kill", "-9", str(pid), check=False)

    def wait(self, seconds: float = 300) -> float:
        """Wait until MLflow answers those who have the password. Returns the seconds."""
        return wait_for(lambda: self.asked("admin", self._admin_password) == 200, "MLflow to answer", seconds, 1.0)

    def add_user(self) -> None:
        """The account that runs log with."""
        account = f'{{"username": "{USER}", "password": "{self.password}"}}'
        done = self._curl(
            "-u", f"admin:{self._admin_password}", "-H", "Content-Type: application/json", "-d", account,
            f"{self.mlflow_uri}/api/2.0/mlflow/users/create",
        )  # fmt: skip
        assert done == 200, f"MLflow made no account: {done}"

    def asked(self, user: str | None = None, password: str = "", *, of: Host | None = None) -> int:
        """The HTTP status with which MLflow answers a search for experiments; 0 for none."""
        account = ["-u", f"{user}:{password}"] if user else []
        return self._curl(*account, f"{self.mlflow_uri}/api/2.0/mlflow/experiments/search?max_results=1", of=of)

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """MLflow's runs of an experiment: `status` and `tags` of each."""
        named = self._get(f"experiments/get-by-name?experiment_name={experiment}")["experiment"]["experiment_id"]
        found = self._get("runs/search", json.dumps({"experiment_ids": [named], "max_results": 1000}))
        runs = [(run["info"], run["data"]) for run in found.get("runs", [])]
        return [{"status": i["status"], "tags": {t["key"]: t["value"] for t in d["tags"]}} for i, d in runs]

    def _get(self, path: str, body: str | None = None) -> dict[str, Any]:
        sent = ["-H", "Content-Type: application/json", "-d", body] if body else []
        url = f"{self.mlflow_uri}/api/2.0/mlflow/{path}"
        done = self.host.run("curl", "-sf", "--max-time", "60", "-u", f"admin:{self._admin_password}", *sent, url)
        return dict(json.loads(done.stdout))

    def _curl(self, *arguments: str, of: Host | None = None) -> int:
        asking = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"]
        return int((of or self.host).run(*asking, *arguments, check=False).stdout or 0)

    def _as_postgres(self, program: str, *arguments: str) -> None:
        path = postgres_folder()
        assert path is not None
        # From /tmp, as `postgres` may not look into root's home; into a file, as a server would hold a pipe open.
        script = '"$@" > /tmp/said 2>&1 || { cat /tmp/said; exit 1; }'
        command = ["runuser", "-u", "postgres", "--", str(path / program), *arguments]
        self.host.run("sh", "-c", script, "sh", *command, cwd=Path("/tmp"))
