"""The way to MLflow, a server or a database: its address, whether anybody answers there, and what goes wrong."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from orchestrator.passwords import without_passwords, without_userinfo

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NO_PATH = re.compile(r"\?|%[0-9A-Fa-f]{2}")  # the one ends the path in an address, the other is a character by number
TRACKING = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
# The first opens the UI on training runs, the second is shown above them.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One run per stage. Filter by tags, for example "
    "``tags.`transfergrid.kind` = 'finetune' and tags.`transfergrid.scenario` = 'seg-enc'``.",
}


class TrackingError(Exception):
    """MLflow cannot be reached or used. The message names its address, less a password in it."""

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))


def default_uri(store_folder: Path | None) -> str:
    """$MLFLOW_TRACKING_URI, else a SQLite file in the store (beside the working directory for a remote store).

    Raises:
        TrackingError: the folder's path holds a `?` or `%3F`, which mean something else in an address of a database.
    """
    if named := os.environ.get("MLFLOW_TRACKING_URI"):
        return named
    path = (store_folder if store_folder is not None else Path.cwd()) / "mlflow.db"
    if found := NO_PATH.search(str(path)):
        raise TrackingError(
            f"MLflow's database {path}: in an address of SQLite {found[0]!r} is no part of a path; expected a folder "
            "without it, or an MLflow elsewhere with --tracking-uri"
        )
    return f"sqlite:///{path}"


def tracking_address(named: str | None, store_folder: Path | None) -> str:
    """Where MLflow is: as named, or `default_uri`. Nothing is asked there yet.

    Raises:
        TrackingError: it is no address of a server or a database, or the store's folder cannot hold one.
    """
    uri = named or default_uri(store_folder)
    kind = uri.partition(":")[0].lower()
    try:  # an address of a database is SQLAlchemy's to read: its password may hold brackets
        sound = kind.partition("+")[0] in TRACKING and (kind not in ("http", "https") or (urlsplit(uri).port or 1) > 0)
    except ValueError:  # brackets that enclose no address of a host, or a port that is no number
        sound = False
    if not sound:
        raise TrackingError(
            f"MLflow at {uri}: no such address; expected http://HOST:PORT, sqlite:///FILE.db or "
            "postgresql://USER@HOST/NAME"
        )
    return uri


def connect(uri: str, experiment: str, *, create: bool = True) -> tuple[MlflowClient, str]:
    """A client, and the id of its experiment.

    Args:
        create: the experiment where it is missing.

    Raises:
        TrackingError: nothing answers at `uri`, MLflow refuses it, or it has no such experiment.
    """
    _quiet()
    if uri.startswith(("http://", "https://")):
        knock(uri)
    elif not uri.startswith("sqlite:"):
        _ask_a_database_thrice()
    with _one_at_a_time(uri):
        return _connect(uri, experiment, create)


def first_line(error: BaseException) -> str:
    """An exception in one line, less passwords: a part of one that is cut off is not recognised later."""
    text = without_passwords(str(error)).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _quiet() -> None:
    """No telemetry, no chatter (faults reach us as exceptions), and no minutes of retries where a server is gone."""
    import logging

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # two lines a run, with the password of the address
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def knock(uri: str) -> None:
    """A quick question to a server, so that a wrong address is told in seconds.

    Raises:
        TrackingError: nothing answers.
    """
    try:
        with urllib.request.urlopen(without_userinfo(uri).rstrip("/") + "/health", timeout=5):  # noqa: S310 - http(s)
            return
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in is seen on connecting
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TrackingError(
            f"MLflow at {uri}: nothing answers ({reason}); start it, or choose another with --tracking-uri"
        ) from error


def _ask_a_database_thrice() -> None:
    """MLflow 3.17 asks ten times, in 100 seconds, whatever the database answers: also that the password is wrong."""
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 3


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that open a new SQLite database at one moment would both try to make its tables."""
    path = Path(uri.removeprefix("sqlite:///") + ".lock")
    if not uri.startswith("sqlite:///") or not path.parent.is_dir():
        yield
        return
    try:
        lock = FileLock(path, timeout=300)
        lock.acquire()
    except (OSError, Timeout):  # MLflow itself will say what is wrong with the place
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _connect(uri: str, experiment: str, create: bool) -> tuple[MlflowClient, str]:
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise TrackingError(
                f"MLflow at {uri}: experiment {experiment!r} was deleted; restore it or use --experiment"
            )
        if found is None and not create:
            raise TrackingError(f"MLflow at {uri}: no experiment {experiment!r}")
        artifacts = None
        if uri.startswith("sqlite:///"):
            artifacts = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
        identifier = found.experiment_id if found else _create(client, experiment, artifacts)
    except TrackingError:
        raise
    except ModuleNotFoundError as error:
        raise TrackingError(f"MLflow at {uri}: it needs the Python package {error.name}; install it") from error
    except Exception as error:
        text = first_line(error)
        if "error code 401" in text:
            text = (
                "it asks for a user and a password, and takes none of those it got: put them into "
                "~/.mlflow/credentials on the machine of the driver, or into "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        elif text.startswith("API request to endpoint"):  # followed by a page of HTML
            text = f"who answers there is no MLflow server ({text.partition(' Response body')[0]})"
        raise TrackingError(f"MLflow at {uri}: {text}") from error
    return client, str(identifier)


def _create(client: MlflowClient, experiment: str, artifacts: str | None) -> str:
    """A new experiment, or the one that another driver has made at the same moment."""
    try:
        return str(client.create_experiment(experiment, artifact_location=artifacts, tags=EXPERIMENT_TAGS))
    except Exception:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise
        return str(found.experiment_id)
