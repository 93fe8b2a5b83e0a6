"""A stage that does next to nothing, for the benchmark of scale. It stands in for real ones in the workers alone.

Ray calls `runtime_env` in the driver (named by RAY_RUNTIME_ENV_HOOK) and `register` once in each new worker process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

KINDS = PARENT, CELL = "pretrain", "finetune"  # kinds that the engine knows: cells travel in packs, parents do not
POINTS = 5  # of the curve; each is a metric with its step in MLflow


def runtime_env(env: Mapping[str, Any] | None) -> dict[str, Any]:
    """The environment of workers: as asked, and with our stage."""
    return {**(env or {}), "worker_process_setup_hook": f"{__name__}.register"}


def register() -> None:
    """Put the stage in the place of real ones in this process."""
    from trainables.stages import STAGES

    STAGES.update(dict.fromkeys(KINDS, stage))


def stage(spec: Mapping[str, Any], context: Any) -> Any:
    """A few curve points and a metric; and the process that it ran in."""
    from trainables.context import Result

    for step in range(POINTS):
        context.report(step, {"eval_dice": step / POINTS})
    return Result({"dice": spec["seed"] / 1e6, "iou": 0.5}, facts={"process": os.getpid()})
