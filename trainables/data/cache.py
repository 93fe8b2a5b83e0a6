"""The node-wide cache folder, and files that other processes may read at any time."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 1800.0  # seconds that a process waits for another one; half a million pictures take less
LOOK_SECONDS = 0.05


def cache_folder(cache_dir: Path | str | None) -> Path:
    """`cache_dir`, else $TRANSFERGRID_CACHE, else ~/.cache/transfergrid."""
    return Path(cache_dir or os.environ.get("TRANSFERGRID_CACHE") or Path.home() / ".cache" / "transfergrid")


def read_json(path: Path) -> Any:
    """The content of a JSON file; None when it is missing, unreadable or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file under a temporary name and rename it. A cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(json.dumps(content, separators=(",", ":")))
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
    except OSError:
        pass


@contextmanager
def turn(lock: Path) -> Iterator[bool]:
    """One process at a time does what stands inside; yields whether that is sure.

    It only saves work (some network disks have no locks, a cache may be read-only, whoever has it may hang, so nobody
    waits longer than `PATIENCE`): what is written inside must be safe without it.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield False
        return
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Waits until no other process has the lock, or for too long."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS)
        except OSError:
            return False
        else:
            return True
