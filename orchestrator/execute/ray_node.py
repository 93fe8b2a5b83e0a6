"""Notices that Ray has died under a run. Tune itself would wait for its results for ever."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from orchestrator.execute.frontier import Frontier

LOOK_SECONDS = 1.0


@contextmanager
def stopped_with_its_node(frontier: Frontier) -> Iterator[None]:
    """Run the body; where this machine's Ray node dies meanwhile, interrupt it and give the frontier the reason."""
    own = ray.get_runtime_context().get_node_id()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            if not _lives(own) and not over.is_set():
                frontier.stop("Ray on this machine has died (its raylet was killed, or memory was used up)")
                os.kill(os.getpid(), signal.SIGINT)  # the one thing that ends Tune's waiting
                return

    thread = threading.Thread(target=watch, name="ray-node", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if frontier.stopped is None:
            raise
    finally:
        over.set()


def _lives(node: str) -> bool:
    """False where the cluster has found the node dead. A cluster that does not answer ends the driver by itself."""
    try:
        return any(known["NodeID"] == node and known["Alive"] for known in ray.nodes())
    except Exception:
        return True
