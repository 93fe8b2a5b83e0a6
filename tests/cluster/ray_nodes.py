"""A Ray cluster of several nodes on this machine, with ports, token and temporary folder of its own (Linux)."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.processes import Process, descendants, kill, lives

RAY = Path(sys.executable).parent / "ray"


class Cluster:
    """A head and nodes, each `ray start --block` with its processes below it."""

    def __init__(self, head_cpus: int = 1, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tg-", dir="/tmp"))  # short: Ray's sockets lie in it
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(16))
        kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        own |= {"OMP_NUM_THREADS": "1", "TRANSFERGRID_CACHE": str(self.folder / "cache")}
        self.environment = {**kept, **own, **environment}
        self._started: list[subprocess.Popen[bytes]] = []
        self._processes: set[Process] = set()
        port, client_port = free_port(), free_port()
        self.address = f"{host_address()}:{port}"
        self.start(
            "--head", "--port", str(port), "--temp-dir", str(self.folder / "ray"), "--include-dashboard", "false",
            "--ray-client-server-port", str(client_port), cpus=head_cpus,
        )  # fmt: skip

    def start(self, *how: str, cpus: int, within: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a node, by the command `within` (`unshare ...`) where one is given, and wait until it has joined."""
        log = self.folder / f"start-{len(self._started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*within, str(RAY), "start", "--block", "--num-cpus", str(cpus), *how],
                env=self.environment, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        deadline = time.monotonic() + 240
        while "Ray runtime started" not in log.read_text(errors="replace"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.2)
        return process

    def join(self, *, cpus: int, within: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start one more node."""
        return self.start("--address", self.address, cpus=cpus, within=within)

    def stop(self) -> None:
        """End what was started here."""
        for process in self._started:
            self._processes |= set(descendants(process.pid))
        for process in self._processes:
            kill(process)
        for process in self._started:
            process.wait()
        deadline = time.monotonic() + 20
        while any(lives(process) for process in self._processes) and time.monotonic() < deadline:
            time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)


def kill_all(root: int, *, first: str = "") -> set[Process]:
    """kill -9 a process and all below it, those with `first` in their command before the others."""
    killed = set(descendants(root))
    for process in sorted(killed, key=lambda p: first not in p.command):
        kill(process)
    return killed


def host_address() -> str:
    """The address under which Ray takes this machine."""
    import ray

    return str(ray.util.get_node_ip_address())


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
