"""Who hears of stages that start and end: the frontier first, then the view and MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.outcome import Outcome
from orchestrator.plan.stages import Stage
from orchestrator.record.store import StoreError

STORE_TRIES = 3


class View(Protocol):
    """Something that shows a run."""

    def added(self, stage: Stage) -> None: ...
    def started(self, stage: Stage) -> None: ...
    def ended(self, stage: Stage, outcome: Outcome) -> None: ...
    def preempted(self, stage: Stage, outcome: Outcome) -> None: ...


class Sink(Protocol):
    """Something that keeps ended stages (MLflow)."""

    def put(self, stage: Stage, outcome: Outcome) -> None: ...


class Feed(Protocol):
    """Something that adds stages to a running frontier (studies)."""

    def pump(self, frontier: Frontier) -> None: ...
    def settle(self, frontier: Frontier, outcome: Outcome) -> None: ...


class Listener:
    """Passes each outcome on, once, and turns a failure into the blocking of what needs it."""

    def __init__(self, view: View, sink: Sink | None = None, probe: Callable[[], str | None] = lambda: None) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.kinds: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self._view, self._sink, self._probe = view, sink, probe
        self._tries: Counter[str] = Counter()
        self.feed: Feed | None = None

    def pump(self, frontier: Frontier) -> None:
        """Called before stages are taken: whoever has more of them may add them now."""
        if self.feed is not None:
            self._fed(frontier, lambda feed: feed.pump(frontier))

    def started(self, stage: Stage) -> None:
        """A stage was handed to a worker."""
        self._view.started(stage)

    def settle(self, frontier: Frontier, outcome: Outcome) -> None:
        """A stage has ended."""
        if outcome.key in self.outcomes:
            return
        if outcome.outcome == "elsewhere":
            frontier.defer(outcome.key)
            return
        if outcome.outcome == "preempted":
            frontier.give_back(outcome.key)
            self._view.preempted(frontier.stages[outcome.key], outcome)
            return
        if outcome.outcome == "succeeded":
            frontier.succeed(outcome.key)
            self._tell(frontier, outcome)
            self._fed(frontier, lambda feed: feed.settle(frontier, outcome))
            return
        if self._try_again(frontier, outcome):
            return
        error = outcome.error or "no reason given"
        blocked = frontier.fail(outcome.key, error)
        self._tell(frontier, outcome)
        for key in blocked:
            self._tell(frontier, Outcome(key, "blocked", error=frontier.blocked[key], executed=False))
        self._fed(frontier, lambda feed: feed.settle(frontier, outcome))

    def blocked(self, frontier: Frontier, key: str) -> None:
        """A stage can never run."""
        if key not in self.outcomes:
            self._tell(frontier, Outcome(key, "blocked", error=frontier.blocked[key], executed=False))

    def _fed(self, frontier: Frontier, call: Callable[[Feed], None]) -> None:
        try:
            if self.feed is not None:
                call(self.feed)
        except StoreError as error:
            frontier.stop(str(error))

    def _try_again(self, frontier: Frontier, outcome: Outcome) -> bool:
        """What is no fault of the stage: a store that cannot be used stops the run; memory is tried again alone."""
        if outcome.cause == "store":
            broken = self._probe()
            if broken is not None:
                frontier.stop(broken)
            elif self._tries[outcome.key] >= STORE_TRIES:
                return False
        elif outcome.cause in ("memory", "device"):
            if outcome.key in frontier.alone:
                return False
            frontier.alone.add(outcome.key)
        else:
            return False
        self._tries[outcome.key] += 1
        frontier.give_back(outcome.key)
        return True

    def _tell(self, frontier: Frontier, outcome: Outcome) -> None:
        self.outcomes[outcome.key] = outcome
        stage = frontier.stages[outcome.key]
        self.kinds[outcome.key], self.names[outcome.key] = stage.kind, stage.name
        self._view.ended(stage, outcome)
        if self._sink is not None:
            self._sink.put(stage, outcome)
