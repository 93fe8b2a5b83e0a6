"""What is known of the nodes of the cluster, and the end of a run whose own node has died."""

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
    """Run the body; where this machine's Ray node dies meanwhile, interrupt it and give the frontier the reason.

    Tune itself would wait for its results for ever.
    """
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
        return node in nodes_alive()
    except Exception:
        return True


def nodes_alive() -> set[str]:
    """The ids of the nodes that the cluster takes for alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def node_name(node_id: str | None) -> str:
    """`gpu3 (10.0.0.3)`: a node as people know it."""
    known = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    return f"{known['NodeManagerHostname']} ({known['NodeManagerAddress']})" if known else "unknown"


def node_of_actor(actor_id: str | None) -> str | None:
    """The id of the node that an actor, alive or dead, was placed on; None where that is not known.

    Ray's public way to ask (`ray.util.state`) needs its dashboard; this is what that asks in turn.
    """
    try:
        from ray._private.state import actors

        return str(actors(actor_id)["Address"]["NodeID"]) or None if actor_id else None
    except Exception:  # not public: of whatever it becomes, only the answer is needed
        return None
