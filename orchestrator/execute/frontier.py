"""Which stage may start next: parents done, longest critical path first. No Ray here, so that tests are quick."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Collection, Mapping

from orchestrator.plan.stages import Stage


class Frontier:
    """The state of a run: what waits, what is ready, what runs, what has ended.

    Args:
        stages: the stages to run, by key.
        finished: keys of parents that need not run.
    """

    def __init__(self, stages: Mapping[str, Stage], finished: Collection[str] = ()) -> None:
        self.stages = dict(stages)
        self.running: set[str] = set()
        self.deferred: set[str] = set()  # held by another run
        self.alone: set[str] = set()  # ran out of memory beside others: to be run with a device of its own
        self.stopped: str | None = None  # why nothing more is handed out
        self.succeeded: set[str] = set()
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self._children: dict[str, list[str]] = defaultdict(list)
        self._waiting: dict[str, set[str]] = {}
        for key, stage in self.stages.items():
            parents = {p for p in stage.parents.values() if p not in finished}
            stray = parents - self.stages.keys()
            if stray:
                raise ValueError(f"stage {key} needs {sorted(stray)}, which is neither finished nor to run")
            self._waiting[key] = parents
            for parent in parents:
                self._children[parent].append(key)
        self._order = {key: number for number, key in enumerate(self.stages)}
        self._path = self._critical_paths()
        self._ready: list[tuple[float, int, str]] = []
        for key, parents in self._waiting.items():
            if not parents:
                self._push(key)

    @property
    def done(self) -> bool:
        """True when every stage has ended, or the run was stopped and nothing runs any more."""
        if self.stopped is not None and not self.running:
            return True
        return len(self.succeeded) + len(self.failed) + len(self.blocked) == len(self.stages)

    @property
    def ready(self) -> int:
        """How many stages could start now."""
        return len(self._ready)

    def take(self, *, slots: int = 1, most: int = 1) -> list[Stage]:
        """Take the next pack: the most urgent ready stage, with ready siblings of the same kind and parents beside it.

        Args:
            slots: workers that share what is ready; a pack never takes more than its share, so none of them starves.
            most: largest pack.
        """
        if not self._ready or self.stopped is not None:
            return []
        first = self._pop()
        pack = [first]
        if first.key in self.alone:
            return pack
        size = min(most, math.ceil((len(self._ready) + 1) / max(1, slots)))
        skipped = []
        while self._ready and len(pack) < size:
            stage = self._pop()
            if self._travels_with(stage, first):
                pack.append(stage)
            else:
                skipped.append(stage)
                if len(skipped) >= 4 * most:
                    break
        for stage in skipped:
            self.running.discard(stage.key)
            self._push(stage.key)
        return pack

    def _travels_with(self, stage: Stage, first: Stage) -> bool:
        like = stage.kind == first.kind and stage.parents == first.parents
        return like and stage.key not in self.alone and stage.key not in self._children

    def succeed(self, key: str) -> None:
        """A running stage has finished; its children may become ready."""
        if not self._end(key):
            return
        self.succeeded.add(key)
        for child in self._children.get(key, ()):
            self._waiting[child].discard(key)
            if not self._waiting[child] and child not in self.blocked:
                self._push(child)

    def fail(self, key: str, error: str) -> list[str]:
        """A running stage has failed; all that need it are blocked. Returns the newly blocked keys."""
        if not self._end(key):
            return []
        self.failed[key] = error
        cause = f"its parent {self.stages[key].name!r} failed: {error}"
        newly, open_keys = [], list(self._children.get(key, ()))
        while open_keys:
            child = open_keys.pop()
            if child not in self.blocked:
                self.blocked[child] = cause
                newly.append(child)
                open_keys.extend(self._children.get(child, ()))
        return newly

    def stop(self, reason: str) -> None:
        """Hand out nothing more; what runs may end."""
        self.stopped = self.stopped or reason

    def give_back(self, key: str) -> None:
        """A stage that was taken but did not run is ready again."""
        if key in self.running:
            self.running.discard(key)
            self._push(key)

    def defer(self, key: str) -> None:
        """A stage that was taken is in work elsewhere; it waits until `revive`, or until it has ended."""
        if key in self.running:
            self.running.discard(key)
            self.deferred.add(key)

    def revive(self, key: str) -> None:
        """A deferred stage is ready again."""
        if key in self.deferred:
            self.deferred.discard(key)
            self._push(key)

    def _end(self, key: str) -> bool:
        """Take a stage out of what runs or is ready. False: it had ended before."""
        if key in self.succeeded or key in self.failed:
            return False
        if key in self.running or key in self.deferred:
            self.running.discard(key)
            self.deferred.discard(key)
        else:  # given back, but the worker thought lost reported it all the same
            self._ready = [entry for entry in self._ready if entry[2] != key]
            heapq.heapify(self._ready)
        return True

    def _push(self, key: str) -> None:
        heapq.heappush(self._ready, (-self._path[key], self._order[key], key))

    def _pop(self) -> Stage:
        key = heapq.heappop(self._ready)[2]
        self.running.add(key)
        return self.stages[key]

    def _critical_paths(self) -> dict[str, float]:
        """Seconds from a stage's start to the end of the longest chain below it. Parents precede children."""
        path: dict[str, float] = {}
        for key in reversed(self.stages):
            below = max((path[child] for child in self._children.get(key, ())), default=0.0)
            path[key] = self.stages[key].cost + below
        return path
