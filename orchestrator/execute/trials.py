"""The trials that a store holds, and plans with them. No Optuna here, so that planning stays fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.plan.build import restore_plan
from orchestrator.plan.stages import Plan, Study
from orchestrator.plan.studies import Trial, trials_of
from orchestrator.plan.unfold import unfold
from orchestrator.record.store import Store

Trials = dict[str, list[Trial]]


def read_trials(store: Store, study: Study, *, retry_failed: bool = False) -> list[Trial]:
    """The trials of a study as the store knows them. `retry_failed`: those that have failed are open again."""
    proposals = store.proposals(study.key)
    keys = [proposal["key"] for proposal in proposals]
    return trials_of(proposals, store.commits(keys), {} if retry_failed else store.failures(keys))


def unfolded(plans: Iterable[Plan], store: Store, *, retry_failed: bool = False) -> tuple[Plan, ...]:
    """The plans with their trials as stages, and cells keyed by the winners of studies that are over."""
    found = []
    for plan in plans:
        known = {key: read_trials(store, study, retry_failed=retry_failed) for key, study in plan.studies.items()}
        found.append(unfold(plan, known) if known else plan)
    return tuple(found)


def unfolded_record(record: Mapping[str, Any], store: Store) -> tuple[Plan, Trials]:
    """A stored plan with the trials that its studies have by now, and those by study."""
    plan = restore_plan(dict(record))
    known = {key: read_trials(store, study) for key, study in plan.studies.items()}
    return (unfold(plan, known) if known else plan), known


def settled(record: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """The record of a stored plan, its cells keyed by the winners that are known by now.

    A run saves its plan a second time when its studies are over. While it works, and where it was killed before that,
    cells stand there with the keys of stages that wait; their results are in the store under other keys.
    """
    if not any(stage.get("awaits") for stage in record["stages"].values()):
        return dict(record)
    plan, _ = unfolded_record(record, store)
    return {
        **record,
        "cells": [asdict(cell) for cell in plan.cells],
        "stages": {key: stage.record() for key, stage in plan.stages.items()},
        "wanted": list(plan.wanted),
    }
