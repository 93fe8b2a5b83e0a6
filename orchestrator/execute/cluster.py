"""The cluster of a run: joined or started here, asked whether the run can work on it, and left. It imports Ray late."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.interrupts import rearm
from orchestrator.execute.outcome import ClusterError, Job
from orchestrator.grid.schema import Run
from orchestrator.plan.diff import Diff
from orchestrator.record.store import Store

KNOCK_SECONDS = 5.0


def check_fits(found: Diff, run: Run) -> None:
    """Raise ClusterError where a kind of stage asks for more than this machine has."""
    from orchestrator.execute import ray_tune

    ray_tune.check_fits({stage.kind for stage in found.planned.values()}, run)


def check_nodes(frontier: Frontier, store: Store, job: Job, warn: Callable[[str], None]) -> None:
    """Raise ClusterError where a node does not see the store, the same code or the data; see `preflight`."""
    from orchestrator.execute import data_paths, preflight

    stages = frontier.stages.values()
    needs_data = any(data_paths.reads_files(stage) for stage in stages)
    files = data_paths.files_to_look_for(stages, job)
    preflight.check_nodes(store, job, needs_data=needs_data, warn=warn, files=files)


@contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """A connection to Ray; true where it was started here. Ends whatever follows."""
    if address is None:
        # Ray reads this when it is imported: its local processes then listen on the loopback address only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_health_check_period_ms", "1000")  # a dead raylet is found in seconds
    listens = _knock(address)
    from orchestrator.execute.ray_tune import connect

    try:
        try:
            is_local = connect(address)
        except ClusterError as error:
            hint = "; somebody listens there: is it a Ray head of this version, with this machine's token"
            raise ClusterError(
                f"{error}{hint} (~/.ray/auth_token, $RAY_AUTH_TOKEN_PATH)?" if listens else error
            ) from None
        rearm()
        yield is_local
    finally:
        import ray

        ray.shutdown()


def _knock(address: str | None) -> bool:
    """Whether somebody listens at HOST:PORT; False for other addresses, of which Ray itself must judge.

    Raises:
        ClusterError: nobody does; Ray itself would ask for minutes.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdigit()):
        return False
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
        return True
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClusterError(
            f"no Ray cluster at {address}: nothing answers ({reason}); start it there, or leave --address (and "
            "$RAY_ADDRESS) out for a Ray of this machine"
        ) from error
