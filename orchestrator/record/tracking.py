"""MLflow as a view of the store: one flat run per stage, found by its key. Only the driver writes it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.record.mlflow_connection import TrackingError, connect, first_line, knock
from orchestrator.record.shape import is_file_name

if TYPE_CHECKING:
    from mlflow.entities import Run

PREFIX = "transfergrid."
MOST_METRICS, MOST_PARAMS = 1000, 100
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Logged:
    """A run that MLflow holds: its id, whether it is complete, the grids it is tagged with, how and when it ended."""

    run_id: str
    complete: bool
    grids: frozenset[str]
    ending: str = ""


class Tracker:
    """A connection to one MLflow experiment.

    Raises:
        TrackingError: nothing answers at `uri`, or MLflow refuses it.
    """

    def __init__(self, uri: str, experiment: str, *, create: bool = True) -> None:
        self.uri, self.experiment = uri, experiment
        self._extra: list[str] = []
        self._client, self._experiment_id = connect(uri, experiment, create=create)

    def logged(self, only: str | None = None) -> dict[str, Logged]:
        """The run of every key in the experiment, or of `only` this one. Where a key has several (two runs of
        the program at one moment), a complete one before others, the oldest before later ones; `drop_extra` deletes
        the rest, and the runs of cells that were blocked under a provisional key and have a run under their real one
        now."""
        found: dict[str, Logged] = {}
        self._extra = []
        provisional: dict[str, frozenset[tuple[str, str]]] = {}
        settled: set[frozenset[tuple[str, str]]] = set()
        for run in self._runs("" if only is None else f"tags.`{PREFIX}key` = '{only}'"):
            key = run.data.tags.get(PREFIX + "key")
            if not key:
                continue
            if PREFIX + "provisional" in run.data.tags:
                provisional[run.info.run_id] = _labels(run)
            else:
                settled.add(_labels(run))
            grids = {t.removeprefix(PREFIX + "grid.") for t in run.data.tags if t.startswith(PREFIX + "grid.")}
            complete = run.info.status == "FINISHED" and run.data.tags.get(PREFIX + "status") == "succeeded"
            ending = f"{run.data.tags.get(PREFIX + 'status', '')} {run.info.end_time or 0}"
            new, old = Logged(run.info.run_id, complete, frozenset(grids), ending), found.get(key)
            if old is not None:
                new, old = (new, old) if new.complete and not old.complete else (old, new)
                self._extra.append(old.run_id)
            found[key] = new
        superseded = {run_id for run_id, labels in provisional.items() if labels in settled}
        self._extra += sorted(superseded)
        return {key: run for key, run in found.items() if run.run_id not in superseded}

    def answers(self) -> bool:
        """Whether anybody is there to write to; a database file always is."""
        try:
            if self.uri.startswith(("http://", "https://")):
                knock(self.uri)
        except TrackingError:
            return False
        return True

    def drop_extra(self) -> int:
        """Delete the runs that `logged` found to be second ones of their key. Returns how many."""
        for run_id in self._extra:
            self._client.delete_run(run_id)
        count, self._extra = len(self._extra), []
        return count

    def _runs(self, filter_string: str = "") -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                filter_string,
                max_results=5000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def log(self, record: Record, history: list[Mapping[str, float]], grids: Iterable[str], run_id: str | None) -> str:
        """Write a stage's run, or complete the one that `run_id` names. Repeating it changes nothing."""
        from mlflow.entities import Metric, Param, RunTag

        began = _milliseconds(record.get("started"))
        named = _tags(record, grids)
        tags = [RunTag(name, value) for name, value in named.items()]
        if run_id is None:
            run = self._client.create_run(
                self._experiment_id,
                start_time=began or None,
                tags=named,
                run_name=record["name"],
            )
            run_id, tags = run.info.run_id, []  # one transaction less
        elif record["outcome"] == "succeeded":
            with contextlib.suppress(Exception):  # an earlier attempt's error; most runs have none
                self._client.delete_tag(run_id, PREFIX + "error")
        ended = _milliseconds(record.get("finished")) or int(time.time() * 1000)
        final = [Metric(name, float(value), ended, 0) for name, value in record.get("metrics", {}).items()]
        curves = [
            Metric(f"curve/{name}", float(value), began + int(point["step"]), int(point["step"]))
            for point in history
            for name, value in point.items()
            if name != "step"
        ]
        metrics = final + curves
        params = [Param(name, str(value)[:500]) for name, value in _params(record["spec"])][:MOST_PARAMS]
        self._client.log_batch(run_id, metrics=metrics[:MOST_METRICS], params=params, tags=tags)
        for first in range(MOST_METRICS, len(metrics), MOST_METRICS):
            self._client.log_batch(run_id, metrics=metrics[first : first + MOST_METRICS])
        self._log_files(run_id, record.get("files", {}))
        status = "FINISHED" if record["outcome"] == "succeeded" else "FAILED"
        self._client.set_terminated(run_id, status=status, end_time=ended)
        return str(run_id)

    def _log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryDirectory(prefix="transfergrid-") as folder:
            for name, data in files.items():
                if not is_file_name(name):
                    raise TrackingError(f"MLflow at {self.uri}: no file can be called {name!r}; expected a plain name")
                path = Path(folder) / name
                path.write_bytes(data)
                self._client.log_artifact(run_id, str(path))

    def tag_grids(self, run_id: str, grids: Iterable[str]) -> None:
        """Mark a run as belonging to further grids."""
        for grid in grids:
            self._client.set_tag(run_id, f"{PREFIX}grid.{grid}", "true")


def run_ids(uri: str, experiment: str, keys: Iterable[str]) -> dict[str, str]:
    """The MLflow run of each of `keys` that has one.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise TrackingError(f"MLflow at {uri}: no such database")
    try:
        logged = Tracker(uri, experiment, create=False).logged()
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"MLflow at {uri}: {first_line(error)}") from error
    return {key: logged[key].run_id for key in keys if key in logged}


def _tags(record: Record, grids: Iterable[str]) -> dict[str, str]:
    labels = {name: value for name, value in record["labels"].items() if value is not None}
    plain = {
        "key": record["key"],
        "kind": record["kind"],
        **{name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in labels.items()},
        "parents": ",".join(record["parents"].values()),
        "node": record.get("node", ""),
        "status": record["outcome"],
        **({"error": str(record["error"])[:5000]} if record.get("error") else {}),
        **({"provisional": "true"} if record.get("provisional") else {}),
        **({"study": record["study"]} if record.get("study") else {}),
        **({"pruned_at": str(pruned)} if (pruned := record.get("facts", {}).get("pruned_at")) is not None else {}),
        **{f"grid.{grid}": "true" for grid in grids},
    }
    return {PREFIX + name: value for name, value in plain.items()}


def _params(spec: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in spec.items():
        if name == "path":
            continue  # where data lie is no part of what a stage is, and may change between two tries
        if isinstance(value, Mapping):
            yield from _params(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def ending_of(record: Record) -> str:
    """How and when a stage ended, as `Logged.ending` has it."""
    return f"{record['outcome']} {_milliseconds(record.get('finished'))}"


def _labels(run: Run) -> frozenset[tuple[str, str]]:
    """What a run's tags say of its cell or stage: all but what its key, its data and its fate make of them."""
    tags = ((name.removeprefix(PREFIX), value) for name, value in run.data.tags.items() if name.startswith(PREFIX))
    fate = {"key", "parents", "node", "status", "error", "provisional"}
    return frozenset((name, value) for name, value in tags if name not in fate and not name.startswith("grid."))


def _milliseconds(iso: str | None) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000) if iso else 0
