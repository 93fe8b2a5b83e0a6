"""The trials that a store holds, and plans with them. No Optuna here, so that planning stays fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from orchestrator.plan.build import restore_plan
from orchestrator.plan.stages import Plan, Study
from orchestrator.plan.studies import Trial, ended, is_over, trials_of, winner
from orchestrator.plan.unfold import unfold
from orchestrator.record.store import Store

Trials = dict[str, list[Trial]]


def read_trials(store: Store, study: Study, *, retry_failed: bool = False) -> list[Trial]:
    """The trials of a study as the store knows them. `retry_failed`: those that have failed are open again.

    A study that was decided stays decided: of one that has grown since, in a plan that asks for no more trials than
    counted then, those that counted.
    """
    trials = all_trials(store, study, retry_failed=retry_failed)
    decided = {} if retry_failed else store.conclusions(study.key)
    least = min((count for count in decided if count >= study.tune["trials"]), default=None)
    counted = None if least is None else decided[least].get("trials")
    return trials if counted is None else [trial for trial in trials if trial.key in counted]


def all_trials(store: Store, study: Study, *, retry_failed: bool = False) -> list[Trial]:
    """As `read_trials`, with those that were proposed when the study had been decided."""
    proposals = store.proposals(study.key)
    keys = [proposal["key"] for proposal in proposals]
    return trials_of(proposals, store.commits(keys), {} if retry_failed else store.failures(keys))


def unfolded(plans: Iterable[Plan], store: Store, *, retry_failed: bool = False) -> tuple[Plan, ...]:
    """The plans with their trials as stages, and cells keyed by the winners of studies that are over."""
    return tuple(
        unfold(plan, {key: _to_go_on_from(store, study, retry_failed) for key, study in plan.studies.items()})
        if plan.studies
        else plan
        for plan in with_most_trials(tuple(plans))
    )


def with_most_trials(plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """Plans that share a study ask for as many trials as the one that asks for most: their cells get one winner."""
    most: dict[str, int] = {}
    for study in (study for plan in plans for study in plan.studies.values()):
        most[study.key] = max(most.get(study.key, 0), study.tune["trials"])
    return tuple(
        replace(plan, studies={k: replace(s, tune={**s.tune, "trials": most[k]}) for k, s in plan.studies.items()})
        for plan in plans
    )


def _to_go_on_from(store: Store, study: Study, retry_failed: bool) -> list[Trial]:
    """The trials of a study; where none has won, those that died by their worker, memory or GPU are open again, as any
    other stage is."""
    trials = read_trials(store, study, retry_failed=retry_failed)
    if not is_over(study, trials) or winner(study, trials) is not None:
        return trials
    own = {key for key, failure in store.failures(t.key for t in trials).items() if failure.get("cause") == "stage"}
    return [replace(t, state="RUNNING", error=None) if t.state == "FAIL" and t.key not in own else t for t in trials]


def conclude(store: Store, study: Study, trials: Sequence[Trial]) -> None:
    """Of a study that is over: keep who won and which trials counted; drop the weights of those that never won. Where
    none is open, for a plan that asks for more of them, also the states that longer ones could have gone on from."""
    best, over = winner(study, trials), ended(trials)
    if best is not None:
        record = {"key": best.key, "number": best.number, "value": best.value, "params": dict(best.params)}
        store.conclude(study.key, len(over), {**record, "trials": [trial.key for trial in over]})
        winners = {won["key"] for won in store.conclusions(study.key).values()}
        for trial in trials:
            if trial.state == "COMPLETE" and trial.key not in winners:
                store.drop_weights(trial.key)
    if len(over) == len(trials):
        store.drop_states(study.key)


def conclude_left(plans: Iterable[Plan], store: Store) -> None:
    """`conclude` studies that are over where the run that ended them was killed before it could, or asked for more."""
    for study in {key: study for plan in plans for key, study in plan.studies.items()}.values():
        trials = read_trials(store, study)
        known = len(ended(trials)) in store.conclusions(study.key)
        if is_over(study, trials) and winner(study, trials) is not None and not known:
            conclude(store, study, trials)


def unfolded_record(record: Mapping[str, Any], store: Store) -> tuple[Plan, Trials]:
    """A stored plan with the trials that its studies have by now, and those by study.

    Of a plan whose studies were over the trials that it was saved with, though its studies may have grown since.
    """
    plan = restore_plan(dict(record))
    known = {key: read_trials(store, study) for key, study in plan.studies.items()}
    if not any(stage.awaits for stage in plan.stages.values()):
        known = {key: [trial for trial in trials if trial.key in plan.stages] for key, trials in known.items()}
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
