"""The results of many cells from MLflow: straight from its database where that can be reached, else from its server.

`mlflow.search_runs` makes an object of every tag, parameter and metric and takes seconds for 10,000 runs. The database
is MLflow's own (tables experiments, runs, tags, latest_metrics); only columns are read that its schema has had since
version 1, nothing is written, and mlflow itself is not imported.
"""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.record.mlflow_connection import TrackingError, first_line
from orchestrator.record.tracking import PREFIX

Ask = Callable[[str, Mapping[str, Any]], Sequence[Any]]
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
LARGEST = sys.float_info.max  # what MLflow's database holds in place of an infinity

EXPERIMENTS = "SELECT 1 FROM experiments WHERE name = :experiment AND lifecycle_stage = 'active'"
RUNS = """
SELECT k.value, r.run_uuid, r.status, s.value, e.value, r.experiment_id
FROM experiments x
JOIN runs r ON r.experiment_id = x.experiment_id
JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = :key
LEFT JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = :status
LEFT JOIN tags e ON e.run_uuid = r.run_uuid AND e.key = :error
WHERE x.name = :experiment AND x.lifecycle_stage = 'active' AND r.lifecycle_stage = 'active'
ORDER BY r.start_time
"""
METRICS = """
SELECT m.run_uuid, m.key, m.value, m.is_nan
FROM experiments x
JOIN runs r ON r.experiment_id = x.experiment_id
JOIN latest_metrics m ON m.run_uuid = r.run_uuid
WHERE x.name = :experiment AND r.lifecycle_stage = 'active' AND m.key NOT LIKE 'curve/%'
ORDER BY m.key
"""


@dataclass
class TrackedRun:
    """What MLflow says of one stage. `outcome` is succeeded, failed or blocked, "" for a run cut off while written."""

    run_id: str
    outcome: str
    error: str = ""
    complete: bool = False
    experiment_id: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    def record(self, key: str) -> dict[str, Any]:
        """In the form of the store's records."""
        return {"key": key, "outcome": self.outcome, "error": self.error, "metrics": self.metrics}


def read_runs(uri: str, experiment: str, keys: Iterable[str], *, metrics: bool = True) -> dict[str, TrackedRun]:
    """The run of each of `keys` that has one. Of several runs of a key a complete one, else the oldest.

    Args:
        metrics: False: only ids and outcomes.

    Raises:
        TrackingError: MLflow cannot be reached, or holds no such experiment.
    """
    read = _from_database if is_database(uri) else _from_server
    chosen: dict[str, TrackedRun] = {}
    wanted = set(keys)
    for key, run in read(uri, experiment, metrics):
        if key in wanted and (key not in chosen or (run.complete and not chosen[key].complete)):
            chosen[key] = run
    return chosen


def read_tracked(runs: Mapping[str, TrackedRun]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Runs as the store's commits and failures, by key."""
    commits = {key: run.record(key) for key, run in runs.items() if run.complete}
    failures = {key: run.record(key) for key, run in runs.items() if run.outcome in ("failed", "blocked")}
    return commits, failures


def is_database(uri: str) -> bool:
    """Whether a tracking URI is that of a database, not of a server."""
    return uri.partition("://")[0].partition("+")[0] in DATABASES


def _from_database(uri: str, experiment: str, metrics: bool) -> Iterator[tuple[str, TrackedRun]]:
    tags = {name: f"{PREFIX}{name}" for name in ("key", "status", "error")}
    with _connected(uri) as ask:
        if not ask(EXPERIMENTS, {"experiment": experiment}):
            raise TrackingError(f"MLflow at {uri}: no experiment {experiment!r}")
        rows = ask(RUNS, {**tags, "experiment": experiment})
        values: dict[str, dict[str, float]] = {}
        for run_id, name, value, is_nan in ask(METRICS, {"experiment": experiment}) if metrics else ():
            values.setdefault(run_id, {})[name] = math.nan if is_nan else finite_or_not(value)
    for key, run_id, status, outcome, error, place in rows:
        complete = status == "FINISHED" and outcome == "succeeded"
        yield key, TrackedRun(run_id, outcome or "", error or "", complete, str(place), values.get(run_id, {}))


@contextmanager
def _connected(uri: str) -> Iterator[Ask]:
    """A function that answers queries. SQLite is asked directly: SQLAlchemy takes a quarter of a second to import."""
    try:
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///")).absolute()
            if not path.exists():
                raise TrackingError(f"MLflow at {uri}: no such database")
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=20)) as database:
                yield lambda query, values: database.execute(query, values).fetchall()
            return
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        with create_engine(uri, poolclass=NullPool).connect() as connection:
            yield lambda query, values: connection.execute(text(query), values).all()
    except TrackingError:
        raise
    except Exception as error:  # of sqlite3, SQLAlchemy or a driver: no table, no permission, nothing answers
        raise TrackingError(f"MLflow at {uri}: {first_line(error)}") from error


def finite_or_not(value: float) -> float:
    """A metric as it was logged: MLflow's database cannot hold an infinity and keeps the largest number for it."""
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value


def _from_server(uri: str, experiment: str, metrics: bool) -> Iterator[tuple[str, TrackedRun]]:
    from orchestrator.record.tracking import Tracker

    try:
        for run in Tracker(uri, experiment, create=False)._runs():
            tags, values = run.data.tags, sorted(run.data.metrics.items())
            outcome = tags.get(f"{PREFIX}status", "")
            final = {n: finite_or_not(v) for n, v in values if not n.startswith("curve/")} if metrics else {}
            complete = run.info.status == "FINISHED" and outcome == "succeeded"
            error, place = tags.get(f"{PREFIX}error", ""), str(run.info.experiment_id)
            yield tags.get(f"{PREFIX}key", ""), TrackedRun(run.info.run_id, outcome, error, complete, place, final)
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"MLflow at {uri}: {first_line(error)}") from error
