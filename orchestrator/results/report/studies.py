"""The trials of each study of a plan: what was tried, how it ended, and who leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.plan.studies import Trial, trials_of
from orchestrator.record.store import Store
from orchestrator.results.report.curves import Panel, draw, mean_line

STATES = {
    "COMPLETE": "finished",
    "PRUNED": "given up",
    "FAIL": "failed",
    "RUNNING": "not finished",
    "WAITING": "waiting",
}


@dataclass(frozen=True)
class TrialLine:
    """One trial for a table."""

    number: int
    settings: tuple[str, ...]
    state: str
    value: str
    best: bool


@dataclass(frozen=True)
class StudyPart:
    """A study: its name, objective, the names of its settings, its trials, and the best value by trial as a drawing."""

    name: str
    objective: str
    settings: tuple[str, ...]
    trials: tuple[TrialLine, ...]
    panel: Panel | None
    asked: int


def studies(store: Store, plan: Mapping[str, Any]) -> list[StudyPart]:
    """How every study of a plan stands."""
    return [_part(store, key, study) for key, study in (plan.get("studies") or {}).items()]


def _part(store: Store, key: str, study: Mapping[str, Any]) -> StudyPart:
    proposals = store.proposals(key)
    keys = [proposal["key"] for proposal in proposals]
    trials = trials_of(proposals, store.commits(keys), store.failures(keys))
    names = tuple(dict.fromkeys(name for trial in trials for name in trial.params))
    direction = study["objective"].get("direction", "maximize")
    best = _best(trials, direction)
    lines = tuple(
        TrialLine(
            trial.number,
            tuple(_setting(trial.params.get(name)) for name in names),
            STATES.get(trial.state, trial.state),
            "" if trial.value is None else f"{trial.value:.4g}",
            best is not None and trial.number == best.number,
        )
        for trial in trials
    )
    objective = f"{study['objective'].get('metric', '?')}, {direction}"
    return StudyPart(study["name"], objective, names, lines, _panel(study, trials, direction), study["tune"]["trials"])


def _best(trials: list[Trial], direction: str) -> Trial | None:
    done = [trial for trial in trials if trial.state == "COMPLETE" and trial.value is not None]
    choose = max if direction == "maximize" else min
    return choose(done, key=lambda trial: trial.value or 0.0) if done else None


def _panel(study: Mapping[str, Any], trials: list[Trial], direction: str) -> Panel | None:
    """The objective of each finished trial, and the best one so far."""
    done = [(trial.number, trial.value) for trial in trials if trial.state == "COMPLETE" and trial.value is not None]
    if len(done) < 2:
        return None
    better = max if direction == "maximize" else min
    leading: dict[float, float] = {}
    for number, value in done:
        leading[float(number)] = better([value, *leading.values()])
    lines = [mean_line("trial", 0, [{float(n): v for n, v in done}]), mean_line("best so far", 1, [leading])]
    return draw(study["name"], str(study["objective"].get("metric", "objective")), lines, "trial")


def _setting(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
