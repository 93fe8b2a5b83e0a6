"""The trial stage: a pretrain inside a study. It also says how good it is, and may be given up at a rung."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainables.context import Context, Result, StageError
from trainables.downstream.finetune import finetune
from trainables.pretexts import Pretext
from trainables.pretexts.pretrain import pretrain

OBJECTIVE = "objective"
NOT_OF_THE_PRETRAIN = ("study", "objective", "rungs")


class GivenUp(Exception):
    """The trial is not worth going on with; `metrics` are those of its last point."""

    def __init__(self, step: int, metrics: dict[str, float]) -> None:
        super().__init__(f"given up at step {step}")
        self.step, self.metrics = step, metrics


def trial(spec: Mapping[str, Any], context: Context) -> Result:
    """Run a trial.

    Args:
        spec: of a pretrain stage, and: study; rungs, the steps at which it may be given up; objective, either
            {kind: validation, metric, direction}, a metric of the pretext's curve [P1 §5.1 tunes by it], or
            {kind: downstream, metric, direction, finetune, data (its fingerprint)}, the Dice of a finetune from the
            weights of the moment.

    Returns:
        As of a pretrain, without weights where it was given up. Metrics also: objective, of its last step. Facts also:
        objective by step, pruned_at (the step, None where it ended), and steps_run, those that no shorter trial had
        trained before.

    Raises:
        StageError: the metric does not exist or is no finite number, and all that a pretrain raises.
    """
    objective, rungs = spec["objective"], frozenset(spec["rungs"])
    base = {name: value for name, value in spec.items() if name not in NOT_OF_THE_PRETRAIN}
    prefix = context.prefix_state()
    began = 0 if prefix is None else int(prefix.get("began", prefix["step"]))
    del prefix  # `pretrain` asks for it again: a large network's state is not to be held all the while
    values: dict[int, float] = {}

    def measure(step: int, pretext: Pretext, metrics: dict[str, float]) -> dict[str, float]:
        if step not in rungs:
            return metrics
        values[step] = _value(objective, step, metrics, lambda: pretext.weights(), context)
        found = {**metrics, OBJECTIVE: values[step]}
        if context.give_up(step, values[step]):
            raise GivenUp(step, found)
        return found

    try:
        result = pretrain(base, context, measure)
    except GivenUp as end:
        context.report(end.step, end.metrics)
        metrics = {name: value for name, value in end.metrics.items() if name.startswith("val_")}
        facts = {"pruned_at": end.step, "steps_run": end.step - began, "objective": _by_step(context, values)}
        return Result({**metrics, OBJECTIVE: values[end.step]}, facts=facts)
    steps = int(context.history[-1]["step"])
    values[steps] = _value(objective, steps, result.metrics, lambda: result.weights, context)
    facts = {"pruned_at": None, "steps_run": steps - began, "objective": _by_step(context, values)}
    return Result({**result.metrics, OBJECTIVE: values[steps]}, result.weights, {**result.facts, **facts})


def _value(
    objective: Mapping[str, Any],
    step: int,
    metrics: Mapping[str, float],
    weights: Callable[[], Mapping[str, Tensor]],
    context: Context,
) -> float:
    name = objective["metric"]
    if objective["kind"] == "downstream":
        value = _finetuned(objective, weights(), context)
    elif name in metrics:
        value = float(metrics[name])
    else:
        raise StageError(f"the objective {name!r} is no metric of this pretext; it has {', '.join(sorted(metrics))}")
    if not math.isfinite(value):
        raise StageError(f"the objective {name} was {value} at step {step}, which no other trial can be compared with")
    return value


def _finetuned(objective: Mapping[str, Any], weights: Mapping[str, Tensor], context: Context) -> float:
    """The Dice on images held out of the training part: the evaluation part is never looked at."""
    with torch.enable_grad():  # curves are evaluated without
        return finetune(objective["finetune"], _Aside(context, weights, objective.get("data"))).metrics["dice"]


class _Aside(Context):
    """For a stage within a stage: it leaves no trace."""

    def __init__(self, outer: Context, weights: Mapping[str, Tensor], fingerprint: str | None) -> None:
        super().__init__(
            outer.data_root,
            outer.work_dir,
            parents={"pretrain": weights},
            device=outer.device,
            checkpoint_seconds=float("inf"),
            cache_dir=outer.cache_dir,
            fingerprint=fingerprint,
        )

    def resume(self) -> None:
        """Nothing: it starts anew."""


def _by_step(context: Context, values: Mapping[int, float]) -> dict[str, float]:
    """The objective at each rung and at the end, those from before an interruption included."""
    before = {int(point["step"]): point[OBJECTIVE] for point in context.history if OBJECTIVE in point}
    return {f"{step:d}": value for step, value in sorted({**before, **values}.items())}
