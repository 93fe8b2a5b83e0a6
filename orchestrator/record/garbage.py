"""What no plan reaches, found by `find` and deleted by `sweep`.

The rules err on the side of keeping. Only names that the store itself gives are looked at. A stage whose lease may be
alive is left alone altogether, and so is an attempt that no commit names yet until it is older than any worker takes
from writing its files to committing them. A plan that cannot be read stops everything: it might reach anything.

One gap stays open: a run that is starting has looked at what is finished and not yet saved its plan. Should `sweep`
take something from it just then, the same command trains it again.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from orchestrator.record.leases import process_is_gone
from orchestrator.record.store import Item, LeaseName, Store, StoreError

MARGIN_SECONDS = 3600.0
Reason = Literal["unreached", "study", "attempt", "finished", "half-written", "probe", "plan"]
REASONS: dict[Reason, str] = {
    "unreached": "stages that no plan reaches",
    "study": "studies that no plan reaches",
    "attempt": "attempts that no commit names",
    "finished": "checkpoints and leases of finished stages, training states of studies that are over",
    "half-written": "half-written files",
    "probe": "old probes",
    "plan": "older plans",
}
KEY = r"(?P<key>[0-9a-f]{16,64})"
OWN_NAMES = {  # kind -> the paths that the store itself makes there
    "artifacts": re.compile(rf"artifacts/{KEY}/(?P<attempt>[^/]+)/.+"),
    "checkpoints": re.compile(rf"checkpoints/{KEY}(/\d+)?\.pt"),  # no number: an earlier layout
    "leases": re.compile(rf"leases/{KEY}/\d+\.(json|ended)"),  # ended: an earlier layout
    "ended": re.compile(rf"ended/{KEY}/\d+"),
    "failures": re.compile(rf"failures/{KEY}\.json"),
    "commits": re.compile(rf"commits/{KEY}\.json"),  # last, so that no attempt listed above is committed after it
}
STUDY = re.compile(rf"studies/{KEY}/(?P<part>trials|values|states|conclusions)/.+")
Record = Mapping[str, Any]
PlanId = tuple[str, str]  # grid, plan
Settle = Callable[[Record], Record]


@dataclass(frozen=True)
class Piece:
    """Files that go together, in the order in which they are deleted. `key`: the stage, empty where there is none."""

    reason: Reason
    key: str
    name: str
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(item.size for item in self.items)


@dataclass(frozen=True)
class Garbage:
    """What may go, and what was spared only because somebody may be at work on it."""

    pieces: tuple[Piece, ...]
    plans: frozenset[PlanId]  # all that were there
    counted: frozenset[PlanId]
    live: tuple[str, ...]  # stages spared for their lease
    young: tuple[str, ...]  # attempt folders spared for their age


@dataclass
class _Held:
    """The files of one stage by kind, its attempts by folder."""

    attempts: dict[str, list[Item]]
    others: dict[str, list[Item]]

    def of(self, *kinds: str) -> list[Item]:
        return [item for kind in kinds for item in self.others.get(kind, ())]

    def old_leases(self) -> list[Item]:
        """All but the latest, whose number must stay taken as long as the stage is in use."""
        named = [
            (found[1], item) for item in self.of("leases", "ended") if (found := LeaseName.of(item.path)) is not None
        ]
        latest = max((name for name, _ in named), default=None)
        return [item for name, item in named if name != latest]


@dataclass
class _Study:
    """The files of one study by part, the keys and names of its trials, and whether it is over."""

    parts: dict[str, list[Item]]
    trials: dict[str, str]

    @property
    def over(self) -> bool:
        """A winner among as many trials as there are is known."""
        counts = [int(PurePosixPath(item.path).stem) for item in self.parts["conclusions"]]
        return max(counts, default=0) >= len(self.parts["trials"])

    def pieces(self, key: str, in_use: bool, live: set[str]) -> Iterator[Piece]:
        """What may go. A study with a trial that somebody may be running stays."""
        name = next(iter(self.trials.values()), "")
        if live & self.trials.keys():
            return
        if not in_use:  # the trials last: as long as they are there, so is the study
            parts = [item for part in ("states", "values", "conclusions", "trials") for item in self.parts[part]]
            yield Piece("study", key, name, tuple(parts))
        elif self.over and self.parts["states"]:
            yield Piece("finished", key, name, tuple(self.parts["states"]))


def find(store: Store, *, keep_plans: int | None = None, now: float | None = None, settle: Settle = dict) -> Garbage:
    """Look through the whole store; nothing is changed.

    Args:
        keep_plans: only so many newest plans of each grid count, and those at which a run is working; the others go.
            None: all count.
        now: Unix seconds, for tests.
        settle: a plan -> the same with what its studies have decided since, so that the cells below their winners are
            reached, though the run that trained them has not saved its plan again. Planning knows how.

    Raises:
        StoreError: the store holds no plan, or one that cannot be read.
    """
    now = time.time() if now is None else now
    held = _held(store)
    commits = store.commits(key for key, files in held.items() if files.of("commits"))
    live = {key for key, lease in store.leases().items() if _may_live(lease, now)}
    plans = {plan: settle(record) for plan, record in _plans(store).items()}
    studies = _studies(store)
    counted = _counted(plans, keep_plans, live, studies)
    in_use = {study for plan in counted for study in _studies_of(plans[plan])}
    reached = _reached([plans[plan] for plan in counted], commits)
    reached |= {key for study in in_use & studies.keys() for key in studies[study].trials}
    pieces: list[Piece] = []
    spared: set[str] = set()
    young: list[str] = []
    for key, files in held.items():
        found = list(_of_stage(key, files, commits.get(key), key in reached, now, young))
        if key in live and found:
            spared.add(key)
        elif key not in live:
            pieces += found
    for key, study in studies.items():
        pieces += study.pieces(key, key in in_use, live)
    pieces += _without_stage(store, now)
    pieces += _plan_pieces(store, plans.keys() - counted)
    return Garbage(tuple(pieces), frozenset(plans), frozenset(counted), tuple(sorted(spared)), tuple(young))


def sweep(store: Store, garbage: Garbage) -> Iterator[Piece]:
    """Delete what `find` has found, and give each piece that has gone. A stage with a live lease by now stays.

    Raises:
        StoreError: the store does not delete, or a plan has come meanwhile; what was given is gone, the rest is there.
    """
    for piece in garbage.pieces:
        if piece.key and any(_may_live(lease, time.time()) for lease in _latest_lease(store, piece.key)):
            continue
        if piece.reason in ("unreached", "study") and _plan_ids(store) != garbage.plans:
            raise StoreError(f"store {store.uri}: a run has begun meanwhile; run gc again to see what it leaves unused")
        store.delete(piece.items)
        yield piece


def _held(store: Store) -> dict[str, _Held]:
    held: dict[str, _Held] = defaultdict(lambda: _Held(defaultdict(list), defaultdict(list)))
    for kind, pattern in OWN_NAMES.items():
        for item in store.items(kind):
            match = pattern.fullmatch(item.path)
            if match is None:
                continue
            files = held[match["key"]]
            (files.attempts[match["attempt"]] if kind == "artifacts" else files.others[kind]).append(item)
    return dict(sorted(held.items()))


def _studies(store: Store) -> dict[str, _Study]:
    found: dict[str, _Study] = defaultdict(lambda: _Study(defaultdict(list), {}))
    for item in store.items("studies"):
        if (match := STUDY.fullmatch(item.path)) is not None:
            found[match["key"]].parts[match["part"]].append(item)
    for key, study in found.items():
        study.trials = {proposal["key"]: str(proposal.get("name", "")) for proposal in store.proposals(key)}
    return dict(found)


def _studies_of(plan: Record) -> set[str]:
    """The studies that a plan asks for."""
    named = {stage["study"] for stage in plan["stages"].values() if stage.get("study")}
    return named | set(plan.get("studies", ()))


def _may_live(lease: Record, now: float) -> bool:
    """Whether somebody may be working under a lease; of other hosts' clocks only the hour is believed."""
    if lease.get("released"):
        return False
    if {"space", "pid", "born"} <= lease.keys() and process_is_gone(dict(lease)):
        return False
    return now - float(lease.get("beat", now)) < MARGIN_SECONDS


