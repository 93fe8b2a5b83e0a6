"""Studies as data: keys, trials as the store knows them, who won, when it is over, and plans unfolded with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.build import plan_record, restore_plan
from orchestrator.plan.diff import diff
from orchestrator.plan.stages import Plan, Study
from orchestrator.plan.studies import Trial, family, is_over, may_propose, study_key, trial_stage, trials_of, winner
from orchestrator.plan.unfold import unfold
from tests.orchestrator.made_up import planned, write_grid
from tests.orchestrator.studied import keyed, study, through_json, trial
from trainables.settings import PRETEXT_SETTINGS
from trainables.versions import VERSIONS

GRID = """\
grid: tuned
title: Tuned
profile: smoke
rows:
  - {scenario: random-init, model: Random}
  - {scenario: seg-enc, model: Reconstruction, pretext: reconstruction}
  - {scenario: cls-enc, model: SimCLR, pretext: simclr}
columns:
  - {dataset: shapes, pretext_data: shapes, fractions: [0.05, 0.2]}
seeds: [0, 1]
pretexts:
  reconstruction:
    tune: {space: learning-rate, trials: 3, pruning: {rule: asha}}
"""


# Who won, and when it is over


@pytest.mark.parametrize(("direction", "best"), [("minimize", 1), ("maximize", 2)])
def test_the_best_complete_trial_wins(direction: str, best: int) -> None:
    trials = [trial(0, value=2.0), trial(1, value=1.0), trial(2, value=3.0), trial(3, "PRUNED", 0.0)]
    trials += [trial(4, "FAIL"), trial(5, "RUNNING")]
    found = winner(study(direction=direction), trials)
    assert found is not None and found.number == best


def test_of_equal_trials_the_first_wins_whatever_the_order() -> None:
    trials = [trial(2, value=1.0), trial(0, value=2.0), trial(1, value=1.0)]
    for direction, expected in (("minimize", 1), ("maximize", 0)):
        found = winner(study(direction=direction), trials)
        assert found is not None and found.number == expected


@pytest.mark.parametrize("trials", [[], [trial(0, "PRUNED", 1.0)], [trial(0, "FAIL"), trial(1, "RUNNING")]])
def test_without_a_complete_trial_there_is_no_winner(trials: list[Trial]) -> None:
    assert winner(study(), trials) is None


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED", "FAIL"])
def test_it_is_over_when_as_many_trials_as_asked_have_ended(state: str) -> None:
    of, trials = study(trials=2), [trial(0, state, 1.0), trial(1, "RUNNING")]
    assert not is_over(of, trials[:1]) and not is_over(of, trials)
    assert is_over(of, [trials[0], trial(1, state, 1.0)])
    assert is_over(of, [trials[0], trials[1], trial(2, state, 1.0)])  # a larger grid has proposed more
    assert not is_over(study(trials=3), [trials[0], trial(1, state, 1.0)])
    assert may_propose(of, trials[:1]) and not may_propose(of, trials)


def test_a_budget_ends_a_study() -> None:
    """In lengths of the longest trial, here 90 steps."""
    of = study(trials=10, budget=2)
    trained = [trial(n, value=1.0, steps_run=60) for n in range(4)]
    assert may_propose(of, trained[:2]) and may_propose(of, [*trained[:2], trial(2, value=1.0, steps_run=59)])
    assert not may_propose(of, trained[:3])
    assert is_over(of, trained[:3])
    assert not is_over(of, [*trained[:3], trial(3, "RUNNING")])
    assert not is_over(replace(of, tune={**of.tune, "budget": 3}), trained[:3])


# Trials as the store knows them


def proposal(number: int, key: str = "") -> dict[str, Any]:
    about = {"params": {}, "distributions": {}, "changes": {}, "study": "a study", "name": "x"}
    return {"number": number, "key": key or f"{number:024x}", **about}


def commit(value: float, steps: int = 90, pruned: int | None = None) -> dict[str, Any]:
    facts = {"pruned_at": pruned, "objective": {str(steps): value}, "steps_run": steps}
    return {"metrics": {"objective": value}, "facts": facts}


def failure(cause: str, outcome: str = "failed") -> dict[str, Any]:
    return {"outcome": outcome, "cause": cause, "error": "a fault"}


def test_how_trials_ended_is_read_from_commits_and_failures() -> None:
    proposals = [proposal(number) for number in (3, 1, 0, 2, 4, 5)]
    key = [proposal["key"] for proposal in sorted(proposals, key=lambda p: int(p["number"]))]
    commits = {key[0]: commit(1.5), key[1]: commit(2.5, 10, pruned=10), key[4]: commit(3.5)}
    failures = {key[2]: failure("stage"), key[4]: failure("stage"), key[5]: failure("data")}
    found = trials_of(proposals, commits, failures)
    assert [t.number for t in found] == [0, 1, 2, 3, 4, 5]
    assert [t.state for t in found] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "COMPLETE", "RUNNING"]
    assert [t.value for t in found] == [1.5, 2.5, None, None, 3.5, None]
    assert found[1].values == {10: 2.5} and found[2].error == "a fault"


@pytest.mark.parametrize(
    ("cause", "outcome", "state"),
    [
        ("stage", "failed", "FAIL"), ("memory", "failed", "FAIL"), ("worker", "failed", "FAIL"),
        ("data", "failed", "RUNNING"), ("store", "failed", "RUNNING"), ("stage", "blocked", "RUNNING"),
    ],
)  # fmt: skip
def test_a_fault_of_data_or_store_is_no_result(cause: str, outcome: str, state: str) -> None:
    assert trials_of([proposal(0)], {}, {proposal(0)["key"]: failure(cause, outcome)})[0].state == state


def test_a_trial_proposed_twice_has_trained_its_steps_once() -> None:
    found = trials_of([proposal(0, "a"), proposal(1, "a")], {"a": commit(1.0)}, {})
    assert [(t.state, t.value, t.steps_run) for t in found] == [("COMPLETE", 1.0, 90), ("COMPLETE", 1.0, 0)]


# Stages and keys


def test_a_trials_stage_is_the_pretrain_with_its_changes() -> None:
    of = study(steps=(30, 90), rungs=(10, 40))
    stage = trial_stage(of, {"pretrain.learning_rate": 0.01, "pretrain.steps": 30, "tasks": ["color"]})
    assert stage.spec["pretrain"] == {**of.spec["pretrain"], "learning_rate": 0.01, "steps": 30}
    assert stage.spec["pretext"] == {**of.spec["pretext"], "tasks": ["color"]}
    assert stage.spec["rungs"] == [10] and stage.hints["keep_at"] == [30]
    assert stage.study == of.key and stage.kind == "trial"
    longer = trial_stage(of, {"pretrain.learning_rate": 0.01, "pretrain.steps": 90, "tasks": ["color"]})
    assert family(longer) == family(stage) and longer.key != stage.key
    other = trial_stage(of, {"pretrain.learning_rate": 0.02, "pretrain.steps": 90, "tasks": ["color"]})
    assert family(other) != family(longer)


def test_a_single_length_is_trained_though_no_space_chooses_it() -> None:
    assert trial_stage(study(steps=(40,)), {"pretrain.learning_rate": 0.01}).spec["pretrain"]["steps"] == 40


def grid(folder: Path, **tune: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"space": "learning-rate", "trials": "3", "pruning": "{rule: asha}"} | tune
    section = ", ".join(f"{name}: {value}" for name, value in asked.items())
    old = GRID[GRID.index("    tune:") :]
    return write_grid(folder, GRID.replace(old, f"    tune: {{{section}}}\n"))


def study_of(folder: Path, *, sets: tuple[str, ...] = (), **tune: str) -> Study:
    return next(iter(planned(grid(folder, **tune), overrides=sets).studies.values()))


@pytest.mark.parametrize("grown", [{"trials": "9"}, {"budget": "2"}, {"parallel": "4"}])
def test_a_grown_study_keeps_its_key_and_its_trials(tmp_path: Path, grown: dict[str, str]) -> None:
    before, after = study_of(tmp_path / "a"), study_of(tmp_path / "b", **grown)
    assert before.key == after.key
    changes = {"pretrain.learning_rate": 0.01}
    assert trial_stage(before, changes).key == trial_stage(after, changes).key


@pytest.mark.parametrize(
    ("tune", "sets"),
    [
        ({"space": "reconstruction"}, ()), ({"seed": "1"}, ()), ({"pruning": "{rule: median}"}, ()),
        ({"pruning": "null"}, ()), ({"lengths": "[0.5, 1]"}, ()), ({"startup": "2"}, ()),
        ({}, ("pretrain.steps=200",)), ({}, ("pretrain.batch=4",)), ({}, ("pretrain_seed=1",)),
        ({}, ("network.width=16",)),
    ],
)  # fmt: skip
def test_another_space_seed_rule_or_setting_is_another_study(
    tmp_path: Path, tune: dict[str, str], sets: tuple[str, ...]
) -> None:
    before, after = study_of(tmp_path / "a"), study_of(tmp_path / "b", sets=sets, **tune)
    assert before.key != after.key
    changes = {"pretrain.learning_rate": 0.01}
    assert trial_stage(before, changes).key != trial_stage(after, changes).key


def test_code_that_trains_or_judges_trials_otherwise_makes_another_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study_of(tmp_path)

    def key(kind: str) -> str:
        return study_key(made.spec, {}, made.fingerprint, {**made.tune, "resolved": {**made.objective, "kind": kind}})

    validation, downstream = key("validation"), key("downstream")
    assert validation == made.key
    with monkeypatch.context() as patched:
        patched.setitem(VERSIONS, "finetune", VERSIONS["finetune"] + 1)
        assert key("validation") == validation and key("downstream") != downstream
    monkeypatch.setitem(VERSIONS, "trial", VERSIONS["trial"] + 1)
    assert key("validation") != validation and key("downstream") != downstream


def test_lengths_are_a_set(tmp_path: Path) -> None:
    one, other = (study_of(tmp_path, lengths=lengths) for lengths in ("[1, 0.5]", "[0.5, 1]"))
    assert (one.key, one.steps) == (other.key, other.steps)


def test_the_objective_is_the_pretexts_own_metric(tmp_path: Path) -> None:
    for method, cls in PRETEXT_SETTINGS.items():
        metric, better = cls.metric
        sets = (f"pretexts.reconstruction.method={method}",)
        if method in ("byol-color", "classification", "models-genesis"):
            continue  # they need other data than this grid has; the rule is the same
        found = study_of(tmp_path / method, sets=sets).objective
        direction = {"min": "minimize", "max": "maximize"}[better]
        assert found == {"kind": "validation", "metric": metric, "direction": direction}


# Plans unfolded


def known_of(plan: Plan, trials: list[Trial]) -> dict[str, list[Trial]]:
    return {study.key: keyed(study, trials) for study in plan.studies.values()}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return planned(grid(tmp_path))


def kinds(plan: Plan) -> dict[str, int]:
    found: dict[str, int] = {}
    for stage in plan.stages.values():
        found[stage.kind] = found.get(stage.kind, 0) + 1
    return found


def test_before_it_begins_trials_are_stand_ins_and_cells_wait(plan: Plan) -> None:
    unfolded = unfold(plan, {})
    assert kinds(unfolded) == {"finetune": 12, "pretrain": 1, "trial": 3, "analysis": 1}
    found = diff([unfolded], ())
    assert len(found.keys("deferred")) == 5  # four cells and the figures
    assert {found.stages[key].kind for key in found.to_run} == {"pretrain", "finetune"}
    assert len(found.planned) == len(unfolded.stages)


def test_in_the_middle_those_that_ended_stay_and_one_is_still_to_come(plan: Plan) -> None:
    known = known_of(plan, [trial(0, value=1.0), trial(1, "RUNNING")])
    unfolded = unfold(plan, known)
    keys = {t.key for trials in known.values() for t in trials}
    assert keys < unfolded.stages.keys() and kinds(unfolded)["trial"] == 3
    assert sum(not stage.proposed for stage in unfolded.stages.values()) == 1
    assert all(cell.key not in unfolded.stages or unfolded.stages[cell.key] for cell in unfolded.cells)


def test_when_it_is_over_cells_are_keyed_by_the_winner(plan: Plan) -> None:
    trials = [trial(0, value=2.0), trial(1, value=1.0), trial(2, "PRUNED", 3.0)]
    known = known_of(plan, trials)
    unfolded = unfold(plan, known)
    best = next(iter(known.values()))[1].key
    below = [unfolded.stages[cell.key] for cell in unfolded.cells if cell.pretext == "reconstruction"]
    assert len(below) == 4 and all(stage.parents == {"pretrain": best} and not stage.awaits for stage in below)
    assert all(cell.key in unfolded.stages for cell in unfolded.cells)
    finished = {t.key for t in next(iter(known.values()))}
    assert diff([unfolded], finished).keys("deferred") == []
    # Only where the winner changes do the keys of cells.
    worse = unfold(plan, known_of(plan, [*trials, trial(3, value=5.0)]))
    assert [cell.key for cell in worse.cells] == [cell.key for cell in unfolded.cells]
    better = unfold(plan, known_of(plan, [*trials, trial(3, value=0.5)]))
    pairs = zip(better.cells, unfolded.cells, strict=True)
    assert [a.key != b.key for a, b in pairs] == [cell.pretext == "reconstruction" for cell in unfolded.cells]


def test_all_failed_blocks_just_the_cells_below(plan: Plan) -> None:
    trials = [trial(n, "FAIL", error="the loss was not finite at step 3") for n in range(3)]
    found = diff([unfold(plan, known_of(plan, trials))], ())
    cells = {cell.key: cell for cell in found.plans[0].cells}
    blocked = {key for key in found.keys("blocked") if key in cells}
    assert {cells[key].pretext for key in blocked} == {"reconstruction"} and len(blocked) == 4
    reasons = {found.reasons[key] for key in blocked}
    assert reasons == {
        "none of the 3 trials of the study 'reconstruction | shapes' has finished: the loss was not finite at step 3"
    }


@pytest.mark.parametrize(
    "trials",
    [
        [], [trial(0, value=1.0)],
        [trial(0, value=2.0), trial(1, value=1.0), trial(2, "PRUNED", 3.0)],
        [trial(n, "FAIL", error="a fault") for n in range(3)],
    ],
)  # fmt: skip
def test_a_stored_plan_is_unfolded_to_what_it_would_be_now(tmp_path: Path, plan: Plan, trials: list[Trial]) -> None:
    """A plan that was stored when its study began, read when it is further."""
    from orchestrator.grid.load import load_request

    request = load_request(grid(tmp_path))
    begun = unfold(plan, known_of(plan, trials[:1]))
    record = plan_record(request, begun, plan_id="one", command="", data_root=Path("data"))
    restored = restore_plan(through_json(record))
    known = known_of(plan, trials)
    now, fresh = unfold(restored, known), unfold(plan, known)
    assert now.stages.keys() == fresh.stages.keys()
    assert [cell.key for cell in now.cells] == [cell.key for cell in fresh.cells]
    assert set(now.wanted) == set(fresh.wanted)
    assert unfold(now, known).stages.keys() == now.stages.keys()
