"""Studies as data: what a trial's stage is, which trials have ended how, who won, and the cells that wait for it.

Optuna proposes (`orchestrator.execute.studies`); here is only what follows from proposals and results in the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from orchestrator.grid.schema import Tune, check_section
from orchestrator.plan.cost import device_seconds
from orchestrator.plan.keys import canonical, meaning, stage_key
from orchestrator.plan.stages import Cell, Plan, Stage, Study
from trainables.settings import PRETEXT_SETTINGS, PretrainSettings
from trainables.settings.training import LENGTH_DIALS

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
    """What a study is: its pretext, space, lengths, objective, pruning and seed. Not how many trials it has.

    Args:
        tune: the complete `tune:` section; `resolved`: the objective with all its settings.
    """
    choice = {name: value for name, value in tune.items() if name not in _NOT_MEANT}
    choice["resolved"] = meaning({"objective": tune["resolved"]})["objective"]
    base = stage_key("pretrain", spec, parents, fingerprint)
    return hashlib.sha256(canonical(["study", base, choice]).encode()).hexdigest()[:24]


def objective_of(method: str) -> tuple[str, str]:
    """The validation metric of a pretext and its direction: what the paper tuned by [P1 §5.1]."""
    metric, better = PRETEXT_SETTINGS[method].metric
    return metric, _BETTER[better]


def lengths(tune: Tune, full: int, every: int) -> tuple[int, ...]:
    """The steps that `tune.lengths` stands for, ascending, each at a point of the curve as far as there are such.

    Args:
        full: steps of the grid's own pretraining; length 1 is just that.
        every: steps between two points of the curve.
    """
    found = set()
    for share in tune.lengths:
        steps = round(share * full)
        on_curve = round(steps / every) * every
        found.add(full if share == 1 else max(1, on_curve or steps))
    return tuple(sorted(found))


def rungs(tune: Tune, longest: int, every: int) -> tuple[int, ...]:
    """The steps at which a trial may be given up: `least` x factor^k of the longest, each at a point of the curve."""
    if tune.pruning is None:
        return ()
    found, share = set[int](), tune.pruning.least
    while share < 0.999:
        found.add(max(1, round(share * longest / every)) * every)
        share *= tune.pruning.factor
    return tuple(sorted(step for step in found if step < longest))


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
    cost = device_seconds("pretrain", spec)
    if spec["objective"]["kind"] == "downstream":
        cost += (len(spec["rungs"]) + 1) * device_seconds("finetune", spec["objective"]["finetune"])
    return cost


def family(stage: Stage) -> str:
    """What trials that differ in their length only have in common: the longer one goes on from the shorter."""
    dials = {name: value for name, value in stage.spec["pretrain"].items() if name not in LENGTH_DIALS}
    spec = {**stage.spec, "pretrain": dials, "rungs": None}
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


def unfold(plan: Plan, known: Mapping[str, Sequence[Trial]]) -> Plan:
    """The plan with its trials as stages, and with the cells below a study that is over keyed by its winner.

    Args:
        known: the trials by study key. A plan that was unfolded before may be unfolded again.
    """
    stages = {key: stage for key, stage in plan.stages.items() if stage.proposed and not stage.awaits}
    keys: dict[str, str] = {}
    for study in plan.studies.values():
        trials = known.get(study.key, ())
        real = [trial_stage(study, trial.changes) for trial in trials]
        stages |= {stage.key: stage for stage in real}
        stages |= {stage.key: stage for stage in _unproposed(study, trials)}
    for key, stage in plan.stages.items():
        if stage.awaits:
            found = settle(stage, plan.studies, known)
            keys[key] = found.key
            stages.setdefault(found.key, found)
    figures = [settle(study_figures(study), plan.studies, known) for study in plan.studies.values()]
    stages |= {stage.key: stage for stage in figures}
    cells = tuple(_rekeyed(cell, keys, stages) for cell in plan.cells)
    wanted = dict.fromkeys([*(keys.get(key, key) for key in plan.wanted), *(stage.key for stage in figures)])
    return replace(plan, stages=stages, cells=cells, wanted=tuple(wanted))


def study_figures(study: Study) -> Stage:
    """The stage that draws a study when it is over."""
    return Stage(
        key=f"{study.key}-figures",
        kind="analysis",
        spec={"analysis": {"kind": "study"}, "name": study.name, **_pick(study.objective, "metric", "direction")},
        parents={},
        fingerprint="",
        name=f"study {study.name}",
        labels=study.labels,
        cost=5.0,
        blocked=study.blocked,
        provisional=True,
        awaits={"study": study.key},
    )


def _drawn(stage: Stage, trials: Sequence[Trial]) -> Stage:
    """The stage of a study's figures with what they show."""
    shown = [
        _pick(asdict(trial), "number", "key", "state", "value", "params", "distributions", "steps_run")
        for trial in trials
    ]
    spec = {**stage.spec, "trials": shown}
    return replace(stage, key=stage_key("analysis", spec, {}, ""), spec=spec, awaits={}, provisional=False)


def _pick(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names}


def settle(stage: Stage, studies: Mapping[str, Study], known: Mapping[str, Sequence[Trial]]) -> Stage:
    """A waiting stage with the winners of those of its studies that are over as parents, and so with its own key."""
    if stage.spec.get("analysis", {}).get("kind") == "study":
        key = stage.awaits["study"]
        over = is_over(studies[key], known.get(key, ()))
        return _drawn(stage, known.get(key, ())) if over else stage
    parents, awaits, blocked = dict(stage.parents), dict(stage.awaits), stage.blocked
    for role, key in stage.awaits.items():
        study, trials = studies[key], known.get(key, ())
        if is_over(study, trials):
            best = winner(study, trials)
            if best is not None:
                parents[role] = best.key
                del awaits[role]
            else:
                blocked = blocked or _no_winner(study, trials)
    if awaits:
        return replace(stage, blocked=blocked)
    key = stage_key(stage.kind, stage.spec, parents, stage.fingerprint)
    provisional = any(studies[s].provisional for s in stage.awaits.values())
    return replace(stage, key=key, parents=parents, awaits={}, blocked=blocked, provisional=provisional)


def _no_winner(study: Study, trials: Sequence[Trial]) -> str:
    """Why the cells below a study cannot run."""
    errors = [trial.error for trial in trials if trial.error]
    cause = f": {errors[0]}" if errors else ""
    return f"none of the {len(trials)} trials of the study {study.name!r} has finished{cause}"


def _unproposed(study: Study, trials: Sequence[Trial]) -> list[Stage]:
    """Stand-ins for the trials still to be proposed."""
    if is_over(study, trials):
        return []
    return [
        Stage(
            key=f"{study.key}-{number:04d}",
            kind="trial",
            spec=study.spec,
            parents=study.parents,
            fingerprint=study.fingerprint,
            name=f"{study.name} | trial {number}",
            labels=study.labels,
            cost=study.cost,
            blocked=study.blocked,
            provisional=True,
            study=study.key,
            proposed=False,
        )
        for number in range(len(trials), study.tune["trials"])
    ]


def _rekeyed(cell: Cell, keys: Mapping[str, str], stages: Mapping[str, Stage]) -> Cell:
    key = keys.get(cell.key)
    return cell if key is None else replace(cell, key=key, blocked=stages[key].blocked)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
