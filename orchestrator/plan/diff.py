"""A plan against a store: what runs, what is reused, what is blocked and why, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.plan.stages import Cell, Plan, Stage

State = Literal["reused", "to_run", "failed", "blocked", "deferred", "unneeded"]
KINDS = ("prepare", "pretrain", "trial", "import", "finetune", "probe", "analysis")


@dataclass(frozen=True)
class Diff:
    """Every stage of one or several plans with its state.

    `unneeded`: unfinished, and none that could run needs it. `failed`: by its own fault, in an earlier run.
    """

    plans: tuple[Plan, ...]
    stages: dict[str, Stage]
    states: dict[str, State]
    reasons: dict[str, str]

    def keys(self, state: State) -> list[str]:
        """The stages in a state, parents before children."""
        return [key for key, s in self.states.items() if s == state]

    @property
    def to_run(self) -> dict[str, Stage]:
        """The stages to run, parents before children."""
        return {key: self.stages[key] for key in self.keys("to_run")}

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
    stages: dict[str, Stage] = {}
    for plan in plans:
        for key, stage in plan.stages.items():
            stages.setdefault(key, stage)
    needed: set[str] = set()
    open_keys = [cell.key for plan in plans for cell in plan.cells if cell.constant is None]
    while open_keys:
        key = open_keys.pop()
        if key in needed or key in finished:
            continue
        needed.add(key)
        parents = stages[key].parents.values()
        # A blocked stage cannot use what runs below it; its blocked parents stay in view, as they are the cause.
        open_keys.extend(p for p in parents if stages[key].blocked is None or stages[p].blocked is not None)
    states: dict[str, State] = {}
    reasons: dict[str, str] = {}
    for key, stage in stages.items():
        blocked_by = stage.blocked or _failed_parent(stage, stages, states, reasons)
        if key in finished:
            states[key] = "reused"
        elif key not in needed:
            states[key] = "unneeded"
        elif blocked_by is not None:
            states[key], reasons[key] = "blocked", blocked_by
        elif failed and key in failed:
            states[key], reasons[key] = "failed", failed[key]
        else:
            states[key] = "to_run"
    return Diff(tuple(plans), stages, states, reasons)


def _failed_parent(
    stage: Stage, stages: Mapping[str, Stage], states: Mapping[str, State], reasons: Mapping[str, str]
) -> str | None:
    """Why a stage cannot run because of a parent that failed in an earlier run."""
    for parent in stage.parents.values():
        if states.get(parent) == "failed":
            return f"its parent {stages[parent].name!r} failed: {reasons[parent]}"
        if states.get(parent) == "blocked":
            return reasons[parent]
    return None


def restrict(found: Diff, key: str) -> Diff:
    """Only the stage `key`, finished or not, and of what it needs only what is not finished."""
    wanted, waiting = set[str](), [key]
    while waiting:
        current = waiting.pop()
        wanted.add(current)
        waiting.extend(p for p in found.stages[current].parents.values() if found.states[p] != "reused")
    states: dict[str, State] = {}
    reasons: dict[str, str] = {}
    for k, state in found.states.items():
        blocked = found.stages[k].blocked
        if k not in wanted:
            states[k] = "unneeded" if state in ("to_run", "blocked") else state
        elif blocked is not None and state != "reused":
            states[k], reasons[k] = "blocked", blocked
        else:
            states[k] = "to_run"
    return Diff(found.plans, found.stages, states, reasons)


def summary(found: Diff) -> dict[str, Any]:
    """The totals of the contract's `--dry-run --json`, for all plans together and for each alone."""
    totals = {"profile": found.plans[0].profile, **_totals(found)}
    each = [{"grid": plan.grid, **_totals(_part(found, plan))} for plan in found.plans]
    return {**totals, "grids": each}


def _part(found: Diff, plan: Plan) -> Diff:
    states = {key: found.states[key] for key in plan.stages}
    reasons = {key: reason for key, reason in found.reasons.items() if key in plan.stages}
    return Diff((plan,), dict(plan.stages), states, reasons)


def _totals(found: Diff) -> dict[str, Any]:
    kinds = Counter(stage.kind for stage in found.stages.values())
    states = Counter(found.states.values())
    cells = found.cells
    naive = [_trained_ancestors(found, key) for key in cells]
    return {
        "cells": len(cells),
        "stages": {kind: kinds.get(kind, 0) for kind in KINDS},
        "reused": states["reused"],
        "to_run": states["to_run"],
        "failed": states["failed"],
        "blocked": states["blocked"],
        "deferred": states["deferred"],
        "naive_pretrain_stages": sum(len(ancestors) for ancestors in naive),
        "estimated_device_seconds": round(sum(stage.cost for stage in found.to_run.values()), 1),
        "naive_device_seconds": round(
            sum(
                found.stages[key].cost + sum(found.stages[a].cost for a in ancestors)
                for key, ancestors in zip(cells, naive, strict=True)
            ),
            1,
        ),
        "blocked_reasons": sorted(set(found.reasons.values())),
    }


def _trained_ancestors(found: Diff, key: str) -> set[str]:
    """The pretrain stages below a cell, itself not counted."""
    ancestors: set[str] = set()
    waiting = list(found.stages[key].parents.values())
    while waiting:
        parent = waiting.pop()
        if parent not in ancestors:
            ancestors.add(parent)
            waiting.extend(found.stages[parent].parents.values())
    return {a for a in ancestors if found.stages[a].kind in ("pretrain", "trial")}
