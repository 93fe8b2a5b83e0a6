"""Studies in an Optuna storage: whatever the storage, it ends in the state of the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.execute.study_mirror import StudyMirror, mirror
from orchestrator.plan.studies import Trial
from tests.orchestrator.studied import study, trial


@pytest.fixture(params=["journal", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "räy runs"
    folder.mkdir()
    return str(folder / "optuna.log") if request.param == "journal" else f"sqlite:///{folder}/optuna.db"


def opened(place: str) -> BaseStorage:
    return RDBStorage(place) if "://" in place else JournalStorage(JournalFileBackend(place))


def seen(place: str) -> list[optuna.trial.FrozenTrial]:
    storage = opened(place)
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def states(place: str) -> list[str]:
    return [trial.state.name for trial in seen(place)]


RUNNING = [trial(0, "RUNNING"), trial(1, "RUNNING"), trial(2, "RUNNING")]
ENDED = [
    trial(0, value=1.5, values={10: 2.0, 90: 1.5}, steps_run=90),
    trial(1, "PRUNED", 2.5, values={10: 2.5}, steps_run=10),
    trial(2, "FAIL", error="the loss was not finite"),
]


def agree(found: list[optuna.trial.FrozenTrial], trials: list[Trial]) -> None:
    assert [(t.number, t.state.name, t.params, t.value) for t in found] == [
        (t.number, t.state, t.params, t.value) for t in trials
    ]
    assert [t.intermediate_values for t in found] == [dict(t.values) for t in trials]
    assert [t.user_attrs["key"] for t in found] == [t.key for t in trials]
    assert [t.user_attrs.get("error") for t in found] == [t.error for t in trials]


def test_trials_begin_end_and_grow(place: str) -> None:
    mirror(place, study(), RUNNING)
    assert states(place) == ["RUNNING"] * 3
    mirror(place, study(), ENDED[:1] + RUNNING[1:])
    assert states(place) == ["COMPLETE", "RUNNING", "RUNNING"]
    mirror(place, study(), ENDED)
    agree(seen(place), ENDED)
    mirror(place, study(), [*ENDED, trial(3, value=0.5, values={90: 0.5})])
    agree(seen(place), [*ENDED, trial(3, value=0.5, values={90: 0.5})])


def test_told_at_once_or_bit_by_bit_is_the_same(place: str, tmp_path: Path) -> None:
    mirror(place, study(), RUNNING)
    mirror(place, study(), ENDED)
    other = str(tmp_path / "other.log")
    mirror(other, study(), ENDED)
    agree(seen(other), ENDED)
    agree(seen(place), ENDED)


def test_what_nobody_runs_waits_and_is_taken_up_again(place: str) -> None:
    mirror(place, study(), ENDED[:1] + RUNNING[1:])
    mirror(place, study(), ENDED[:1] + RUNNING[1:], at_work=False)
    assert states(place) == ["COMPLETE", "WAITING", "WAITING"]
    mirror(place, study(), ENDED[:1] + RUNNING[1:])
    assert states(place) == ["COMPLETE", "RUNNING", "RUNNING"]
    mirror(place, study(), ENDED, at_work=False)
    agree(seen(place), ENDED)


def test_a_run_that_has_not_heard_of_an_end_does_not_undo_it(place: str) -> None:
    """Two runs share a study; one of them tells late how it stood, and stops working at it."""
    mirror(place, study(), ENDED)
    there = seen(place)
    mirror(place, study(), [RUNNING[0], RUNNING[1], ENDED[2]])
    mirror(place, study(), RUNNING, at_work=False)
    assert seen(place) == there


def test_what_contradicts_the_store_is_written_anew(place: str) -> None:
    """A failed trial that is run again, a trial that was given another number, a study that somebody has spoilt."""
    mirror(place, study(), ENDED)
    retried = [*ENDED[:2], trial(2, value=0.5, values={90: 0.5})]
    mirror(place, study(), [*ENDED[:2], trial(2, "RUNNING")])
    assert states(place) == ["COMPLETE", "PRUNED", "RUNNING"]
    mirror(place, study(), retried)
    agree(seen(place), retried)
    swapped = [replace(retried[0], key="f" * 24, params={"learning_rate": 5e-3}), *retried[1:]]
    mirror(place, study(), swapped)
    agree(seen(place), swapped)


def test_two_studies_in_one_place(place: str) -> None:
    mirror(place, study(), ENDED)
    mirror(place, study(key="b" * 24, direction="maximize"), RUNNING[:1])
    storage = opened(place)
    names = optuna.get_all_study_names(storage)
    assert sorted(names) == [f"reconstruction | shapes [{letter * 8}]" for letter in "ab"]
    assert [len(optuna.load_study(study_name=n, storage=storage).trials) for n in sorted(names)] == [3, 1]


def test_a_journal_whose_last_line_was_cut_off_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "optuna.log"
    mirror(str(path), study(), ENDED[:1] + RUNNING[1:])
    path.write_bytes(path.read_bytes()[:-20])
    mirror(str(path), study(), ENDED)
    agree(seen(str(path)), ENDED)
    assert (tmp_path / "optuna.damaged").exists()


def test_the_thread_writes_the_latest_and_leaves_nothing_running(place: str) -> None:
    told: list[str] = []
    thread = StudyMirror(place, told.append)
    thread.start()
    for trials in (RUNNING[:1], RUNNING, ENDED[:1] + RUNNING[1:]):
        thread.put(study(), trials)
    thread.finish()
    assert states(place) == ["COMPLETE", "WAITING", "WAITING"] and told == []


def test_a_storage_that_takes_nothing_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "file").write_text("")
    thread = StudyMirror(str(tmp_path / "file" / "optuna.log"), told.append)
    thread.start()
    for _ in range(3):
        thread.put(study(), RUNNING)
    thread.finish()
    assert len(told) == 1 and told[0].endswith("the store holds them all")
