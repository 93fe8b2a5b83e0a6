"""A PostgreSQL server of the tests' own: on a free port of the loopback address, ended with the block."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


def programs() -> Path:
    """The folder of initdb and pg_ctl; Debian keeps them out of $PATH. Skips the test where there is none."""
    places = [Path(found).parent for found in [shutil.which("initdb")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").exists():
            return place
    pytest.skip("no PostgreSQL here (apt-get install postgresql)")


@contextmanager
def postgresql() -> Iterator[str]:
    """A server with one empty database; its URL."""
    if find_spec("psycopg") is None:
        pytest.skip("no psycopg here (uv pip install -e '.[cluster]')")
    place, folder = programs(), Path(tempfile.mkdtemp(prefix="transfergrid-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # it refuses to be run by root
        user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
        shutil.chown(folder, user)
        as_user = ["setpriv", f"--reuid={user}", "--clear-groups", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"

    def call(program: str, *words: str) -> None:
        subprocess.run(
            [*as_user, str(place / program), "-D", str(data), *words], cwd=folder, check=True, capture_output=True
        )

    try:
        call("initdb", "-U", "grid", "-A", "trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://grid@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
