"""A plan against a store: what runs, what is reused, what is blocked and why, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from orchestrator.plan.stages import Cell, Plan, Stage

State = Literal["reused", "to_run", "failed", "blocked", "deferred", "unneeded"]
KINDS = ("prepare", "pretrain", "trial", "import", "finetune", "probe", "analysis")


@dataclass(frozen=True)
class Diff:
    """Every stage of one or several plans with its state.

    `unneeded`: unfinished, and none that could run needs it. `failed`: by its own fault, in an earlier run.

    Attributes:
        reasons: of each failed or blocked stage, why, for people.
        roots: of each blocked stage the one at which the cause lies: itself, or the highest blocked or failed ancestor.
        timed_on: the device that the stages were timed on that costs were learned from; None: costs are a guess for a
            CPU core.
    """

    plans: tuple[Plan, ...]
    stages: dict[str, Stage]
    states: dict[str, State]
    reasons: dict[str, str]
    roots: dict[str, str] = field(default_factory=dict)
    timed_on: str | None = None

    def keys(self, state: State) -> list[str]:
        """The stages in a state, parents before children."""
        return [key for key, s in self.states.items() if s == state]

    @property
    def to_run(self) -> dict[str, Stage]:
        """The stages that could be run as they are, parents before children."""
        return {key: self.stages[key] for key in self.keys("to_run") if self.stages[key].proposed}

    @property
    def planned(self) -> dict[str, Stage]:
        """All that a run will have to do, also what its studies are still to propose and to decide."""
        states = ("to_run", "deferred")
        return {key: self.stages[key] for key, state in self.states.items() if state in states}

    @property
    def causes(self) -> dict[str, list[str]]:
        """Why stages are blocked by the data: each cause once, with the stages that it blocks.

        What a stage failed in an earlier run blocks is no cause of its own: the failure is.
        """
        found: dict[str, list[str]] = {}
        for key in self.keys("blocked"):
            if self.stages[key].blocked is not None or self.states[self.roots[key]] == "blocked":
                found.setdefault(self.reasons[key], []).append(key)
        return found

    @property
    def cells(self) -> dict[str, Cell]:
        """The cells of all plans, each key once."""
        return {cell.key: cell for plan in self.plans for cell in plan.cells if cell.constant is None}


def diff(plans: Sequence[Plan], finished: Collection[str], failed: Mapping[str, str] | None = None) -> Diff:
    """Compare plans with what a store holds. A stage shared by several plans counts once.

    Args:
        finished: keys that need not run.
        failed: keys that need not be tried again, with their errors; what needs them is blocked.
    """
    stages = all_stages(plans)
    trials = _trials(stages)
    needed: set[str] = set()
    open_keys = [cell.key for plan in plans for cell in plan.cells if cell.constant is None]
    wanted = [key for plan in plans for key in plan.wanted]
    open_keys += [key for key in wanted if not _draws_an_open_study(stages[key])]
    while open_keys:
        key = open_keys.pop()
        if key in needed or key in finished:
            continue
        needed.add(key)
        below = [t for study in stages[key].awaits.values() for t in trials.get(study, ())]
        # A blocked stage cannot use what runs below it; its blocked parents stay in view, as they are the cause.
        below += stages[key].parents.values()
        open_keys.extend(p for p in below if stages[key].blocked is None or stages[p].blocked is not None)
    asked = {study for key in needed if stages[key].blocked is None for study in stages[key].awaits.values()}
    needed.update(key for key in wanted if _draws_an_open_study(stages[key]) and asked & {*stages[key].awaits.values()})
    states: dict[str, State] = {}
    reasons: dict[str, str] = {}
    roots: dict[str, str] = {}
    for key, stage in stages.items():
        root = _root(stage, trials, states, roots)
        if key in finished:
            states[key] = "reused"
        elif key not in needed:
            states[key] = "unneeded"
        elif root is not None:
            states[key], roots[key] = "blocked", root
            reasons[key] = stage.blocked or _inherited(stages[root], reasons[root], states[root])
        elif failed and key in failed:
            states[key], reasons[key] = "failed", failed[key]
        elif stage.awaits or any(states.get(parent) == "deferred" for parent in stage.parents.values()):
            states[key] = "deferred"
        else:
            states[key] = "to_run"
    return Diff(tuple(plans), stages, states, reasons, roots)


def all_stages(plans: Iterable[Plan]) -> dict[str, Stage]:
    """The stages of several plans, each once, parents before children; one that is to keep its weights goes before the
    same that is not."""
    stages: dict[str, Stage] = {}
    for plan in plans:
        for key, stage in plan.stages.items():
            if key not in stages or stage.spec.get("keep_weights"):
                stages[key] = stage
    return stages


def _trials(stages: Mapping[str, Stage]) -> dict[str, list[str]]:
    """The trials of each study."""
    found: dict[str, list[str]] = {}
    for key, stage in stages.items():
        if stage.study is not None:
            found.setdefault(stage.study, []).append(key)
    return found


def _root(
    stage: Stage, trials: Mapping[str, list[str]], states: Mapping[str, State], roots: Mapping[str, str]
) -> str | None:
    """The stage at which lies why `stage` cannot run; None where it can. Its parents have been judged before it."""
    for study in stage.awaits.values():
        for trial in trials.get(study, ()):
            if states.get(trial) == "blocked":  # all trials have the same parents
                return roots[trial]
    for parent in stage.parents.values():
        if states.get(parent) in ("blocked", "failed"):
            return roots.get(parent, parent)
    return stage.key if stage.blocked is not None else None


def _draws_an_open_study(stage: Stage) -> bool:
    """Its figures alone are no reason to run a study; where the study is blocked, so are they."""
    return bool(stage.awaits) and stage.blocked is None and stage.spec.get("analysis", {}).get("kind") == "study"


def _inherited(root: Stage, reason: str, state: State) -> str:
    """What a stage says whose cause lies at an ancestor."""
    return f"its parent {root.name!r} failed: {reason}" if state == "failed" else reason


def standing(failures: Mapping[str, dict[str, Any]], overcome: Collection[str]) -> dict[str, dict[str, Any]]:
    """Of recorded failures those that still hold: not of a stage that was blocked by one of `overcome`."""
    return {key: record for key, record in failures.items() if record.get("blocked_by", key) not in overcome}


def restrict(found: Diff, key: str) -> Diff:
    """Only the stage `key`, finished or not, and of what it needs only what is not finished."""
    wanted, waiting = set[str](), [key]
    while waiting:
        current = waiting.pop()
        wanted.add(current)
        waiting.extend(p for p in found.stages[current].parents.values() if found.states[p] != "reused")
    states: dict[str, State] = {}
    reasons: dict[str, str] = {}
    roots: dict[str, str] = {}
    for k, state in found.states.items():
        blocked = found.stages[k].blocked
        if k not in wanted:
            states[k] = "unneeded" if state in ("to_run", "blocked", "deferred") else state
        elif blocked is not None and state != "reused":
            states[k], reasons[k], roots[k] = "blocked", blocked, found.roots.get(k, k)
        else:
            states[k] = "to_run"
    return replace(found, states=states, reasons=reasons, roots=roots)


def summary(found: Diff) -> dict[str, Any]:
    """The totals of the contract's `--dry-run --json`, for all plans together and for each alone."""
    totals = _totals(found)
    alone = len(found.plans) == 1
    each = [{"grid": plan.grid, **(totals if alone else _totals(_part(found, plan)))} for plan in found.plans]
    return {"profile": profiles(found), **totals, "grids": each}


