"""Pretrainings that lose their GPU, in the workers of `test_device_lost`; there is none, only its fault is raised.

Ray calls `runtime_env` in the driver (named by RAY_RUNTIME_ENV_HOOK) and `register` once in each new worker process.
$LOSSES: a folder, to which each loss adds an empty file `METHOD-PID-NUMBER`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

ASSERTED = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"
LOSSES = {"conrec": 99, "simclr": 1}  # how often; after that it trains


def runtime_env(env: Mapping[str, Any] | None) -> dict[str, Any]:
    """The environment of workers: as asked, and with our stage."""
    return {**(env or {}), "worker_process_setup_hook": f"{__name__}.register"}


def register() -> None:
    """Have pretrainings lose their GPU in this process."""
    from trainables.stages import STAGES

    STAGES["pretrain"] = losing(STAGES["pretrain"])


def losing(whole: Callable[..., Any]) -> Callable[..., Any]:
    """`whole`, which loses its GPU as often as `LOSSES` says, over all processes."""

    def stage(spec: Mapping[str, Any], context: Any) -> Any:
        method, folder = spec["pretext"]["method"], Path(os.environ["LOSSES"])
        before = len(list(folder.glob(f"{method}-*")))
        if before < LOSSES[method]:
            (folder / f"{method}-{os.getpid()}-{before}").touch()
            raise torch.AcceleratorError(ASSERTED)
        return whole(spec, context)

    return stage
