"""Studies in an Optuna storage, for optuna-dashboard and notebooks: a view like MLflow, filled from the store.

The default storage is a journal in a local store's folder; on a cluster a PostgreSQL URL serves several readers.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from orchestrator.execute.sampling import frozen
from orchestrator.plan.stages import Study
from orchestrator.plan.studies import Trial

Change = tuple[Study, list[Trial]]
LOCK_NUMBER = 7_236_431_115  # any, but ours


class StudyMirror(threading.Thread):
    """Writes trials to an Optuna storage beside the run, which never waits for it.

    Args:
        storage: a database URL, or the path of a journal.
        warn: told once if the storage takes nothing.
    """

    def __init__(self, storage: str, warn: Callable[[str], None]) -> None:
        super().__init__(name="optuna", daemon=True)
        self._storage, self._warn = storage, warn
        self._queue: queue.Queue[Change | None] = queue.Queue()
        self._last: dict[str, Change] = {}
        self._warned = False

    def put(self, study: Study, trials: Sequence[Trial]) -> None:
        """Queue how a study stands."""
        self._queue.put((study, list(trials)))

    def finish(self) -> None:
        """Write what is queued, then stop. Trials that have not ended wait from now on: nobody runs them."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        """The thread."""
        while (changes := self._newest()) is not None:
            self._last |= changes
            for study, trials in changes.values():
                self._mirror(study, trials)
        for study, trials in self._last.values():
            if any(trial.state == "RUNNING" for trial in trials):
                self._mirror(study, trials, at_work=False)

    def _mirror(self, study: Study, trials: list[Trial], *, at_work: bool = True) -> None:
        try:
            mirror(self._storage, study, trials, at_work=at_work)
        except Exception as error:  # a view must never end a run; the next change tries again
            self._tell(error)

    def _newest(self) -> dict[str, Change] | None:
        """The latest state of each study in the queue; None at the end."""
        found: dict[str, Change] = {}
        item = self._queue.get()
        while item is not None:
            found[item[0].key] = item
            if self._queue.empty():
                return found
            item = self._queue.get()
        if found:
            self._queue.put(None)
            return found
        return None

    def _tell(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._warn(f"the Optuna storage does not take the studies ({first}); the store holds them all")


def mirror(storage: str, study: Study, trials: Sequence[Trial], *, at_work: bool = True) -> None:
    """Bring a study in an Optuna storage to the state `trials`.

    What is there stays, unless it contradicts the store: then the study is written anew.

    Args:
        at_work: False: trials that have not ended are waiting (`WAITING`), since nobody runs them now.
    """
    shown = [trial if at_work else replace(trial, state="WAITING") if trial.state == "RUNNING" else trial
             for trial in trials]  # fmt: skip
    with _alone(storage) as place:
        seen = _study(place, study)
        there = seen.get_trials(deepcopy=False)
        if any(not _agrees(known, trial) for known, trial in zip(there, shown, strict=False)):
            optuna.delete_study(study_name=seen.study_name, storage=place)
            seen, there = _study(place, study), []
        for known, trial in zip(there, shown, strict=False):
            _update(seen, known, trial)
        for trial in shown[len(there) :]:
            seen.add_trial(frozen(trial))


def _study(place: BaseStorage, study: Study) -> optuna.Study:
    name, direction = f"{study.name} [{study.key[:8]}]", study.objective["direction"]
    return optuna.create_study(study_name=name, direction=direction, storage=place, load_if_exists=True)


def _agrees(known: FrozenTrial, trial: Trial) -> bool:
    """Whether what Optuna has is the trial, can become it, or is ahead of a run that has not heard of its end."""
    if known.user_attrs.get("key") not in (trial.key, None) or known.params != dict(trial.params):
        return False
    if trial.state == "WAITING":
        return True
    if trial.state == "RUNNING":
        return str(known.state.name) != "FAIL"  # it is run again, which a failed one cannot become
    return not known.state.is_finished() or known.state.name == trial.state


def _update(seen: optuna.Study, known: FrozenTrial, trial: Trial) -> None:
    """Bring an unfinished trial to its present state."""
    if known.state.is_finished() or known.state.name == trial.state:
        return
    storage, number = seen._storage, known._trial_id
    if known.state == TrialState.WAITING:
        storage.set_trial_state_values(number, TrialState.RUNNING)
    if trial.state == "WAITING":
        storage.set_trial_state_values(number, TrialState.WAITING)
    if trial.state in ("RUNNING", "WAITING"):
        return
    living = optuna.trial.Trial(seen, number)
    for step, value in sorted(trial.values.items()):
        living.report(value, step)
    for name, value in frozen(trial).user_attrs.items():
        living.set_user_attr(name, value)
    told = trial.value if trial.state == "COMPLETE" else None  # of a pruned one Optuna takes the last report
    seen.tell(trial.number, told, state=TrialState[trial.state])


@contextlib.contextmanager
def _alone(storage: str) -> Iterator[BaseStorage]:
    """The storage, for one writer of ours at a time: Optuna numbers trials in the order in which they come."""
    if "://" not in storage:
        path = Path(storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{storage}.writer", timeout=60):
            yield JournalStorage(_sound(path))
        return
    place = RDBStorage(storage)
    try:
        with contextlib.ExitStack() as stack:
            if place.engine.dialect.name == "postgresql":
                from sqlalchemy import text

                connection = stack.enter_context(place.engine.connect())
                connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": LOCK_NUMBER})
                unlock = text("SELECT pg_advisory_unlock(:number)")
                stack.callback(lambda: connection.execute(unlock, {"number": LOCK_NUMBER}))
            yield place
    finally:
        place.engine.dispose()


def _sound(path: Path) -> JournalFileBackend:
    """The journal. One whose last line was cut off, by a full disk or a power failure, is moved aside: Optuna could
    read nothing that is written after it."""
    if path.exists():
        with path.open("rb") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    path.rename(path.with_suffix(".damaged"))
    return JournalFileBackend(str(path))
