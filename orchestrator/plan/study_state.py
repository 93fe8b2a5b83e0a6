"""How a study stands, for `status`: as data and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.plan.stages import Stage, Study
from orchestrator.plan.studies import Trial, ended, is_over, winner

Trials = Mapping[str, Sequence[Trial]]


def study_state(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """Counts of trials by state, the best so far with its parameters, and the winner's key where the study is over."""
    counts = Counter(trial.state for trial in trials)
    best = winner(study, trials)
    return {
        "key": study.key,
        "name": study.name,
        "asked": study.tune["trials"],
        "ended": len(ended(trials)),
        "complete": counts["COMPLETE"],
        "pruned": counts["PRUNED"],
        "failed": counts["FAIL"],
        "running": counts["RUNNING"],
        "steps_run": sum(trial.steps_run for trial in trials),
        "metric": study.objective["metric"],
        "direction": study.objective["direction"],
        "best": None if best is None else {"number": best.number, "value": best.value, "params": dict(best.params)},
        "winner": best.key if best is not None and is_over(study, trials) else None,
        "errors": sorted({trial.error for trial in trials if trial.error}),
    }


def study_line(state: Mapping[str, Any]) -> str:
    """`study simclr | voc: 8 of 16 trials ended (5 complete, 3 pruned); best val loss 5.1 by trial 3: ...`."""
    counts = ", ".join(f"{state[name]} {name}" for name in ("complete", "pruned", "failed") if state[name])
    text = f"study {state['name']}: {state['ended']} of {state['asked']} trials ended" + (counts and f" ({counts})")
    if state["running"]:
        text += f", {state['running']} running"
    if state["best"] is not None:
        value, metric = state["best"]["value"], state["metric"].replace("_", " ")
        text += f"; best {metric} {value:.4g} by trial {state['best']['number']}: {_told(state['best']['params'])}"
    if state["winner"] is not None:
        text += f"; winner {state['winner']}"
    return text


def part_in_studies(stage: Stage, studies: Mapping[str, Study], known: Trials) -> list[str]:
    """What a stage has to do with studies: the trial that it is, or builds on, or waits for."""
    lines = []
    for key, study in studies.items():
        for trial in known.get(key, ()):
            role = next((role for role, parent in stage.parents.items() if parent == trial.key), None)
            if trial.key == stage.key or role is not None:
                head = f"{role} is the winner, " if role is not None else ""
                value = "" if trial.value is None else f" {trial.value:.6g}"
                how = f"{trial.state.lower()}{value}" + (f" ({trial.error})" if trial.error else "")
                lines.append(
                    f"{head}trial {trial.number} of the study {study.name} ({key}): {how}; {_told(trial.params)}"
                )
    for role, key in stage.awaits.items():
        if key in studies:
            done, asked = len(ended(known.get(key, ()))), studies[key].tune["trials"]
            lines.append(f"{role} waits for the study {studies[key].name} ({key}): {done} of {asked} trials have ended")
    return lines


def _told(params: Mapping[str, Any]) -> str:
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items())
    return ", ".join(shown) or "the grid's own settings"
