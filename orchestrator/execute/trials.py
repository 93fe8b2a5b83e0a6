"""The trials that a store holds, and plans with them. No Optuna here, so that planning stays fast."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.plan.stages import Plan, Study
from orchestrator.plan.studies import Trial, trials_of, unfold
from orchestrator.record.store import Store


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
