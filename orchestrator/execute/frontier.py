"""Which stage may start next: parents done, imports before all else, then the longest critical path first. No Ray here,
so that tests are quick."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from orchestrator.plan.stages import Stage

SMALL = frozenset({"finetune", "probe", "analysis"})  # kinds that travel in packs
# A pack saves a second or so for each stage beside the first, and delays the end of the run by as much as it is longer
# than one stage. So what is long travels alone.
PACK_SECONDS = 120.0
# Added to the path of an import: it takes moments, and tells of a wrong file that hours of training would else hide.
AT_ONCE = 1e12
Shape = Callable[[Stage], str | None]


class Frontier:
    """The state of a run: what waits, what is ready, what runs, what has ended.

    Args:
        stages: the stages to run, by key, parents before children.
        finished: keys of parents that need not run.
    """

    def __init__(self, stages: Mapping[str, Stage], finished: Collection[str] = ()) -> None:
        self.running: set[str] = set()
        self.deferred: set[str] = set()  # held by another run
        self.alone: set[str] = set()  # ran out of memory beside others: to be run with a device of its own
        self.stopped: str | None = None  # why nothing more is handed out
        self.succeeded: set[str] = set()
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.roots: dict[str, str] = {}  # blocked stage -> the failed one that it needs
        self.studies: set[str] = set()  # studies that may still add stages
        self.to_come: set[str] = set()  # kinds of the stages that they will add
        self._finished = set(finished)
        self._children: dict[str, list[str]] = defaultdict(list)
        self._waiting: dict[str, set[str]] = {}
        self._order: dict[str, int] = {}
        self._path: dict[str, float] = {}
        self._ready: list[tuple[float, int, str]] = []
        self.stages: dict[str, Stage] = {}
        self.add(stages)

    def add(self, stages: Mapping[str, Stage], *, below: float = 0.0) -> None:
        """Take more stages in, parents before children.

        Args:
            below: seconds of what will follow them and is not known yet.

        Raises:
            ValueError: a parent is neither finished nor among the stages.
        """
        new = {key: stage for key, stage in stages.items() if key not in self.stages}
        self.stages |= new
        for key, stage in new.items():
            parents = {p for p in stage.parents.values() if p not in self._finished and p not in self.succeeded}
            stray = {p for p in parents if p not in self.stages}
            if stray:
                raise ValueError(f"stage {key} needs {sorted(stray)}, which is neither finished nor to run")
            self._waiting[key] = parents
            self._order[key] = len(self._order)
            for parent in parents:
                self._children[parent].append(key)
        for key in reversed(new):
            longest = max((self._path[child] for child in self._children.get(key, ())), default=below)
            ahead = AT_ONCE if self.stages[key].kind == "import" else 0.0
            self._path[key] = ahead + self.stages[key].cost + longest
        for key in new:
            if not self._waiting[key]:
                self._push(key)

    @property
    def done(self) -> bool:
        """True when every stage has ended, or the run was stopped and nothing runs any more."""
        if self.stopped is not None and not self.running:
            return True
        return not self.studies and len(self.succeeded) + len(self.failed) + len(self.blocked) == len(self.stages)

    @property
    def ready(self) -> int:
        """How many stages could start now."""
        return len(self._ready)

    @property
    def next(self) -> Stage | None:
        """The most urgent ready stage."""
        return self.stages[self._ready[0][2]] if self._ready else None

    def take(self, *, slots: int = 1, most: int = 1, shape: Shape | None = None) -> list[Stage]:
        """Take the next pack: the most urgent ready stage, with ready siblings of the same kind and parents beside it,
        of at most `PACK_SECONDS` together.

        Args:
            slots: workers that share what is ready; a pack takes at most half a share, so that none of them starves.
            most: largest pack.
            shape: given where the pack is to be trained as one: of stages of equal shape, whatever their parents and
                however long.
        """
        if not self._ready or self.stopped is not None:
            return []
        first = self._pop()
        pack = [first]
        if first.key in self.alone:
            return pack
        # Half of a fair share: what follows evens out the ends. With whole ones the first pack, the dearest, ends last.
        # Of what is trained as one a whole share: it gains with each.
        parts = slots if slots == 1 or shape is not None else 2 * slots
        size = min(most, math.ceil((len(self._ready) + 1) / parts))
        skipped, cost = list[Stage](), first.cost
        while self._ready and len(pack) < size:
            stage = self._pop()
            if self._travels_with(stage, first, cost, shape):
                pack.append(stage)
                cost += stage.cost
            else:
                skipped.append(stage)
                if len(skipped) >= 4 * most:
                    break
        for stage in skipped:
            self.running.discard(stage.key)
            self._push(stage.key)
        return pack

    def urgency(self, pack: Sequence[Stage]) -> float:
        """Seconds of the longest chain that a pack begins, an import's beyond all; of packs that wait for a worker the
        greatest goes first."""
        return self._path[pack[0].key]

    def _travels_with(self, stage: Stage, first: Stage, cost: float, shape: Shape | None) -> bool:
        """Whether `stage` goes into the pack of `first`, which has `cost` already."""
        if stage.key in self.alone or stage.key in self._children:
            return False
        if shape is not None:
            return shape(stage) == shape(first)
        like = stage.kind == first.kind and stage.parents == first.parents and stage.kind in SMALL
        return like and cost + stage.cost <= PACK_SECONDS

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
                self.blocked[child], self.roots[child] = cause, key
                newly.append(child)
                open_keys.extend(self._children.get(child, ()))
        return newly

    def block(self, stage: Stage, cause: str, root: str | None = None) -> None:
        """Take a stage in that can never run, nor anything that needs it. `root`: the failed one that it needs."""
        if stage.key not in self.stages:
            self.stages[stage.key] = stage
            self.blocked[stage.key], self.roots[stage.key] = cause, root or stage.key

    def reuse(self, keys: Iterable[str]) -> None:
        """Stages that stages yet to be added need, and that have been finished by another run."""
        self._finished.update(key for key in keys if key not in self.stages)

    def has_finished(self, keys: Iterable[str]) -> bool:
        """Whether all of these are finished."""
        return all(key in self._finished or key in self.succeeded for key in keys)

    @property
    def kinds(self) -> set[str]:
        """The kinds of all stages, also of those that studies will add."""
        return {stage.kind for stage in self.stages.values()} | self.to_come

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
