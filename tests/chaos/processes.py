"""Finding and killing processes that the chaos run started itself, and nothing else (Linux: reads /proc)."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by its start time."""

    pid: int
    parent: int
    born: str
    command: str


def descendants(root: int) -> list[Process]:
    """`root` and all processes below it that live."""
    alive = _all()
    children: dict[int, list[int]] = {}
    for process in alive.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, open_pids = [], [root]
    while open_pids:
        pid = open_pids.pop()
        if pid in alive:
            found.append(alive[pid])
            open_pids.extend(children.get(pid, []))
    return found


def lives(process: Process) -> bool:
    """Whether it is still there, and still the same."""
    now = _read(process.pid)
    return now is not None and now.born == process.born


def kill(process: Process) -> None:
    """kill -9, if it is still the same process."""
    if lives(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _all() -> dict[int, Process]:
    found = (_read(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit())
    return {process.pid: process for process in found if process is not None}


def _read(pid: int) -> Process | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return None if fields[0] == "Z" else Process(pid, int(fields[1]), fields[19], command)
