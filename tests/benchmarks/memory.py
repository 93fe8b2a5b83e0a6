"""Memory of a driver and of the Ray workers below it, sampled beside them."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

Sample = tuple[float, float]  # seconds since 1970, MB


@dataclass(frozen=True)
class Moment:
    """Resident MB of the driver, and of each worker by process id; mapped files and shared memory count too."""

    at: float
    driver: float
    workers: dict[int, float] = field(default_factory=dict)


class Watch(threading.Thread):
    """Looks twice a second at a process (this one, if none is named) and the workers below it."""

    def __init__(self, pid: int | None = None) -> None:
        super().__init__(daemon=True)
        self._pid = pid or os.getpid()
        self.moments = [Moment(time.time(), _memory(self._pid))]
        self._over = threading.Event()

    @property
    def driver(self) -> list[Sample]:
        return [(moment.at, moment.driver) for moment in self.moments]

    @property
    def largest_worker(self) -> list[Sample]:
        return [(moment.at, max(moment.workers.values())) for moment in self.moments if moment.workers]

    def run(self) -> None:
        while not self._over.wait(0.5):
            workers = {pid: _memory(pid) for pid in _workers(self._pid)}
            if driver := _memory(self._pid):
                self.moments.append(Moment(time.time(), driver, {pid: mb for pid, mb in workers.items() if mb}))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def memory_at(samples: list[Sample], when: float) -> float:
    """The last sample before a moment."""
    return next((value for at, value in reversed(samples) if at <= when), samples[0][1] if samples else 0.0)


def _memory(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError, ValueError):
        return 0.0


def _workers(root: int) -> list[int]:
    """Ray's workers below a driver: it starts the raylet, which starts them, and agents under names like theirs."""
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    waiting, found = [root], []
    while waiting:
        below = children.get(waiting.pop(), [])
        waiting += below
        found += [pid for pid in below if names[pid].startswith("ray::") and "Agent" not in names[pid]]
    return found
