"""Cells that are finished without the weights that a figure needs now: they are trained once more, for the figure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from orchestrator.grid.analyses import WEIGHTS_OF_CELLS
from orchestrator.plan.keys import stage_key
from orchestrator.plan.stages import Plan, Stage
from orchestrator.plan.unfold import moved


def looked_at(plan: Plan) -> set[str]:
    """The cells whose finetuned networks the plan's analyses look at."""
    figures = [s for s in plan.stages.values() if s.spec.get("analysis", {}).get("kind") in WEIGHTS_OF_CELLS]
    parents = {key for stage in figures for key in stage.parents.values()}
    return {key for key in parents if plan.stages[key].kind == "finetune"}


def with_weights(plan: Plan, lacking: Collection[str]) -> Plan:
    """The plan with the cells `lacking`, as far as analyses look at them, trained again beside the finished ones.

    A finished stage never runs twice: the one for the figure has a key of its own and ends with the same numbers. It
    happens only where a figure is asked for after its cells; `run.keep_weights` of a grid avoids it.
    """
    again = {key: _again(plan.stages[key]) for key in sorted(looked_at(plan).intersection(lacking))}
    if not again:
        return plan
    keys = {key: stage.key for key, stage in again.items()}
    stages: dict[str, Stage] = {}
    figures: dict[str, str] = {}
    for key, stage in plan.stages.items():
        if stage.spec.get("analysis", {}).get("kind") in WEIGHTS_OF_CELLS:
            stages |= {again[p].key: again[p] for p in stage.parents.values() if p in again}
            stage = moved(stage, keys)
            figures[key] = stage.key
        stages[stage.key] = stage
    return replace(plan, stages=stages, wanted=tuple(figures.get(key, key) for key in plan.wanted))


def _again(stage: Stage) -> Stage:
    spec = {**stage.spec, "keep_weights": True, "again": "for its weights"}
    key = stage_key(stage.kind, spec, stage.parents, stage.fingerprint)
    labels: Mapping[str, str | int | float | bool | None] = {**stage.labels, "again": "weights"}
    return replace(stage, key=key, spec=spec, labels=dict(labels), name=f"{stage.name} | again, for its weights")
