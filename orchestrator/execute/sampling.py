"""Optuna's part of a study: which settings come next, and whether a trial is worth going on with.

Both are functions of what the store knows. The study that Optuna sees is built anew, in memory, for each question: four
milliseconds, and no state that a killed driver could leave behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.plan.stages import Study
from orchestrator.plan.studies import Trial, trial_stage
from search_spaces.spaces import SPACES, Base
from trainables.analyses import analyse
from trainables.context import Context, Result

optuna.logging.set_verbosity(optuna.logging.ERROR)
LEAST_FOR_IMPORTANCE = 4
DRAWS = 10  # how often another proposal is asked for where the last is a trial that exists


@dataclass(frozen=True)
class Proposal:
    """Settings to try: Optuna's parameters with their distributions (JSON), and what they change in the pretext."""

    params: dict[str, Any]
    distributions: dict[str, str]
    changes: dict[str, Any]


def propose(study: Study, trials: Sequence[Trial]) -> Proposal:
    """The next trial's settings, by TPE [Bergstra et al. 2011] after `tune.startup` random ones.

    Trials in work count with the worst value so far (constant liar), so that parallel ones spread out.
    """
    taken = {trial.key for trial in trials}
    base = Base(
        {**study.spec["pretext"], "pretrain": study.spec["pretrain"]},
        study.steps,
        comparable=study.objective["kind"] == "downstream",
    )
    for draw in range(DRAWS):
        sampler = optuna.samplers.TPESampler(
            seed=_seed(study, len(trials), draw), n_startup_trials=study.tune["startup"], constant_liar=True
        )
        asked = optuna.create_study(direction=study.objective["direction"], sampler=sampler)
        asked.add_trials([frozen(trial) for trial in trials])
        trial = asked.ask()
        changes = SPACES[study.tune["space"]](trial, base)
        if trial_stage(study, changes).key not in taken:
            break
    told = {name: distribution_to_json(d) for name, d in trial.distributions.items()}
    return Proposal(dict(trial.params), told, changes)


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


def give_up(
    spec: Mapping[str, Any], pruning: Mapping[str, Any], own: int, values: Mapping[int, Mapping[int, float]]
) -> bool:
    """Whether the trial `own` is to stop at the last rung that it has a value of.

    Args:
        spec: of the trial's stage.
        pruning: the study's `tune.pruning`.
        values: trial number -> step -> objective, of all trials that have reached a rung; numbers from 0.
    """
    rungs = {step: number for number, step in enumerate(spec["rungs"])}
    rule = _RULES[pruning["rule"]](int(pruning["factor"]), len(rungs))
    asked = optuna.create_study(study_name=str(spec["study"]), direction=spec["objective"]["direction"], pruner=rule)
    trials = [asked.ask() for _ in range(max(values) + 1)]  # Hyperband's brackets follow from their numbers
    decided = False
    for number in sorted(values, key=lambda n: (n == own, n)):  # our own last: it is judged by all others
        for step, value in sorted(values[number].items()):
            if step in rungs:
                trials[number].report(value, int(pruning["factor"]) ** rungs[step])
                decided = trials[number].should_prune()
        if number != own:
            asked.tell(trials[number], list(values[number].values())[-1])  # the median rule looks at complete ones
    return decided


def _asha(factor: int, rungs: int) -> BasePruner:
    """Successive halving without waiting [Li et al., arXiv:1810.05934]."""
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)


def _hyperband(factor: int, rungs: int) -> BasePruner:
    """Brackets of successive halving that differ in how early they judge [Li et al., arXiv:1603.06560]."""
    return HyperbandPruner(min_resource=1, max_resource=factor**rungs, reduction_factor=factor)


def _median(factor: int, rungs: int) -> BasePruner:
    """Below the median of the others at the same step."""
    return MedianPruner(n_startup_trials=2)


_RULES = {"asha": _asha, "hyperband": _hyperband, "median": _median}