def _latest_lease(store: Store, key: str) -> list[Record]:
    name = store.latest_lease(key)
    return [lease] if not name.ended and (lease := store.lease(key, name.number)) else []


def _plan_ids(store: Store) -> frozenset[PlanId]:
    return frozenset((grid, plan) for grid in store.grids() for plan in store.plans(grid))


def _plans(store: Store) -> dict[PlanId, Record]:
    plans: dict[PlanId, Record] = {(grid, plan): store.load_plan(grid, plan) for grid, plan in sorted(_plan_ids(store))}
    if not plans:
        raise StoreError(f"store {store.uri} holds no plan, so nothing tells what is in use; run a grid first")
    return plans


def _counted(
    plans: Mapping[PlanId, Record], keep: int | None, live: set[str], studies: Mapping[str, _Study]
) -> set[PlanId]:
    by_grid: dict[str, list[PlanId]] = defaultdict(list)
    for plan in sorted(plans, reverse=True):  # ids begin with the time
        by_grid[plan[0]].append(plan)
    newest = {plan for of_grid in by_grid.values() for plan in of_grid[:keep]}
    at_work = {key for key, study in studies.items() if live & study.trials.keys()}
    return newest | {
        plan for plan, record in plans.items() if live & record["stages"].keys() or at_work & _studies_of(record)
    }


