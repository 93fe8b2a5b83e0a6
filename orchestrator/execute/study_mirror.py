"""Studies in an Optuna storage, for optuna-dashboard and notebooks: a view like MLflow, filled from the store.

The default storage is a journal in a local store's folder; on a cluster a PostgreSQL URL serves several readers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from orchestrator.execute.sampling import frozen
from orchestrator.plan.stages import Study
from orchestrator.plan.studies import Trial

Change = tuple[Study, list[Trial]]


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
        self._warned = False

    def put(self, study: Study, trials: Sequence[Trial]) -> None:
        """Queue how a study stands."""
        self._queue.put((study, list(trials)))

    def finish(self) -> None:
        """Write what is queued, then stop."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        """The thread."""
        while (change := self._newest()) is not None:
            for study, trials in change:
                try:
                    mirror(self._storage, study, trials)
                except Exception as error:  # a view must never end a run; the next change tries again
                    self._tell(error)

    def _newest(self) -> list[Change] | None:
        """The latest state of each study in the queue; None at the end."""
        found: dict[str, Change] = {}
        item = self._queue.get()
        while item is not None:
            found[item[0].key] = item
            if self._queue.empty():
                return list(found.values())
            item = self._queue.get()
        if found:
            self._queue.put(None)
            return list(found.values())
        return None

    def _tell(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._warn(f"the Optuna storage does not take the studies ({first}); the store holds them all")


def mirror(storage: str, study: Study, trials: Sequence[Trial]) -> None:
    """Bring a study in an Optuna storage to the state `trials`; what is there already stays."""
    seen = optuna.create_study(
        study_name=f"{study.name} [{study.key[:8]}]",
        direction=study.objective["direction"],
        storage=_open(storage),
        load_if_exists=True,
    )
    there = {trial.number: trial for trial in seen.get_trials(deepcopy=False)}
    for trial in trials:
        known = there.get(trial.number)
        if known is None:
            seen.add_trial(frozen(trial))
        elif trial.state != "RUNNING" and not known.state.is_finished():
            living = optuna.trial.Trial(seen, known._trial_id)
            for step, value in sorted(trial.values.items()):
                living.report(value, step)
            for name, value in frozen(trial).user_attrs.items():
                living.set_user_attr(name, value)
            told = trial.value if trial.state == "COMPLETE" else None  # of a pruned one Optuna takes the last report
            seen.tell(trial.number, told, state=TrialState[trial.state])


def _open(storage: str) -> JournalStorage | RDBStorage:
    if "://" in storage:
        return RDBStorage(storage)
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(storage))
