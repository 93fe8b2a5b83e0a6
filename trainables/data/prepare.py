"""The prepare stage: data that other stages train on, made once. One kind per file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainables.context import Context, Result, StageError
from trainables.data.colorizing import prepare_colours
from trainables.data.cube_cutting import prepare_cubes
from trainables.data.patches import prepare_patches

PREPARATIONS: dict[str, Callable[[Mapping[str, Any], Context], Result]] = {
    "car-patches": prepare_patches,
    "cubes": prepare_cubes,
    "colorize": prepare_colours,
}


def prepare(spec: Mapping[str, Any], context: Context) -> Result:
    """Run a prepare stage.

    Args:
        spec: data (reader, options), prepare (kind and its dials), seed.

    Raises:
        StageError: no preparation of that kind, and what that kind raises.
    """
    kind = spec["prepare"]["kind"]
    if kind not in PREPARATIONS:
        raise StageError(f"no preparation {kind!r}; there are {', '.join(PREPARATIONS)}")
    return PREPARATIONS[kind](spec, context)