def profiles(found: Diff) -> str:
    """The profile of the plans; of several grids with their own ones `mini,paper`."""
    return ",".join(dict.fromkeys(plan.profile for plan in found.plans))


def _part(found: Diff, plan: Plan) -> Diff:
    states = {key: found.states[key] for key in plan.stages}
    reasons = {key: reason for key, reason in found.reasons.items() if key in plan.stages}
    roots = {key: root for key, root in found.roots.items() if key in plan.stages}
    return replace(found, plans=(plan,), stages=dict(plan.stages), states=states, reasons=reasons, roots=roots)


def _totals(found: Diff) -> dict[str, Any]:
    kinds = Counter(stage.kind for stage in found.stages.values())
    states = Counter(found.states.values())
    cells, trials = found.cells, _trials(found.stages)
    siblings: dict[tuple[str, ...], set[str]] = {}  # cells with the same parents have the same ancestors
    naive = []
    for key in cells:
        stage = found.stages[key]
        above = (*stage.parents.values(), *stage.awaits.values(), stage.study or "")
        if above not in siblings:
            siblings[above] = _trained_ancestors(found, key, trials)
        naive.append(siblings[above])
    each_for_itself = set(cells).union(*siblings.values())
    shared = sum(stage.cost for key, stage in found.stages.items() if key not in each_for_itself)
    return {
        "cells": len(cells),
        "stages": {kind: kinds.get(kind, 0) for kind in KINDS},
        "reused": states["reused"],
        "to_run": states["to_run"],
        "failed": states["failed"],
        "blocked": states["blocked"],
        "deferred": states["deferred"],
        "naive_pretrain_stages": sum(len(ancestors) for ancestors in naive),
        "estimated_device_seconds": round(sum(stage.cost for stage in found.planned.values()), 1),
        "naive_device_seconds": round(
            shared
            + sum(
                found.stages[key].cost + sum(found.stages[a].cost for a in ancestors)
                for key, ancestors in zip(cells, naive, strict=True)
            ),
            1,
        ),
        "timed_on": found.timed_on,
        "blocked_reasons": sorted(set(found.reasons.values())),
    }


def _trained_ancestors(found: Diff, key: str, trials: Mapping[str, list[str]]) -> set[str]:
    """The pretrain stages below a cell, itself not counted; of a study all trials."""
    ancestors: set[str] = set()
    waiting = [key]
    while waiting:
        stage = found.stages[waiting.pop()]
        studies = {*stage.awaits.values(), *([stage.study] if stage.study else [])}
        for parent in [*stage.parents.values(), *(trial for study in studies for trial in trials[study])]:
            if parent not in ancestors:
                ancestors.add(parent)
                waiting.append(parent)
    return {a for a in ancestors if found.stages[a].kind in ("pretrain", "trial")}
