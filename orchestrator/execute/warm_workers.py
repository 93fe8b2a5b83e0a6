"""Which pack a warm worker takes next, in Ray Tune."""

from __future__ import annotations

import functools
from typing import Any

from ray.tune.execution.tune_controller import TuneController


def give_free_workers_to_the_most_urgent() -> None:
    """Have Tune give a worker that has become free to the most urgent pack that has no worker of its own coming up.

    Tune 2.60 gives it to whichever has waited longest. Packs that are handed out in advance would so go before a more
    urgent one that became ready later. And the one that has waited longest is often the one whose own worker process
    is starting at this moment: Tune then ends that process, and where packs are shorter than a process takes to start,
    no second worker ever comes up (1,500 short cells on two CPUs ran on one of them from beginning to end).
    """
    original = getattr(TuneController, "_maybe_reuse_cached_actor", None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def reuse(self: Any, trial: Any) -> bool:
        try:
            chosen = _most_urgent(self, trial)
        except (
            AttributeError
        ):  # another version of Tune, of other inner parts: its own order is the slower one, no fault
            chosen = trial
        reused = bool(original(self, chosen))
        return reused and chosen is trial

    TuneController._maybe_reuse_cached_actor = reuse


def _most_urgent(controller: Any, trial: Any) -> Any:
    """Of the packs that could take the worker that is free; `trial`, of which Tune thinks, where there is no other.

    It is also given where it alone waits and its own worker comes up: a warm one is the quicker.
    """
    shape = trial.placement_group_factory
    if trial in controller._resetting_trials or not controller._actor_cache.has_cached_object(shape):
        return trial
    waiting = (controller._pending_trials & controller._staged_trials) - controller._resetting_trials
    waiting = {t for t in waiting if t.placement_group_factory == shape}
    ready = [t for t in waiting if not _comes_up(controller, t)]  # `_pending_trials_list` lacks those that are staged
    return max(ready, key=lambda t: (float(t.config["urgency"]), t is trial), default=trial)


def _comes_up(controller: Any, trial: Any) -> bool:
    """Whether a trial's own worker has been given resources and is not ready yet."""
    actor = controller._trial_to_actor.get(trial)
    created = actor is not None and controller._actor_manager.is_actor_started(actor)
    return created and actor not in controller._started_actors
