"""Stages that another run holds: their commit is awaited, or their failure, or the death of their lease."""

from __future__ import annotations

import time
from collections.abc import Collection

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import Outcome
from orchestrator.record.documents import Record
from orchestrator.record.leases import Watch
from orchestrator.record.store import Store, StoreError

LOOK_SECONDS = 1.0


class Elsewhere:
    """Looks after a frontier's deferred stages.

    Args:
        run: the name of this run in its leases.
        seconds: how long the beat of another run's lease may stand still before it counts as dead.
    """

    def __init__(self, store: Store, run: str, seconds: float) -> None:
        self._store, self._run, self._watch = store, run, Watch(seconds)
        self._over: dict[str, int] = {}
        self._before: dict[str, Record] = {}  # of the deferred stages, the last failure when they were; {}: none
        self._looked = 0.0

    def over(self, key: str) -> int:
        """The number of the dead lease that whoever runs `key` next takes over; 0 for none."""
        return self._over.get(key, 0)

    def prepare(self, frontier: Frontier) -> None:
        """Before a run: leases that a dead run has left behind need no waiting."""
        beats = [beat for key, beat in self._store.leases().items() if key in frontier.stages]
        self._over.update(self._watch.dead(beats))

    def worker_died(self, key: str) -> None:
        """A worker of this run has ended: nobody needs to wait for a lease that it held."""
        number = self._store.latest_lease(key).number
        if number and self._store.lease(key, number).get("run") == self._run:
            self._over[key] = number

    def look(self, frontier: Frontier, listener: Listener) -> None:
        """Settle the deferred stages that have ended elsewhere; make ready those that nobody works on any more."""
        if not frontier.deferred:
            return
        now = time.monotonic()
        try:
            self._remember(frontier)
            if now - self._looked >= LOOK_SECONDS:
                self._looked = now
                self._look(frontier, listener)
        except StoreError as error:
            frontier.stop(str(error))

    def _remember(self, frontier: Frontier) -> None:
        """Keep the last failures of the newly deferred stages: these do not count, as this run is to try again."""
        new = frontier.deferred - self._before.keys()
        if new:
            self._before |= {key: {} for key in new} | self._store.failures(new)

    def _look(self, frontier: Frontier, listener: Listener) -> None:
        leases = self._store.leases()  # before the commits, so that none can be finished and released in between
        for key in self._store.commits(set(frontier.deferred)):
            listener.settle(frontier, Outcome(key, "succeeded", executed=False))
        dead = self._watch.dead(leases[key] for key in frontier.deferred if key in leases)
        self._over.update(dead)
        self._free([key for key in frontier.deferred if key in dead or key not in leases], frontier, listener)

    def _free(self, keys: Collection[str], frontier: Frontier, listener: Listener) -> None:
        """Settle those of the stages that have meanwhile failed by their own fault; make the others ready."""
        failures = self._store.failures(keys)
        for key in keys:
            failure, before = failures.get(key, {}), self._before.pop(key)
            if failure != before and failure.get("outcome") == "failed" and failure.get("cause") == "stage":
                listener.settle(frontier, Outcome(key, "failed", error=failure["error"], executed=False))
            else:
                frontier.revive(key)
