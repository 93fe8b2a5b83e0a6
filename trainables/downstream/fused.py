"""Several finetune stages of equal shape trained as one batched model, for devices that one small cell leaves idle.

Each cell keeps what it has alone: start, order of its images, draws of augmentation, batch-norm statistics, state of
the optimiser, learning rate, curve and end. Only the order of sums inside a kernel differs. A cell that ends or fails
leaves, and the others go on. Checkpoints are those of `finetune`: a cell goes on alone, or fused again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainables.context import Context, Result, StageError
from trainables.data import DataError
from trainables.downstream.finetune import finetune
from trainables.downstream.fused_cell import Cell, Outcome
from trainables.downstream.fused_training import train_fused
from trainables.settings import BackendSettings, parse
from trainables.settings.fusing import fused_shape, why_not_fused
from trainables.training import use_backend

SHARED = ("network", "finetune", "frozen", "backend")  # parts of a spec that cells have in common


def finetune_fused(specs: Sequence[Mapping[str, Any]], contexts: Sequence[Context]) -> list[Outcome]:
    """Run finetune stages of one shape as one.

    What depends on the data, cells need not have in common: where batches (fewer images than `finetune.batch`), sides
    of images or the steps of checkpoints differ, each group of equal ones is trained by itself, and a group of one by
    `finetune`. So is a cell whose context has a `prefix_state` or steps to keep.

    Args:
        specs: as for `finetune`, of one `fused_shape`.
        contexts: one for each of them, on one device.

    Returns:
        In the order of `specs` what `finetune` gives, or the exception that it would raise: a fault of one cell, such
        as a loss that is not finite, ends that cell alone. Of those trained as one, `facts["fused"]` is how many.

    Raises:
        StageError: the shapes or the devices differ, or this shape cannot be fused.
        Whatever a context raises (a cancelled run, say), which ends all cells.
    """
    for spec in specs:
        if reason := why_not_fused(spec):
            raise StageError(reason)
    if len({fused_shape(spec) for spec in specs}) > 1:
        raise StageError(f"finetune: expected cells of one {', '.join(SHARED)} to be trained as one, but they differ")
    if len({context.device for context in contexts}) > 1:
        raise StageError("finetune: expected cells on one device to be trained as one, but they are on several")
    outcomes: list[Outcome | None] = [None] * len(specs)
    groups: dict[Any, list[tuple[int, Cell]]] = {}
    for number, (spec, context) in enumerate(zip(specs, contexts, strict=True)):
        use_backend(parse(BackendSettings, spec.get("backend", {})))
        if context.keep_at or context.prefix_state() is not None:
            outcomes[number] = _alone(spec, context)
            continue
        try:
            cell = Cell(spec, context)
        except (StageError, DataError) as fault:
            outcomes[number] = fault
        else:
            groups.setdefault((cell.batch, cell.parts.training.sides, cell.step), []).append((number, cell))
    for group in groups.values():
        if len(group) > 1:
            train_fused([cell for _, cell in group])
        for number, cell in group:
            outcome = cell.outcome if len(group) > 1 else _alone(cell.spec, cell.context)
            if isinstance(outcome, Result) and len(group) > 1:
                outcome.facts["fused"] = len(group)
            outcomes[number] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _alone(spec: Mapping[str, Any], context: Context) -> Outcome:
    try:
        return finetune(spec, context)
    except (StageError, DataError) as fault:
        return fault
