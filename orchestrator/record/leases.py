"""Leases: who works on a stage now, and how far it is. They save work; what is correct is the commit.

A stage's leases are numbered files, each created if absent: whoever creates the next number holds the stage, so of two
takers only one wins, on every kind of store. A holder whose number is no longer the highest has lost it.

A process may sleep between a look at the leases and what it writes next, and wake up when the stage is another's, or
finished. No look can prevent that, so each such write must do no harm: a lease and a checkpoint go under the sleeper's
own number, below which nobody looks any more; artifacts go into a folder of their own; a commit is only ever created;
a failure counts for nothing beside a commit. Numbers are not given twice, since the last one outlives the stage's end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.record.store import LeaseName, Store

Beat = dict[str, Any]


class LeaseLost(Exception):
    """Somebody else has taken the stage over."""


@dataclass
class Lease:
    """A held stage. `renew` must be called more often than the lease lasts."""

    store: Store
    key: str
    number: int
    about: Mapping[str, Any]
    lost: bool = False

    def renew(self, step: int, steps: int) -> None:
        """Say that the holder is alive, and how far it is.

        Raises:
            LeaseLost: a later lease exists, or the stage is finished.
        """
        if self.lost or self.store.latest_lease(self.key) != LeaseName(self.number, False):
            self.lost = True
            raise LeaseLost(f"stage {self.key} was taken over by another run while this one was paused")
        self.store.write_lease(self.key, self.number, {**self.about, "step": step, "steps": steps, "beat": time.time()})

    def release(self) -> None:
        """Give the stage free. The number stays taken, so that a holder long paused cannot mistake it for its own."""
        if not self.lost:
            self.store.write_lease(self.key, self.number, {**self.about, "released": True, "beat": time.time()})

    def end(self) -> None:
        """The stage is finished: it needs no lease any more, whoever holds it."""
        self.store.end_leases(self.key, self.number)


def acquire(store: Store, key: str, about: Mapping[str, Any], *, over: int = 0) -> Lease | None:
    """Hold a stage, or None where somebody else does.

    Args:
        about: who holds it, for people and for `Watch` (`holder()` and the stage's name).
        over: the number of a lease that has been found dead, to be followed by this one.
    """
    latest = store.latest_lease(key)
    current = store.lease(key, latest.number) if latest.number > over and not latest.ended else {}
    if current and not current.get("released"):
        return None
    number = max(latest.number, over) + 1
    lease = Lease(store, key, number, {**about, "key": key, "number": number, "started": time.time()})
    beat = {**lease.about, "step": 0, "steps": 0, "beat": time.time()}
    return lease if store.write_lease(key, number, beat, create=True) else None


def holder(run: str) -> dict[str, Any]:
    """This process as a lease names it. `born` tells it from a later process of the same number."""
    pid = os.getpid()
    return {"run": run, "node": socket.gethostname(), "pid": pid, "space": _space(), "born": _own_birth(pid)}


@dataclass
class Watch:
    """Judges the leases of others by this machine's own clock: a lease is dead when its beat stands still.

    Args:
        seconds: how long a beat may stand still.
    """

    seconds: float
    _seen: dict[str, tuple[tuple[int, float], float]] = field(default_factory=dict)

    def dead(self, beats: Iterable[Beat]) -> dict[str, int]:
        """Of these leases those that are dead: stage key -> number of its lease."""
        return {beat["key"]: beat["number"] for beat in beats if self._is_dead(beat)}

    def _is_dead(self, beat: Beat) -> bool:
        if beat.get("released") or process_is_gone(beat):
            return True
        state, now = (int(beat["number"]), float(beat["beat"])), time.monotonic()
        since = self._seen.get(beat["key"])
        if since is None or since[0] != state:
            self._seen[beat["key"]] = (state, now)
            return False
        return now - since[1] > self.seconds


def process_is_gone(beat: Beat) -> bool:
    """True where the holder ran on this host and its process has ended. Of other hosts nothing is known."""
    return bool(beat["space"] == _space() and _birth(int(beat["pid"])) != beat["born"])


@lru_cache(maxsize=4)
def _own_birth(pid: int) -> str | None:
    return _birth(pid)


@lru_cache(maxsize=1)
def _space() -> str:
    """Within which process numbers mean the same: a host, and on Linux a boot and a PID namespace of it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)


def _birth(pid: int) -> str | None:
    """The start time of a process, as the kernel counts it; None where there is no such process."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if after_name[0] == "Z":
            return None  # ended, and only waiting for its parent to notice
        return after_name[19]
    except OSError:
        if Path("/proc/self").exists():
            return None
        try:  # no /proc (macOS): only whether it lives
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "alive"
