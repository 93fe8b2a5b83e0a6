"""How long a run takes on N devices: its own scheduling policy on a virtual clock, and what no schedule can beat."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from orchestrator.plan.diff import Diff
from orchestrator.plan.stages import Stage


class Order(Protocol):
    """Who decides what starts next; `orchestrator.execute.frontier.Frontier` is the one that real runs use."""

    def take(self, *, slots: int, most: int) -> Sequence[Stage]:
        """The next pack; empty where nothing is ready."""
        ...

    def urgency(self, pack: Sequence[Stage]) -> float:
        """Of packs that wait for a device the greatest goes first."""
        ...

    def succeed(self, key: str) -> None:
        """A stage has ended."""
        ...


@dataclass(frozen=True)
class Span:
    """When and where a stage runs, in seconds from the start of the run."""

    key: str
    device: int
    start: float
    end: float


@dataclass(frozen=True)
class Schedule:
    """What a simulated run did."""

    devices: int
    spans: tuple[Span, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the start to the end of the last stage."""
        return max((span.end for span in self.spans), default=0.0)

    @property
    def utilisation(self) -> float:
        """The share of the devices' time that stages fill."""
        busy = sum(span.end - span.start for span in self.spans)
        return busy / (self.devices * self.makespan) if self.makespan else 1.0


def simulate(order: Order, devices: int, *, most: int = 1, outstanding: int | None = None) -> Schedule:
    """Run all stages that `order` hands out; each takes its cost in seconds, and a pack keeps its device to its end.

    Args:
        order: a fresh one; it is used up.
        devices: workers; each stage occupies one.
        most: largest pack (`run.pack`).
        outstanding: packs that are handed out at a time, running or waiting for a device; default: none waits.
    """
    free: list[int] = []  # of the first `used` devices; the others have not been needed yet
    used = 0
    waiting: list[tuple[float, int, Sequence[Stage]]] = []  # less its urgency, number, pack
    running: list[tuple[float, int, int, Sequence[Stage], int]] = []  # end, number, device, pack, place in the pack
    spans: list[Span] = []
    now, taken = 0.0, 0

    def start(device: int, pack: Sequence[Stage], place: int) -> None:
        end = now + pack[place].cost
        spans.append(Span(pack[place].key, device, now, end))
        heapq.heappush(running, (end, len(spans), device, pack, place))

    while True:
        while len(running) + len(waiting) < max(devices, outstanding or devices):
            pack = order.take(slots=devices, most=most)
            if not pack:
                break
            taken += 1
            heapq.heappush(waiting, (-order.urgency(pack), taken, pack))
        while waiting and (free or used < devices):
            device = heapq.heappop(free) if free else used
            used = max(used, device + 1)
            start(device, heapq.heappop(waiting)[2], 0)
        if not running:
            return Schedule(devices, tuple(spans))
        now, _, device, pack, place = heapq.heappop(running)
        order.succeed(pack[place].key)
        if place + 1 < len(pack):
            start(device, pack, place + 1)
        else:
            heapq.heappush(free, device)


def lower_bound(stages: Mapping[str, Stage], devices: int) -> float:
    """What no schedule on `devices` can beat: the work shared evenly, or the longest chain of stages.

    Parents precede children in `stages`; parents that are not in it are finished.
    """
    ends: dict[str, float] = {}
    for key, stage in stages.items():
        ends[key] = stage.cost + max((ends.get(parent, 0.0) for parent in stage.parents.values()), default=0.0)
    total = sum(stage.cost for stage in stages.values())
    return max(total / devices, max(ends.values(), default=0.0))


def all_known(found: Diff) -> dict[str, Stage]:
    """All that a run will have to do, as if its studies' trials were proposed at once: what waits for a study then
    needs all of its trials."""
    trials: dict[str, dict[str, str]] = {}
    for key, stage in found.planned.items():
        if stage.study is not None:
            trials.setdefault(stage.study, {})[f"trial {key}"] = key
    return {
        key: replace(
            stage, parents={**stage.parents, **{r: t for s in stage.awaits.values() for r, t in trials[s].items()}}
        )
        if stage.awaits
        else stage
        for key, stage in found.planned.items()
    }


def forecast(order: Order, stages: Mapping[str, Stage], devices: int, *, most: int) -> dict[str, Any]:
    """What `--dry-run --devices N` tells, as JSON values.

    Args:
        order: a fresh frontier over `stages`.
    """
    schedule = simulate(order, devices, most=most)
    return {
        "devices": devices,
        "makespan_seconds": round(schedule.makespan, 1),
        "lower_bound_seconds": round(lower_bound(stages, devices), 1),
        "utilisation": round(schedule.utilisation, 4),
    }
