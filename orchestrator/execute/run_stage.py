"""Run one stage, or several as one, and commit them. The same functions serve Ray workers, the inline executor and
tests."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from orchestrator.execute.attempt import Attempt, device_lost
from orchestrator.execute.device_memory import device_facts, is_device_lost, limit_device_memory
from orchestrator.execute.outcome import Job, Outcome
from orchestrator.plan.stages import Stage
from trainables.context import Context, Result
from trainables.stages import STAGES


def run_stage(stage: Stage, job: Job, over: int = 0) -> Outcome:
    """Run `stage` unless it is finished or held by another run, write its artifacts, then its commit.

    Every fault of the stage becomes an outcome with one line of error; its traceback goes to the store.

    Args:
        over: the number of a dead lease of this stage, to be taken over.

    Raises:
        DeviceLost: nothing more can run on the GPU in this process. The stage is given back.
    """
    attempt = Attempt(stage, job)
    try:
        if (ended := attempt.begin(over)) is not None:
            return ended
        with attempt.context.beating():
            limit_device_memory(attempt.context.device, job.device_share or 0.0)
            result = _function(stage)(stage.spec, attempt.context)
            result.facts |= device_facts(attempt.context.device)
            return attempt.succeed(result)
    except Exception as error:
        return attempt.fail(error)
    except BaseException:  # interrupted
        attempt.release()
        raise


def run_fused(stages: Sequence[tuple[Stage, int]], job: Job) -> list[Outcome]:
    """Run finetune stages of one `fused_shape` as one model; what ends before the others waits for them.

    A fault of one cell ends that cell. Of what ends them all (no memory left, a lease lost, a fault that nobody
    foresaw) the halves are run again, each from its checkpoints, until it is clear whose it is.

    Args:
        stages: with the number of a dead lease to be taken over, or 0.

    Returns:
        An outcome for each stage, in no order.

    Raises:
        DeviceLost: as `run_stage`; what has not ended is given back.
    """
    if len(stages) == 1:
        return [run_stage(stages[0][0], job, stages[0][1])]
    outcomes, attempts = list[Outcome](), list[Attempt]()
    with ExitStack() as stack:
        for stage, over in stages:
            attempt = Attempt(stage, job)
            stack.callback(attempt.release)
            ended = _begin(attempt, over)
            if ended is None:
                attempts.append(attempt)
            else:
                outcomes.append(ended)
        again = _run_together(attempts, job, outcomes) if len(attempts) > 1 else attempts
    gc.collect()  # of a fault that was for want of memory, what it has left
    half = (len(again) + 1) // 2
    for part in (again[:half], again[half:]):
        outcomes += run_fused([(attempt.stage, 0) for attempt in part], job) if part else []
    return outcomes


def _begin(attempt: Attempt, over: int) -> Outcome | None:
    """Its outcome where it is over already, or where it could not begin."""
    try:
        return attempt.begin(over)
    except Exception as error:
        return attempt.fail(error)


def _run_together(attempts: Sequence[Attempt], job: Job, outcomes: list[Outcome]) -> list[Attempt]:
    """Train the stages as one and add their outcomes; returns those that a fault of somebody else has ended."""
    from trainables.downstream.fused import finetune_fused

    began, device = time.monotonic(), attempts[0].context.device
    with ExitStack() as stack:
        for attempt in attempts:
            stack.enter_context(attempt.context.beating())
        try:
            limit_device_memory(device, job.device_share or 0.0)
            found = finetune_fused([a.stage.spec for a in attempts], [a.context for a in attempts])
            facts = device_facts(device)
        except Exception as error:
            if is_device_lost(error):
                raise device_lost(error) from error
            outcomes += [Outcome(a.stage.key, "elsewhere", executed=False) for a in attempts if a.lost]
            return [attempt for attempt in attempts if not attempt.lost]
        seconds = (time.monotonic() - began) / len(attempts)
        for attempt, ended in zip(attempts, found, strict=True):
            outcomes.append(_end(attempt, ended, seconds, facts))
    return []


def _end(attempt: Attempt, ended: Result | Exception, seconds: float, facts: Mapping[str, Any]) -> Outcome:
    """How one of several stages that were trained as one ends in the store."""
    if isinstance(ended, Exception):
        return attempt.fail(ended)
    ended.facts |= facts
    try:
        return attempt.succeed(ended, seconds)
    except Exception as error:
        return attempt.fail(error)


def _function(stage: Stage) -> Callable[[Mapping[str, Any], Context], Result]:
    if stage.spec.get("analysis", {}).get("kind") != "study":
        return STAGES[stage.kind]
    from orchestrator.execute.sampling import analyse_study  # Optuna, which takes a second to import

    return analyse_study
