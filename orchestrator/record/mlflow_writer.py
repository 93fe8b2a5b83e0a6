"""The one writer of MLflow: a thread beside the training, which never waits for it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orchestrator.record.mlflow_connection import first_line
from orchestrator.record.store import StoreError
from orchestrator.record.tracking import Logged, Tracker, ending_of

Record = Mapping[str, Any]
MANY = 50  # runs that are asked for one by one at the end; more are listed with all others
PAUSE_SECONDS = 10.0  # after a failure; every try at a dead server costs seconds
History = list[Mapping[str, float]]


class MlflowWriter(threading.Thread):
    """Writes a run for each stage it is given; one run per key, however often it is given.

    Args:
        grids_of: key -> the grids that its run is to be tagged with.
        load: key -> (record, history) from the store, None where it is not finished.
        warn: told once if MLflow does not take runs, and once if the store does not give them.
    """

    def __init__(
        self,
        tracker: Tracker,
        grids_of: Mapping[str, Iterable[str]],
        load: Callable[[str], tuple[Record, History] | None],
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(name="mlflow", daemon=True)
        self._tracker, self._grids_of, self._load, self._warn = tracker, grids_of, load, warn
        self._queue: queue.Queue[str | Record | None] = queue.Queue()
        self._logged: dict[str, Logged] | None = None
        self._unsure: set[str] = set()  # their runs may be half written
        self._elsewhere: list[str] = []
        self._missed: list[str | Record] = []
        self._warned: set[str] = set()  # about what
        self._pause_until = 0.0

    def put(self, item: str | Record) -> None:
        """Queue a finished stage by its key, or the record of one that failed or is blocked."""
        self._queue.put(item)

    def put_elsewhere(self, key: str) -> None:
        """A stage that another run has finished meanwhile: that run writes it. If it did not, `finish` does."""
        self._elsewhere.append(key)

    def finish(self) -> list[str]:
        """Write all that is queued, then stop. Returns the keys that MLflow did not take."""
        self._queue.put(None)
        self.join()
        return self.missed

    @property
    def waiting(self) -> int:
        """Runs not yet written."""
        return self._queue.qsize()

    def run(self) -> None:
        """The thread's body."""
        while (item := self._queue.get()) is not None:
            self._try(item)
        if self._elsewhere or len(self._unsure) > MANY:
            self._logged = None  # also what the other run has written since
        left = [*self._missed, *self._elsewhere]
        self._missed, self._pause_until = [], 0.0
        for item in left:
            self._try(item)
        with contextlib.suppress(Exception):  # another run may have written the same stage at the same moment
            self._tracker.logged()
            self._tracker.drop_extra()

    @property
    def missed(self) -> list[str]:
        """The keys that MLflow did not take so far."""
        return [_key(item) for item in self._missed]

    def _try(self, item: str | Record) -> None:
        if time.monotonic() < self._pause_until:
            self._missed.append(item)
            return
        key = _key(item)
        try:
            self._write(key, item)
        except StoreError as error:  # nothing is wrong with MLflow
            self._missed.append(item)
            self._warn_once("the store", f"MLflow lacks the run of {key}: {error}")
        except Exception as error:  # MLflow and its backends raise many kinds; training goes on without them
            self._missed.append(item)
            self._unsure.add(key)
            said = f"MLflow at {self._tracker.uri} does not take runs: {first_line(error)}; trying again later"
            self._warn_once("MLflow", said)
            if not self._tracker.answers():
                self._pause_until = time.monotonic() + PAUSE_SECONDS

    def _warn_once(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            self._warn(text)

    def _write(self, key: str, item: str | Record) -> None:
        if self._logged is None:
            self._logged = self._tracker.logged()
            self._unsure.clear()
            self._tracker.drop_extra()
        elif key in self._unsure:  # to ask for all of them again would keep a server that is slow from getting faster
            self._logged.pop(key, None)
            self._logged |= self._tracker.logged(key)
            self._unsure.discard(key)
            self._tracker.drop_extra()
        known = self._logged.get(key)
        grids = set(self._grids_of.get(key, ()))
        if known is not None and known.complete:
            self._tracker.tag_grids(known.run_id, sorted(grids - known.grids))
            return
        loaded = self._load(item) if isinstance(item, str) else (item, [])
        if loaded is None:
            return
        record, history = loaded
        if known is not None and known.ending == ending_of(record):  # a failure that is told already
            self._tracker.tag_grids(known.run_id, sorted(grids - known.grids))
            return
        run_id = self._tracker.log(record, history, sorted(grids), known.run_id if known else None)
        self._logged[key] = Logged(run_id, record["outcome"] == "succeeded", frozenset(grids), ending_of(record))


def _key(item: str | Record) -> str:
    return item if isinstance(item, str) else str(item["key"])
