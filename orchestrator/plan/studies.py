"""Studies as data: what a trial's stage is, which trials have ended how, and who won.

Optuna proposes (`orchestrator.execute.studies`); here is only what follows from proposals and results in the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from orchestrator.grid.schema import check_section
from orchestrator.plan.cost import device_seconds
from orchestrator.plan.keys import canonical, meaning, stage_key
from orchestrator.plan.stages import Stage, Study
from trainables.settings import PRETEXT_SETTINGS, PretrainSettings, as_before
from trainables.settings.training import LENGTH_DIALS
from trainables.versions import VERSIONS

TrialState = Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"]  # the last only where Optuna is told
Record = Mapping[str, Any]
_BETTER = {"max": "maximize", "min": "minimize"}
_NOT_MEANT = ("trials", "budget", "parallel", "objective")  # the objective counts as resolved, not as it was written


@dataclass(frozen=True)
class Trial:
    """A proposed trial and how it stands. `values` are the objective by step, `value` the one it ended with."""

    number: int
    params: Mapping[str, Any]
    distributions: Mapping[str, str]
    changes: Mapping[str, Any]
    key: str
    state: TrialState = "RUNNING"
    value: float | None = None
    values: Mapping[int, float] = field(default_factory=dict)
    steps_run: int = 0
    error: str | None = None


def study_key(spec: Mapping[str, Any], parents: Mapping[str, str], fingerprint: str, tune: Mapping[str, Any]) -> str:
    """What a study is: pretext, space, lengths, objective, pruning, seed, and the code that trains and judges its
    trials. Not how many trials it has.

    Args:
        tune: the complete `tune:` section; `resolved`: the objective with all its settings.
    """
    choice = {name: value for name, value in tune.items() if name not in _NOT_MEANT}
    choice["resolved"] = meaning({"objective": tune["resolved"]})["objective"]
    judged = ["finetune"] if tune["resolved"]["kind"] == "downstream" else []
    raised = {name: VERSIONS[name] for name in ("trial", *judged) if VERSIONS[name] > 1}
    choice |= {"lengths": sorted(choice["lengths"]), **({"versions": raised} if raised else {})}
    base = stage_key("pretrain", spec, parents, fingerprint)
    return hashlib.sha256(canonical(["study", base, choice]).encode()).hexdigest()[:24]


def objective_of(method: str) -> tuple[str, str]:
    """The validation metric of a pretext and its direction: what the paper tuned by [P1 §5.1]."""
    metric, better = PRETEXT_SETTINGS[method].metric
    return metric, _BETTER[better]


def trial_stage(study: Study, changes: Mapping[str, Any]) -> Stage:
    """The stage that trains the study's pretext with some settings changed.

    Args:
        changes: a pretext's dial by its name, one of its training as `pretrain.<dial>`.
    """
    own = {name: value for name, value in changes.items() if "." not in name}
    dials = {name.removeprefix("pretrain."): value for name, value in changes.items() if "." in name}
    dials = {"steps": study.steps[-1], **dials}
    pretext = {**study.spec["pretext"], **own}
    training = check_section(PretrainSettings, {**study.spec["pretrain"], **dials})
    spec = {
        **study.spec,
        "pretext": check_section(PRETEXT_SETTINGS[pretext["method"]], pretext),
        "pretrain": training,
        "study": study.key,
        "objective": study.objective,
        "rungs": [step for step in study.rungs if step < training["steps"]],
    }
    shown = ", ".join(f"{name.removeprefix('pretrain.')} {_short(value)}" for name, value in changes.items())
    return Stage(
        key=stage_key("trial", spec, study.parents, study.fingerprint),
        kind="trial",
        spec=spec,
        parents=study.parents,
        fingerprint=study.fingerprint,
        name=f"{study.name} | {shown}",
        labels=study.labels,
        cost=trial_cost(spec),
        blocked=study.blocked,
        provisional=study.provisional,
        study=study.key,
        hints={
            "pruning": study.tune["pruning"],
            "rungs": list(study.rungs),
            "keep_at": [step for step in study.steps if step <= training["steps"]] if len(study.steps) > 1 else [],
        },
    )


def trial_cost(spec: Mapping[str, Any]) -> float:
    """Device-seconds of a trial that is not given up: training, and the objective at each rung and at the end."""
    return device_seconds("trial", spec)


def family(stage: Stage) -> str:
    """What trials that differ in their length only have in common: the longer one goes on from the shorter."""
    dials = {name: value for name, value in stage.spec["pretrain"].items() if name not in LENGTH_DIALS}
    spec = {**as_before(stage.spec), "pretrain": dials, "rungs": None}
    return hashlib.sha256(canonical([spec, stage.parents, stage.fingerprint]).encode()).hexdigest()[:24]


def trials_of(
    proposals: Iterable[Record], commits: Mapping[str, Record], failures: Mapping[str, Record]
) -> list[Trial]:
    """The trials of a study as the store knows them, by number. One proposed twice has trained its steps once."""
    found: dict[str, Trial] = {}
    trials = []
    for proposal in sorted(proposals, key=lambda proposal: int(proposal["number"])):
        key = proposal["key"]
        trial = _trial(proposal, commits.get(key), failures.get(key))
        trials.append(replace(trial, steps_run=0) if key in found else trial)
        found.setdefault(key, trial)
    return trials


def _trial(proposal: Record, commit: Record | None, failure: Record | None) -> Trial:
    # In the order in which the space asked for them, which JSON files do not keep and Optuna's samplers rely on.
    order = proposal.get("order", proposal["params"])
    params, distributions = ({name: proposal[part][name] for name in order} for part in ("params", "distributions"))
    trial = Trial(proposal["number"], params, distributions, proposal["changes"], proposal["key"])
    if commit is not None:
        facts = commit["facts"]
        return replace(
            trial,
            state="PRUNED" if facts["pruned_at"] is not None else "COMPLETE",
            value=commit["metrics"]["objective"],
            values={int(step): value for step, value in facts["objective"].items()},
            steps_run=facts["steps_run"],
        )
    if failure is not None and failure["outcome"] == "failed" and failure.get("cause") not in ("data", "store"):
        return replace(trial, state="FAIL", error=failure["error"])
    return trial


def ended(trials: Iterable[Trial]) -> list[Trial]:
    """Those that have ended, however."""
    return [trial for trial in trials if trial.state != "RUNNING"]


def winner(study: Study, trials: Iterable[Trial]) -> Trial | None:
    """The best complete trial; of equal ones the first. None where no trial is complete."""
    sign = -1 if study.maximize else 1
    complete = [trial for trial in trials if trial.state == "COMPLETE" and trial.value is not None]
    return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def is_over(study: Study, trials: Sequence[Trial]) -> bool:
    """True when as many trials as the grid asks for have ended, or the budget is used up and none is open."""
    done = len(ended(trials))
    return done >= study.tune["trials"] or (done == len(trials) and not may_propose(study, trials))


def may_propose(study: Study, trials: Sequence[Trial]) -> bool:
    """True while the grid asks for more trials and their budget is not used up."""
    budget = study.tune["budget"]
    spent = sum(trial.steps_run for trial in trials) / study.steps[-1]
    return len(trials) < study.tune["trials"] and (budget is None or spent < budget)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
