"""Studies on a real store with stages that are only told to have ended: what is proposed when, and what released."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import Outcome
from orchestrator.execute.studies import Studies
from orchestrator.execute.trials import conclude_left, read_trials
from orchestrator.plan.stages import Plan, Stage, Study
from orchestrator.plan.studies import family
from orchestrator.record.store import Store, open_store
from tests.orchestrator.made_up import stage
from tests.orchestrator.studied import study


class Silent:
    """A view that shows nothing."""

    def added(self, stage: Stage) -> None: ...
    def started(self, stage: Stage) -> None: ...
    def ended(self, stage: Stage, outcome: Outcome) -> None: ...
    def preempted(self, stage: Stage, outcome: Outcome) -> None: ...


class Driver:
    """One run's graph: a study, and a cell that waits for it."""

    def __init__(self, store: Store, of: Study, *first: Stage, unfinished: dict[str, Stage] | None = None) -> None:
        self.store, self.of = store, of
        data = {"reader": "shapes", "options": {}}
        self.cell = replace(stage("cell"), spec={"data": data}, awaits={"pretrain": of.key})
        self.frontier = Frontier({s.key: s for s in first})
        self.listener = Listener(Silent())
        self.studies = Studies(store, [of], unfinished or {}, {"cell": self.cell}, self.listener)
        self.listener.feed = self.studies
        self.studies.begin(self.frontier)

    def take(self) -> Stage | None:
        self.listener.pump(self.frontier)
        pack = self.frontier.take()
        return pack[0] if pack else None

    def succeed(self, of: Stage, value: float, steps: int | None = None) -> None:
        """The stage has ended; its commit is in the store."""
        steps = of.spec["pretrain"]["steps"] if steps is None else steps
        facts = {"pruned_at": None, "objective": {str(steps): value}, "steps_run": steps}
        ended = {"outcome": "succeeded", "facts": facts, "artifacts": {}, "seconds": 1.0}
        self.store.commit({**of.record(), **ended, "metrics": {"objective": value}})
        self.tell(of)

    def tell(self, of: Stage) -> None:
        self.listener.settle(self.frontier, Outcome(of.key, "succeeded"))

    def fail(self, of: Stage, error: str, cause: Any = "stage") -> None:
        outcome = Outcome(of.key, "failed", error=error, cause=cause)
        self.store.fail({**of.record(), **outcome.record()})
        self.listener.settle(self.frontier, outcome)

    def trials(self) -> list[str]:
        return [trial.state for trial in read_trials(self.store, self.of)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs"), create=True)


def taken(driver: Driver) -> Stage:
    found = driver.take()
    assert found is not None
    return found


def test_no_more_than_asked_are_open_at_a_time_and_the_cell_follows(store: Store) -> None:
    driver = Driver(store, study(trials=5, parallel=2))
    first, second = taken(driver), taken(driver)
    assert driver.take() is None and driver.trials() == ["RUNNING"] * 2
    driver.succeed(second, 2.0)
    third = taken(driver)
    assert driver.take() is None
    driver.succeed(first, 1.0)
    driver.succeed(third, 3.0)
    for value in (4.0, 5.0):
        driver.succeed(taken(driver), value)
    cell = taken(driver)
    assert cell.parents == {"pretrain": first.key} and cell.key != "cell" and not cell.awaits
    driver.tell(cell)
    assert driver.frontier.done and driver.take() is None
    assert store.conclusions(driver.of.key)[5]["key"] == first.key


def test_trials_of_one_family_run_one_after_the_other(store: Store) -> None:
    """Lengths only: the four trials would train the same steps."""
    driver = Driver(store, study(trials=3, parallel=3, space="length", steps=(30, 60, 90)))
    ended = []
    for _ in range(3):
        at_work = taken(driver)
        assert driver.take() is None  # proposed, but held
        ended.append(at_work)
        driver.succeed(at_work, 1.0)
    assert len({family(trial) for trial in ended}) == 1 and len({trial.key for trial in ended}) == 3
    assert taken(driver).kind == "finetune"


def test_unfinished_trials_of_one_family_are_held_too(store: Store) -> None:
    of = study(trials=3, parallel=3, space="length", steps=(30, 60, 90))
    killed = Driver(store, of)
    killed.take()
    assert killed.trials() == ["RUNNING"] * 3
    from orchestrator.plan.studies import trial_stage

    left = {s.key: s for trial in read_trials(store, of) for s in [trial_stage(of, trial.changes)]}
    driver = Driver(store, of, unfinished=left)
    for _ in range(3):
        at_work = taken(driver)
        assert driver.take() is None
        driver.succeed(at_work, 1.0)
    assert len(store.proposals(of.key)) == 3 and taken(driver).kind == "finetune"


def test_a_decided_study_stays_decided_for_whoever_asks_for_no_more(store: Store) -> None:
    """Grown to six trials by another grid, of which the last one is better: the first two still have their winner."""
    small, large = study(trials=2, parallel=1), study(trials=6, parallel=1)
    driver = Driver(store, small)
    for value in (2.0, 3.0):
        driver.succeed(taken(driver), value)
    cell = taken(driver)
    grown = Driver(store, large)
    for value in (6.0, 5.0, 4.0, 1.0):
        grown.succeed(taken(grown), value)
    assert taken(grown).parents != cell.parents
    assert store.conclusions(small.key)[2]["key"] == cell.parents["pretrain"]
    assert [trial.value for trial in read_trials(store, small)] == [2.0, 3.0]
    assert len(read_trials(store, replace(small, tune={**small.tune, "trials": 3}))) == 6
    again = Driver(store, small)
    assert taken(again).key == cell.key


def test_a_study_that_another_run_left_half_done_is_decided_by_who_asks_for_less(store: Store) -> None:
    small, large = study(trials=2, parallel=1), study(trials=6, parallel=1)
    killed = Driver(store, large)
    for value in (2.0, 3.0):
        killed.succeed(taken(killed), value)
    taken(killed)  # and left open
    store.save_state(small.key, "family", 10, b"state")
    conclude_left([Plan("mine", "smoke", (), {}, studies={small.key: small})], store)
    assert store.conclusions(small.key)[2]["value"] == 2.0
    assert store.state(small.key, "family", 10) == b"state"  # the open trial may need it


@pytest.mark.parametrize("asked", [(6, 6), (4, 6)])
def test_two_drivers_take_turns_at_one_study(store: Store, asked: tuple[int, int]) -> None:
    """Each number is given once, and neither driver waits for ever for what the other has proposed."""
    drivers = [Driver(store, study(trials=trials, parallel=1)) for trials in asked]
    by_key: dict[str, int] = {}
    for turn in range(60):
        driver = drivers[turn % 2]
        found = driver.take()
        if found is None:
            continue
        if found.kind == "trial":
            by_key[found.key] = by_key.get(found.key, 0) + 1
            if found.key in store.finished():
                driver.tell(found)
            else:
                driver.succeed(found, float(len(by_key)))
        else:
            driver.tell(found)
    assert [driver.frontier.done for driver in drivers] == [True, True]
    proposals = store.proposals(drivers[0].of.key)
    assert [proposal["number"] for proposal in proposals] == list(range(max(asked)))
    assert len({proposal["key"] for proposal in proposals}) == max(asked)
    assert all(driver.frontier.succeeded for driver in drivers)


def test_a_trial_that_another_driver_has_proposed_and_finished_can_win(store: Store) -> None:
    of = study(trials=2, parallel=2)
    slow = Driver(store, of)
    other = Driver(store, of)
    first, second = taken(other), taken(other)
    other.succeed(first, 2.0)
    other.succeed(second, 1.0)
    cell = taken(slow)  # all has ended before it looked for the first time
    assert cell.kind == "finetune" and cell.parents == {"pretrain": second.key}


def test_trials_that_fail_leave_the_study_going_and_all_block_the_cell(store: Store) -> None:
    driver = Driver(store, study(trials=2, parallel=1))
    driver.fail(taken(driver), "the loss was not finite at step 3")
    driver.succeed(taken(driver), 1.0)
    assert driver.trials() == ["FAIL", "COMPLETE"] and taken(driver).kind == "finetune"

    driver = Driver(store, study(trials=2, parallel=1, key="b" * 24))
    for _ in range(2):
        driver.fail(taken(driver), "the loss was not finite at step 3")
    assert driver.take() is None and driver.frontier.done
    assert driver.frontier.blocked == {
        "cell": "none of the 2 trials of the study 'reconstruction | shapes' has finished: "
        "the loss was not finite at step 3"
    }


def test_a_fault_of_the_data_decides_nothing(store: Store) -> None:
    """The disk was unmounted for one trial: the cell is blocked, no winner is kept, and the next run goes on."""
    of = study(trials=2, parallel=1)
    driver = Driver(store, of)
    driver.succeed(taken(driver), 1.0)
    lost = taken(driver)
    driver.fail(lost, "no such folder", "data")
    assert driver.take() is None and driver.frontier.done
    assert driver.frontier.blocked == {"cell": "a trial of its study could not be run: no such folder"}
    assert store.conclusions(of.key) == {} and driver.trials() == ["COMPLETE", "RUNNING"]
    again = Driver(store, of, unfinished={lost.key: lost})
    again.succeed(taken(again), 0.5)
    assert taken(again).parents == {"pretrain": lost.key}


def test_what_failed_and_is_tried_again_is_open_until_it_has_ended(store: Store) -> None:
    of = study(trials=1)
    first = Driver(store, of)
    failed = taken(first)
    first.fail(failed, "a fault, mended since")
    again = Driver(store, of, unfinished={failed.key: failed})
    assert not again.frontier.done
    again.succeed(taken(again), 1.0)
    assert taken(again).parents == {"pretrain": failed.key}


def test_where_the_data_of_all_trials_cannot_be_prepared_the_cell_is_blocked(store: Store) -> None:
    prepare = stage("prepare", kind="prepare")
    driver = Driver(store, study(trials=4, parents={"data": "prepare"}), prepare)
    assert taken(driver).key == "prepare"
    assert driver.take() is None and driver.trials() == []  # nothing is proposed before it has ended
    driver.fail(prepare, "too few patches")
    assert driver.take() is None and driver.frontier.done
    assert driver.frontier.blocked == {"cell": "its parent 'stage prepare' failed: too few patches"}
    assert driver.frontier.roots == {"cell": "prepare"}


def test_a_budget_ends_it_early(store: Store) -> None:
    driver = Driver(store, study(trials=9, parallel=1, budget=2))
    for value in (2.0, 1.0):
        driver.succeed(taken(driver), value)
    assert taken(driver).kind == "finetune" and driver.trials() == ["COMPLETE"] * 2


def test_a_space_that_was_changed_stops_the_run_with_advice(store: Store) -> None:
    of = study(trials=4, parallel=1, startup=1, method="classification", space="classification")
    driver = Driver(store, of)
    driver.succeed(taken(driver), 1.0)
    path = next((Path(str(store.folder)) / "studies" / driver.of.key / "trials").iterdir())
    path.write_text(path.read_text().replace("0.001", "0.002"))
    driver = Driver(store, of)
    assert driver.take() is None
    assert "give the changed space a new name" in str(driver.frontier.stopped)
