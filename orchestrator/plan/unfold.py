"""Plans by what is known of their studies: trials as stages, and the cells below a study keyed by its winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from orchestrator.plan.keys import awaited, stage_key
from orchestrator.plan.stages import Cell, Plan, Stage, Study
from orchestrator.plan.studies import Trial, ended, is_over, trial_stage, winner


def unfold(plan: Plan, known: Mapping[str, Sequence[Trial]]) -> Plan:
    """The plan with its trials as stages, and with the cells below a study that is over keyed by its winner.

    Args:
        known: the trials by study key. A plan that was unfolded before may be unfolded again.
    """
    late = waiting(plan.stages)
    stages = {key: stage for key, stage in plan.stages.items() if stage.proposed and key not in late}
    keys: dict[str, str] = {}
    for study in plan.studies.values():
        trials = known.get(study.key, ())
        real = [trial_stage(study, trial.changes) for trial in trials]
        stages |= {stage.key: stage for stage in real}
        stages |= {stage.key: stage for stage in _unproposed(study, trials)}
    for key, stage in late.items():
        found = settle(_below(moved(stage, keys), stages), plan.studies, known)
        keys[key] = found.key
        stages.setdefault(found.key, found)
    figures = [settle(study_figures(study), plan.studies, known) for study in plan.studies.values()]
    stages |= {stage.key: stage for stage in figures}
    cells = tuple(_rekeyed(cell, keys, stages) for cell in plan.cells)
    wanted = dict.fromkeys([*(keys.get(key, key) for key in plan.wanted), *(stage.key for stage in figures)])
    return replace(plan, stages=stages, cells=cells, wanted=tuple(wanted))


def waiting(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages that wait for a study, and those that need one of them; parents before children, as they came."""
    found: dict[str, Stage] = {}
    for key, stage in stages.items():
        if stage.awaits or any(parent in found for parent in stage.parents.values()):
            found[key] = stage
    return found


def moved(stage: Stage, keys: Mapping[str, str]) -> Stage:
    """A stage some of whose parents have other keys now, and so has it."""
    parents = {role: keys.get(parent, parent) for role, parent in stage.parents.items()}
    if parents == stage.parents:
        return stage
    key = stage_key(stage.kind, stage.spec, {**parents, **awaited(stage.awaits)}, stage.fingerprint)
    return replace(stage, key=key, parents=parents)


def _below(stage: Stage, stages: Mapping[str, Stage]) -> Stage:
    """A stage by what is known of its parents."""
    parents = [stages[key] for key in stage.parents.values() if key in stages]
    blocked = stage.blocked or next((parent.blocked for parent in parents if parent.blocked), None)
    if stage.awaits:
        return replace(stage, blocked=blocked)
    return replace(stage, blocked=blocked, provisional=any(parent.provisional for parent in parents))


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
        trials = known.get(stage.awaits["study"], ())
        over = is_over(studies[stage.awaits["study"]], trials)
        return _drawn(stage, ended(trials)) if over else stage
    if not stage.awaits:
        return stage
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
