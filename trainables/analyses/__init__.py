"""The analysis stage: pictures and numbers drawn from other stages. One analysis per file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from trainables.context import Context, Result, StageError

# Kind -> module with `analyse(spec, context) -> Result`; imported when asked for, since they import matplotlib.
ANALYSES: dict[str, str] = {
    "study": "trainables.analyses.study",
    "cka": "trainables.analyses.cka",
    "gradcam": "trainables.analyses.gradcam",
    "curves": "trainables.analyses.curves",
    "targets": "trainables.analyses.targets",
    "predictions": "trainables.analyses.predictions",
    "samples": "trainables.analyses.samples",
    "confusion": "trainables.analyses.confusion",
    "cam": "trainables.analyses.cam",
    "distribution": "trainables.analyses.distribution",
}


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Run an analysis stage.

    Args:
        spec: analysis (kind and its settings), and what that kind needs.

    Raises:
        StageError: no analysis of that kind.
    """
    kind = spec["analysis"]["kind"]
    if kind not in ANALYSES:
        raise StageError(f"no analysis {kind!r}; there are {', '.join(ANALYSES)}")
    run: Callable[[Mapping[str, Any], Context], Result] = import_module(ANALYSES[kind]).analyse
    return run(spec, context)
