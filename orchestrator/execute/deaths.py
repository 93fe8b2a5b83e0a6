"""Why a worker died: with its node, by its own process, or by Ray's watch over the node's memory.

The loss of a node is no fault of the stage that ran there; a stage that ends its own process time and again is. The two
look alike at first: the connection breaks at once, while Ray takes some 15 seconds to call a silent node dead. So a
death on another node is judged when that node has shown that it lives on, or has been found dead.
"""

from __future__ import annotations

import functools
import time
from typing import Any, Literal

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.execute.outcome import DeviceLost
from orchestrator.execute.ray_node import node_name, node_of_actor, nodes_alive

Verdict = Literal["node", "process", "memory"]
OUTLIVES_SECONDS = 3.0  # a machine that goes down ends its workers moments before its raylet
GIVEN_UP_SECONDS = 60.0


class NodeMemoryUsedUp(RayActorError):  # type: ignore[misc]
    """Ray has ended a worker because its node's memory was nearly used up."""


class Inquest:
    """Finds out why a worker died. Ask `verdict` until it answers.

    Args:
        error: what Ray has told of the death; None where it told nothing.
    """

    def __init__(self, error: BaseException | None) -> None:
        self._began = time.monotonic()
        self._node = node_of_actor(getattr(error, "actor_id", None)) if isinstance(error, RayActorError) else None
        self._told = error.cause if isinstance(error, RayTaskError) else None
        self._verdict = self._at_once(error)
        self._sign: Any = None if self._verdict else _sign_of_life(self._node)

    @property
    def node(self) -> str:
        """Where it happened, for people."""
        return node_name(self._node)

    @property
    def reason(self) -> str:
        """What the process died of, in a line: what it has told itself, or what is usual."""
        if self._told is None:
            return "killed, or out of memory"
        if isinstance(self._told, DeviceLost):
            return str(self._told)
        return f"{type(self._told).__name__}: {next(iter(str(self._told).splitlines()), '')}"

    @property
    def words(self) -> str:
        """What is known of the end of a process, for people."""
        return f"its worker process on {self.node} died" if self._told is None else f"its worker process: {self.reason}"

    def verdict(self) -> Verdict | None:
        """The cause; None while the node is silent and not yet given up."""
        if self._verdict is None:
            self._verdict = self._by_the_node()
        return self._verdict

    def _at_once(self, error: BaseException | None) -> Verdict | None:
        if isinstance(error, NodeMemoryUsedUp):
            return "memory"
        if isinstance(error, RayActorError) and error.preempted:
            return "node"
        if self._node is None or self._node == ray.get_runtime_context().get_node_id():
            return "process"  # the run itself ends with its own node
        return None

    def _by_the_node(self) -> Verdict | None:
        if self._node not in nodes_alive() or time.monotonic() - self._began > GIVEN_UP_SECONDS:
            return "node"
        done, _ = ray.wait([self._sign], timeout=0)
        if not done:
            return None
        try:
            ray.get(self._sign)
        except ray.exceptions.RayError:
            return "node"
        return "process"


def _sign_of_life(node: str | None) -> Any:
    """A future that is there when the node has lived on for a while, and fails where it is lost."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return _outlive.options(scheduling_strategy=there).remote(OUTLIVES_SECONDS)


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _outlive(seconds: float) -> None:
    time.sleep(seconds)


def let_tune_survive_memory_kills() -> None:
    """Have Tune take every fault that Ray tells of a worker for that worker's fault alone.

    Tune 2.60 ends the whole experiment ("Caught unexpected exception") where a call of a worker fails with something
    else than RayActorError or RayTaskError, and OutOfMemoryError, raised when Ray's memory monitor has killed the
    worker, is neither.
    """
    for name in ("_actor_start_failed", "_actor_task_failed"):
        original = getattr(RayActorManager, name)
        if not hasattr(original, "__wrapped__"):
            setattr(RayActorManager, name, _as_actor_error(original))


def _as_actor_error(original: Any) -> Any:
    @functools.wraps(original)
    def failed(self: Any, *, exception: BaseException, **of: Any) -> Any:
        if isinstance(exception, ray.exceptions.RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
            kind = NodeMemoryUsedUp if isinstance(exception, OutOfMemoryError) else RayActorError
            exception = kind(error_msg=str(exception))
        return original(self, exception=exception, **of)

    return failed
