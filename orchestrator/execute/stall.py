"""Tells why a run stands still: it waits for resources, or for another run; and ends one that can never go on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.execute.frontier import Frontier
from orchestrator.grid.schema import Run
from orchestrator.record.store import Store, StoreError

LOOK_SECONDS = 5.0
QUIET_SECONDS = 60.0  # of nothing at all, before anything is said: a worker on a busy machine takes a while to start
AGAIN_SECONDS = 600.0
SHOWN = 3

Say = Callable[[str], None]


class StallCheck:
    """Judges, by the store's leases, whether a run goes on.

    Args:
        run: the name of this run in its leases.
        there: what a cluster has for the kinds of stage that wait, in words; None on no cluster.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        frontier: Frontier,
        store: Store,
        run: str,
        say: Say,
        there: Callable[[Mapping[str, int]], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._frontier, self._store, self._run, self._say, self._there = frontier, store, run, say, there
        self._clock = clock
        self._moved = self._clock()
        self._told: float | None = None
        self._ended = 0
        self._beats: list[tuple[str, Any, Any]] = []

    def look(self) -> None:
        """Say why nothing has happened for a while, if so; stop the run where nothing ever can."""
        frontier = self._frontier
        ended, now = len(frontier.succeeded) + len(frontier.failed) + len(frontier.blocked), self._clock()
        if ended != self._ended:
            self._ended, self._moved, self._told = ended, now, None
        if frontier.done or now - self._moved < QUIET_SECONDS or self._works():
            return
        if not (frontier.running or frontier.deferred or frontier.ready):
            frontier.stop(f"nothing can proceed: {_counted(_waiting(frontier))} wait for what never ends")
            return
        if self._told is not None and now - self._told < AGAIN_SECONDS:
            return
        reason = self._reason()
        if reason:
            self._told = now
            self._say(reason)

    def _reason(self) -> str:
        frontier = self._frontier
        kinds = Counter(frontier.stages[key].kind for key in set(frontier.running))
        if kinds:  # handed out, but no worker has begun
            what = f"nothing runs: {_counted(kinds)} wait for a worker"
            return f"{what}; {self._there(kinds)}" if self._there is not None else what
        if frontier.deferred:
            return f"all that is left is in work in another run: {self._holders()}; this run waits for it"
        return ""

    def _works(self) -> bool:
        """Whether a worker of this run has renewed a lease since the last look."""
        own = [b for b in self._leases().values() if b.get("run") == self._run and not b.get("released")]
        beats = sorted((str(b.get("key")), b.get("number"), b.get("beat")) for b in own)
        before, self._beats = self._beats, beats
        return bool(beats) and beats != before

    def _holders(self) -> str:
        beats = self._leases()
        held = [beats[key] for key in sorted(self._frontier.deferred) if key in beats]
        shown = [f"{b.get('kind')} {b.get('name')} (on {b.get('node')}, process {b.get('pid')})" for b in held[:SHOWN]]
        more = len(self._frontier.deferred) - len(shown)
        return ", ".join(shown + ([f"{more} more"] if more > 0 else []))

    def _leases(self) -> Mapping[str, Mapping[str, Any]]:
        try:
            return self._store.leases()
        except StoreError:
            return {}


@contextmanager
def stalls_told(check: StallCheck) -> Iterator[None]:
    """Look from a thread meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            try:
                check.look()
            except Exception:  # noqa: S112 - the run changes its state meanwhile; a look that failed is made again
                continue

    thread = threading.Thread(target=watch, name="stall", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def cluster_words(run: Run) -> Callable[[Mapping[str, int]], str]:
    """What the connected Ray cluster has, beside what the stages that wait ask for."""

    def words(kinds: Mapping[str, int]) -> str:
        import ray

        from orchestrator.execute.resources import shape_of

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = any(node.get("GPU", 0) > 0 for node in nodes)
        asked = {kind: shape_of(kind, run, gpus=gpus) for kind in kinds}
        wants = ", ".join(f"a {kind} asks for {s.cpus:g} CPU and {s.gpus:g} GPU" for kind, s in asked.items())
        most: Mapping[str, float] = max(nodes, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)), default={})
        fits = all(any(n.get("CPU", 0) >= s.cpus and n.get("GPU", 0) >= s.gpus for n in nodes) for s in asked.values())
        count = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
        has = f"the cluster has {count}, the largest with {most.get('CPU', 0):g} CPU"
        has += f" and {most.get('GPU', 0):g} GPU"
        end = "others may be using them" if fits else "no node is large enough: lower run.resources, or add nodes"
        return f"{wants}; {has}; {end}"

    return words


def _waiting(frontier: Frontier) -> Counter[str]:
    ended = frontier.succeeded | frontier.failed.keys() | frontier.blocked.keys()
    waiting = Counter(stage.kind for key, stage in frontier.stages.items() if key not in ended)
    return waiting + Counter({"study": len(frontier.studies)})


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())
