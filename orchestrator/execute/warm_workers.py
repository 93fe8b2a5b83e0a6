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
    original = TuneController._maybe_reuse_cached_actor
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def reuse(self: Any, trial: Any) -> bool:
        shape = trial.placement_group_factory
        if trial in self._resetting_trials or not self._actor_cache.has_cached_object(shape):
            return bool(original(self, trial))
        waiting = (self._pending_trials & self._staged_trials) - self._resetting_trials
        waiting = {t for t in waiting if t.placement_group_factory == shape}
        in_order = {trial: None} | dict.fromkeys(self._pending_trials_list)
        ready = [t for t in in_order if t in waiting and not _comes_up(self, t)]
        chosen = max(ready, key=lambda t: float(t.config["urgency"]), default=trial)
        reused = bool(original(self, chosen))  # by default the one: where it alone waits, a warm worker is the quicker
        return reused and chosen is trial

    TuneController._maybe_reuse_cached_actor = reuse


def _comes_up(controller: Any, trial: Any) -> bool:
    """Whether a trial's own worker has been given resources and is not ready yet."""
    actor = controller._trial_to_actor.get(trial)
    created = actor is not None and controller._actor_manager.is_actor_started(actor)
    return created and actor not in controller._started_actors
