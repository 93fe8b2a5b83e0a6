"""Optuna's part of a study: which settings come next, and whether a trial is worth going on with.

Both are functions of what the store knows. The study that Optuna sees is built anew, in memory, for each question: four
milliseconds, and no state that a killed driver could leave behind.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, BruteForceSampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import ValidationError

from orchestrator.plan.stages import Study
from orchestrator.plan.studies import Trial, trial_stage
from search_spaces.spaces import SPACES, Base
from trainables.analyses import analyse
from trainables.context import Context, Result

optuna.logging.set_verbosity(optuna.logging.ERROR)
LEAST_FOR_IMPORTANCE = 4
DRAWS = 5  # how often TPE is asked where its proposals are trials that exist; then those left are gone through


@dataclass(frozen=True)
class Proposal:
    """Settings to try: Optuna's parameters with their distributions (JSON), what they change in the pretext, and the
    order in which the space asked for them."""

    params: dict[str, Any]
    distributions: dict[str, str]
    changes: dict[str, Any]
    order: list[str]


def propose(study: Study, trials: Sequence[Trial]) -> Proposal:
    """The next trial's settings, by TPE [Bergstra et al. 2011] after `tune.startup` random ones.

    Trials in work count with the worst value so far (constant liar), so that parallel ones spread out. Settings that
    were tried are not proposed again while there are others; in a finite space those left are found one by one.

    Raises:
        SpaceError: the space no longer is what the trials so far were drawn from, or proposes what cannot be trained.
    """
    taken = {trial.key for trial in trials}
    base = Base(
        {**study.spec["pretext"], "pretrain": study.spec["pretrain"]},
        study.steps,
        comparable=study.objective["kind"] == "downstream",
    )
    for draw in range(DRAWS):
        trial, changes = _ask(study, trials, base, _tpe(study, len(trials), draw))
        if _stage_key(study, changes) not in taken:
            break
    else:
        if all(_choices(d) for d in trial.distributions.values()):
            trial, changes = _ask(study, trials, base, _of_those_left(_seed(study, len(trials), DRAWS)))
            _stage_key(study, changes)
    told = {name: distribution_to_json(d) for name, d in trial.distributions.items()}
    return Proposal(dict(trial.params), told, changes, list(trial.params))


class SpaceError(Exception):
    """A space was changed under a study, or is wrong. The message is for the user."""


def _stage_key(study: Study, changes: Mapping[str, Any]) -> str:
    try:
        return trial_stage(study, changes).key
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        named = ".".join(map(str, fault["loc"])) or study.spec["pretext"]["method"]
        raise SpaceError(
            f"the space {study.tune['space']!r} proposes {dict(changes)} for the study {study.name!r}, which cannot be "
            f"trained: {named}: {fault['msg']}"
        ) from error


def _ask(
    study: Study, trials: Sequence[Trial], base: Base, sampler: BaseSampler
) -> tuple[optuna.trial.Trial, dict[str, Any]]:
    name = study.tune["space"]
    asked = optuna.create_study(direction=study.objective["direction"], sampler=sampler)
    asked.add_trials([frozen(trial) for trial in trials])
    trial = asked.ask()
    try:
        return trial, SPACES[name](trial, base)
    except Exception as error:
        if trials and isinstance(error, ValueError):
            raise SpaceError(
                f"the space {name!r} no longer is what the {len(trials)} trials of the study {study.name!r} were drawn "
                f"from ({error}); give the changed space a new name"
            ) from error
        raise SpaceError(
            f"the space {name!r} fails for the study {study.name!r}: {type(error).__name__}: {error}"
        ) from error


def _tpe(study: Study, number: int, draw: int) -> BaseSampler:
    return optuna.samplers.TPESampler(
        seed=_seed(study, number, draw), n_startup_trials=study.tune["startup"], constant_liar=True
    )


def _of_those_left(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return BruteForceSampler(seed=seed)  # it counts trials in work as taken


def _choices(distribution: BaseDistribution) -> bool:
    """Whether a parameter has finitely many values."""
    return isinstance(distribution, CategoricalDistribution | IntDistribution)


def _seed(study: Study, number: int, draw: int) -> int:
    """A function of the study, the trial's number and the draw, so that a resumed study goes on as it would have."""
    text = f"{study.key} {study.tune['seed']} {number} {draw}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def frozen(trial: Trial) -> FrozenTrial:
    """The trial as Optuna keeps it. Its steps are steps of training."""
    return create_trial(
        state=TrialState[trial.state],
        value=trial.value if trial.state in ("COMPLETE", "PRUNED") else None,
        params=dict(trial.params),
        distributions={name: json_to_distribution(text) for name, text in trial.distributions.items()},
        intermediate_values=dict(trial.values),
        user_attrs={"key": trial.key, "steps": trial.steps_run} | ({"error": trial.error} if trial.error else {}),
    )