def _reached(plans: list[Record], commits: Mapping[str, Record]) -> set[str]:
    """The stages of plans, and the parents that commits name, at any depth."""
    reached: set[str] = set()
    waiting = [key for plan in plans for key in plan["stages"]]
    while waiting:
        key = waiting.pop()
        if key not in reached:
            reached.add(key)
            waiting.extend(commits.get(key, {}).get("parents", {}).values())
    return reached


def _of_stage(
    key: str, files: _Held, commit: Record | None, reached: bool, now: float, young: list[str]
) -> Iterator[Piece]:
    named = {PurePosixPath(path).parent.name for path in (commit or {}).get("artifacts", {}).values()}
    name = f"{commit['kind']} {commit['name']}" if commit and {"kind", "name"} <= commit.keys() else ""
    nameless = {attempt: items for attempt, items in files.attempts.items() if attempt not in named}
    for attempt, items in nameless.items():
        if max(item.written for item in items) > now - MARGIN_SECONDS:
            young.append(f"artifacts/{key}/{attempt}")
        else:
            yield Piece("attempt", key, name, tuple(items))
    if not reached:  # the commit first: a commit without its artifacts would stop whoever needs them
        parts = files.of("commits") + [item for a in named for item in files.attempts.get(a, ())]
        parts += files.of("failures", "checkpoints", "leases", "ended")
        if parts:
            yield Piece("unreached", key, name, tuple(parts))
    elif commit is not None and (left := files.of("checkpoints") + files.old_leases()):
        yield Piece("finished", key, name, tuple(left))


def _without_stage(store: Store, now: float) -> Iterator[Piece]:
    for item in store.half_written():
        if item.written <= now - MARGIN_SECONDS:
            yield Piece("half-written", "", item.path, (item,))
    for item in store.items("probes"):
        if item.written <= now - MARGIN_SECONDS:
            yield Piece("probe", "", item.path, (item,))


def _plan_pieces(store: Store, plans: set[PlanId]) -> Iterator[Piece]:
    items = {item.path: item for item in store.items("plans")} if plans else {}
    for grid, plan in sorted(plans):
        path = f"plans/{grid}/{plan}.json"
        if path in items:
            yield Piece("plan", "", f"{grid} {plan}", (items[path],))
