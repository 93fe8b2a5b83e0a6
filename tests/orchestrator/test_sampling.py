"""What Optuna is asked: the next settings, and whether a trial goes on. Both from what the store knows alone."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner

from orchestrator.execute.sampling import Rule, SpaceError, analyse_study, frozen, give_up, importance, propose
from orchestrator.plan.stages import Study
from orchestrator.plan.studies import Trial, trial_stage, trials_of
from search_spaces.spaces import SPACES, Base, first_changes
from tests.orchestrator.studied import RATE, choice, keyed, study, trial
from trainables.context import Context
from trainables.settings import PRETEXT_SETTINGS, PretrainSettings

RUNGS = (10, 30)


def rule(name: str, rungs: tuple[int, ...] = RUNGS, direction: str = "minimize", factor: int = 3) -> Rule:
    return Rule("a study", direction, {"rule": name, "factor": factor, "least": 1 / 9}, rungs)


# Proposals


def grown(of: Study, count: int) -> list[Trial]:
    """A study whose trials are proposed and end one after the other; a rate of 2e-3 would be best."""
    trials: list[Trial] = []
    for number in range(count):
        found = propose(of, trials)
        rate = found.params["learning_rate"]
        known = Trial(number, found.params, found.distributions, found.changes, trial_stage(of, found.changes).key)
        trials.append(replace(known, state="COMPLETE", value=abs(math.log(rate / 2e-3))))
    return trials


def test_the_same_state_of_the_store_gives_the_same_proposal() -> None:
    of = study()
    trials = grown(of, 6)
    assert grown(of, 6) == trials
    assert propose(of, trials) == propose(of, list(trials))
    again = [propose(of, trials[:number]).params for number in range(6)]
    assert again == [trial.params for trial in trials]


@pytest.mark.parametrize("other", [study(seed=1), study(key="b" * 24)], ids=["seed", "study"])
def test_another_seed_or_study_draws_others(other: Study) -> None:
    assert propose(other, []).params != propose(study(), []).params


def test_trials_in_work_spread_out_the_next() -> None:
    of = study(startup=1)
    done = keyed(of, [trial(0, value=1.0), trial(1, value=2.0)])
    first = propose(of, done)
    running = Trial(2, first.params, first.distributions, first.changes, trial_stage(of, first.changes).key)
    assert propose(of, [*done, running]).params != first.params


def test_it_learns() -> None:
    """Of forty trials those after the first ten lie nearer to the best rate than ones all drawn at random."""
    learnt, random_ones = (grown(study(startup=startup, trials=40), 40)[10:] for startup in (10, 40))
    assert median(t.value or 0 for t in learnt) < 0.7 * median(t.value or 0 for t in random_ones)


def all_proposals(of: Study, count: int) -> list[Trial]:
    """Trials of all states, each read back from JSON, which does not keep the order of parameters."""
    trials: list[Trial] = []
    for number in range(count):
        found = propose(of, trials)
        key = trial_stage(of, found.changes).key
        states: list[Any] = ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
        value = {"COMPLETE": 1.0, "PRUNED": 2.0}.get(states[number % 4])
        values = {10: 2.0} if states[number % 4] == "PRUNED" else {}
        record = {**found.__dict__, "number": number, "key": key}
        (known,) = trials_of([json.loads(json.dumps(record, sort_keys=True))], {}, {})  # as the store gives it back
        trials.append(replace(known, state=states[number % 4], value=value, values=values))
    return trials


def test_no_settings_twice_while_there_are_others() -> None:
    """The space of classification: 3 rates x 2 decays x 3 lengths."""
    of = study(method="classification", space="classification", steps=(30, 60, 90), trials=20)
    keys = [trial.key for trial in all_proposals(of, 20)]
    assert len(set(keys[:18])) == 18
    assert set(keys[18:]) <= set(keys[:18])


def test_one_setting_only() -> None:
    assert propose(study(space="length"), []).changes == {}
    assert len({trial.key for trial in all_proposals(study(space="length", steps=(30, 60, 90)), 3)}) == 3


def test_a_space_changed_under_its_study_is_told() -> None:
    of = study(method="classification", space="classification", startup=1)
    told = {"learning_rate": choice(1.0, 2.0), "weight_decay": choice(0.0, 1e-4)}
    before = [
        Trial(n, {"learning_rate": 1.0, "weight_decay": 0.0}, told, {}, f"{n:024x}", "COMPLETE", 1.0) for n in range(3)
    ]
    with pytest.raises(SpaceError, match=r"no longer is what the 3 trials .* give the changed space a new name"):
        propose(of, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"temperature": -1.0},
            r"the space 'mine' proposes \{'temperature': -1.0\} for the study .* cannot be trained: ",
        ),
        ({"no_such_dial": 1}, "cannot be trained: no_such_dial: "),
        (KeyError("width"), r"the space 'mine' fails for the study .*: KeyError: 'width'"),
    ],
)
def test_what_a_wrong_space_does_is_told(
    changes: dict[str, Any] | Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mine(trial: Any, base: Base) -> dict[str, Any]:
        if isinstance(changes, Exception):
            raise changes
        return changes

    monkeypatch.setitem(SPACES, "mine", mine)
    with pytest.raises(SpaceError, match=message):
        propose(study(method="simclr", space="mine"), [])


def tuned(of: Study, comparable: bool) -> set[str]:
    base = {**of.spec["pretext"], "pretrain": of.spec["pretrain"]}
    return set(first_changes(SPACES[of.tune["space"]], Base(base, of.steps, comparable)))


def fits(space: str, method: str) -> bool:
    """Whether the method has all dials that the space tunes."""
    known = {f"pretrain.{dial}" for dial in PretrainSettings.__dataclass_fields__}
    of = study(method=method, space=space, steps=(30, 90))
    try:
        found = tuned(of, comparable=False) | tuned(of, comparable=True)
    except KeyError:  # the space reads a setting that the method does not have
        return False
    return found <= known | set(PRETEXT_SETTINGS[method].__dataclass_fields__)


@pytest.mark.parametrize("space", sorted(SPACES))
def test_every_space_tunes_dials_that_exist(space: str) -> None:
    methods = [method for method in PRETEXT_SETTINGS if fits(space, method)]
    assert methods
    assert space in methods or space not in PRETEXT_SETTINGS  # under a method's name it is that method's
    for method in methods:
        of = study(method=method, space=space, steps=(30, 90))
        below = {"data": {"reader": "folder", "options": {}}, "finetune": {}, "network": of.spec["network"]}
        downstream = {**of.objective, "kind": "downstream", "finetune": below}
        for comparable, asked in ((False, of), (True, replace(of, objective=downstream))):
            assert "pretrain.steps" in tuned(of, comparable)
            assert len({trial.key for trial in all_proposals(asked, 3)}) == (2 if space == "length" else 3)


def test_what_scales_the_loss_is_tuned_only_where_trials_stay_comparable() -> None:
    of = study(method="simclr")
    base = {**of.spec["pretext"], "pretrain": of.spec["pretrain"]}
    assert "temperature" not in first_changes(SPACES["simclr"], Base(base, (90,), comparable=False))
    assert "temperature" in first_changes(SPACES["simclr"], Base(base, (90,), comparable=True))


# Giving up


def halving(own: int, values: Mapping[int, Mapping[int, float]], factor: int, sign: int) -> bool:
    """Asynchronous successive halving by hand: at a rung a trial goes on if it is among the best 1/factor of all that
    have got there, at least the best one; whoever was stopped at a lower rung has not got there."""
    for rung in RUNGS:
        if rung not in values[own]:
            return False
        there = sorted(sign * found[rung] for found in values.values() if rung in found)
        best = there[max(1, len(there) // factor) - 1]
        if sign * values[own][rung] > best:
            return True
    return False


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_asha_is_successive_halving_without_waiting(direction: str, factor: int) -> None:
    sign, draw = (1 if direction == "minimize" else -1), random.Random(0)
    decisions = []
    for count in range(1, 25):
        values = {number: {10: draw.random()} for number in range(count)}
        for number in range(0, count, 2):
            values[number][30] = draw.random()
        for own in (0, count - 1):
            if 30 in values[own] and halving(own, {n: {10: v[10]} for n, v in values.items()}, factor, sign):
                continue  # it would not have got to 30
            passed = {n: v for n, v in values.items() if n == own or 30 not in v}
            others = {n: v for n, v in values.items() if n != own and 30 in v}
            # Of the others only those count at 30 that rung 10 lets on, seen from now.
            for number, found in others.items():
                let_on = not halving(number, {n: {10: v[10]} for n, v in values.items()}, factor, sign)
                passed[number] = found if let_on else {10: found[10]}
            decisions.append(halving(own, passed, factor, sign))
            assert give_up(rule("asha", direction=direction, factor=factor), own, passed) == decisions[-1]
    assert True in decisions and False in decisions


def test_the_first_at_a_rung_goes_on_and_a_worse_second_does_not() -> None:
    assert not give_up(rule("asha"), 0, {0: {10: 1.0}})
    assert give_up(rule("asha"), 1, {0: {10: 1.0}, 1: {10: 1.1}})
    assert not give_up(rule("asha"), 1, {0: {10: 1.0}, 1: {10: 0.9}})
    assert not give_up(rule("asha"), 1, {1: {10: 5.0}})  # numbers need not begin at 0
    assert give_up(rule("asha"), 5, {0: {10: 1.0}, 5: {10: 1.1}})


@pytest.mark.parametrize("name", ["hyperband", "median", "asha"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_decisions_are_those_of_optuna_run_the_ordinary_way(name: str, direction: str) -> None:
    """Thirty trials one after the other, each asked at each of four rungs."""
    rungs, factor, draw = (10, 20, 40, 80), 2, random.Random(1)
    pruners = {
        "asha": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor),
        "hyperband": HyperbandPruner(min_resource=1, max_resource=factor ** len(rungs), reduction_factor=factor),
        "median": MedianPruner(n_startup_trials=2),
    }
    ordinary = optuna.create_study(study_name="a study", direction=direction, pruner=pruners[name])
    known: dict[int, dict[int, float]] = {}
    complete: set[int] = set()
    decisions = []
    for number in range(30):
        asked, known[number], given_up = ordinary.ask(), {}, False
        for place, step in enumerate(rungs):
            value = draw.random()
            asked.report(value, factor**place)
            known[number][step] = value
            given_up = bool(asked.should_prune())
            assert give_up(rule(name, rungs, direction, factor), number, known, complete) == given_up
            decisions.append(given_up)
            if given_up:
                break
        ordinary.tell(
            asked, None if given_up else value, state=optuna.trial.TrialState[("COMPLETE", "PRUNED")[given_up]]
        )
        if not given_up:
            complete.add(number)
    assert sum(decisions) > 5 and complete


def test_a_shorter_trial_is_judged_in_the_brackets_of_the_study() -> None:
    """Hyperband's number of brackets is the study's, however few rungs a short trial has itself."""
    values = {number: {10: float(number)} for number in range(12)}
    decided = [give_up(rule("hyperband", (10, 30)), own, values) for own in values]
    assert True in decided and False in decided[1:]
    for own in values:
        brackets = HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
        asked = optuna.create_study(study_name="a study", pruner=brackets)
        trials = [asked.ask() for _ in values]
        for number in sorted(values, key=lambda number, last=own: number == last):
            trials[number].report(float(number), 1)
            expected = trials[number].should_prune()
        assert decided[own] == expected


# Optuna's view and the analysis


def test_a_trial_as_optuna_keeps_it() -> None:
    kept = frozen(trial(0, "PRUNED", 2.0, values={10: 3.0, 30: 2.0}, steps_run=30))
    assert (kept.state.name, kept.value, kept.intermediate_values) == ("PRUNED", 2.0, {10: 3.0, 30: 2.0})
    assert kept.user_attrs == {"key": f"{0:024x}", "steps": 30}
    failed = frozen(trial(1, "FAIL", error="the loss was not finite"))
    assert failed.value is None and failed.user_attrs["error"] == "the loss was not finite"
    assert frozen(trial(2, "RUNNING")).state.name == "RUNNING"


def spec_of(trials: list[Trial]) -> dict[str, Any]:
    names = ("number", "key", "state", "value", "params", "distributions", "steps_run")
    shown = [{name: getattr(trial, name) for name in names} for trial in trials]
    about = {"name": "a study", "metric": "val_loss", "direction": "minimize"}
    return {"analysis": {"kind": "study"}, **about, "trials": shown}


def test_the_parameter_that_matters_is_found() -> None:
    draw, told = random.Random(0), {"learning_rate": RATE, "weight_decay": choice(0.0, 1e-4)}
    trials = []
    for number in range(20):
        params = {"learning_rate": 10 ** draw.uniform(-4, -2), "weight_decay": draw.choice([0.0, 1e-4])}
        trials.append(trial(number, value=params["learning_rate"], params=params, distributions=told))
    found = importance(spec_of(trials))
    assert sum(found.values()) == pytest.approx(1, abs=1e-5) and found["learning_rate"] > 0.9
    assert importance(spec_of(trials)) == found  # the same each time: it is part of what an analysis gives


def test_importance_is_left_out_where_it_cannot_be_told(tmp_path: Any) -> None:
    told = {"learning_rate": RATE, "weight_decay": choice(0.0, 1e-4)}
    params = {"learning_rate": 1e-3, "weight_decay": 0.0}
    two = {"params": params, "distributions": told}
    assert importance(spec_of([trial(n, value=1.0, **two) for n in range(3)])) == {}  # too few
    assert importance(spec_of([trial(n, value=1.0 + n) for n in range(8)])) == {}  # one parameter only
    assert importance(spec_of([trial(n, value=1.0, **two) for n in range(8)])) == {}  # all are equal
    result = analyse_study(spec_of([trial(n, "FAIL") for n in range(3)]), Context(tmp_path, tmp_path))
    assert result.metrics["failed"] == 3 and "importance.png" not in result.files