def analyse_study(spec: Mapping[str, Any], context: Context) -> Result:
    """The analysis stage of a study: its pictures, with the importance of each parameter by Optuna's fANOVA."""
    return analyse({**spec, "importance": importance(spec)}, context)


def importance(spec: Mapping[str, Any]) -> dict[str, float]:
    """The share of the objective's variance that each parameter explains; empty where too few trials are complete."""
    seen = optuna.create_study(direction=spec["direction"])
    names = {f.name for f in fields(Trial)}
    trials = [Trial(changes={}, **{k: v for k, v in trial.items() if k in names}) for trial in spec["trials"]]
    seen.add_trials([frozen(trial) for trial in trials if trial.state == "COMPLETE"])
    if len(seen.trials) < LEAST_FOR_IMPORTANCE or len(seen.trials[0].params) < 2:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            seen, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except (RuntimeError, ValueError):  # all values equal, for one
        return {}
    return {name: round(share, 6) for name, share in found.items()}


@dataclass(frozen=True)
class Rule:
    """How the trials of a study are given up.

    Attributes:
        study: the study's key; Hyperband's brackets follow from it and from the trials' numbers.
        pruning: the grid's `tune.pruning`.
        rungs: the study's rungs in steps, ascending. To Optuna they are the resources 1, factor, factor^2, ...
    """

    study: str
    direction: str
    pruning: Mapping[str, Any]
    rungs: Sequence[int]


def give_up(
    rule: Rule, own: int, values: Mapping[int, Mapping[int, float]], complete: Collection[int] | None = None
) -> bool:
    """Whether the trial `own` is to stop at the last rung that it has a value of.

    Args:
        values: trial number -> step -> objective, of all trials that have reached a rung; numbers from 0.
        complete: numbers of the trials that were trained to their end, which only the median rule asks for.
    """
    factor = int(rule.pruning["factor"])
    resources = {step: factor**number for number, step in enumerate(rule.rungs)}
    pruner = _PRUNERS[rule.pruning["rule"]](factor, len(resources))
    asked = optuna.create_study(study_name=rule.study, direction=rule.direction, pruner=pruner)
    trials = [asked.ask() for _ in range(max(values) + 1)]  # Hyperband's brackets follow from their numbers
    decided = False
    for number in sorted(values, key=lambda n: (n == own, n)):  # our own last: it is judged by all others
        reached = [(step, value) for step, value in sorted(values[number].items()) if step in resources]
        for step, value in reached:
            trials[number].report(value, resources[step])
            decided = trials[number].should_prune()
        if number != own and reached and number in (complete or ()):
            asked.tell(trials[number], reached[-1][1])
    return bool(decided)


def _asha(factor: int, rungs: int) -> BasePruner:
    """Successive halving without waiting [Li et al., arXiv:1810.05934]."""
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)


def _hyperband(factor: int, rungs: int) -> BasePruner:
    """Brackets of successive halving that differ in how early they judge [Li et al., arXiv:1603.06560]."""
    return HyperbandPruner(min_resource=1, max_resource=factor**rungs, reduction_factor=factor)


def _median(factor: int, rungs: int) -> BasePruner:
    """Worse at its best than the median of the complete trials at the same step."""
    return MedianPruner(n_startup_trials=2)


_PRUNERS = {"asha": _asha, "hyperband": _hyperband, "median": _median}
