"""Costs learned from stored durations: the estimate times what like stages took, over what was estimated for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from orchestrator.plan.cost import device_seconds, dials_of
from orchestrator.plan.keys import canonical
from orchestrator.plan.lengths import steps_of
from orchestrator.plan.stages import Stage
from trainables.settings import as_now

Record = Mapping[str, Any]
Like = tuple[Any, ...]
READ_PER_LIKE = 20  # a median over more of them gains nothing
READ_OTHERS = 200


def costed(stages: Mapping[str, Stage], records: Iterable[Record]) -> dict[str, Stage]:
    """The stages with costs learned from `records`; their order stays.

    The cost of a stage is the estimate for it, times the median of actual over estimated seconds of the records most
    like it: of the same method, network, sizes, batch and numeric backend; where there are none of any backend; of the
    same kind; else of all. As the estimates grow with steps and images, so does what was learned. The order of the
    records does not matter. Seconds of cells that were trained as one are each cell's part of them, as is its estimate.

    Args:
        records: commit records of finished stages, of these plans or of others; `timed` says which of them count.
    """
    ratios: dict[Like, list[float]] = defaultdict(list)
    for record in timed(records):
        for like in _likes(record["kind"], record["spec"]):
            ratios[like].append(record["seconds"] / estimated(record))
    if not ratios:
        return dict(stages)
    learned = {like: median(found) for like, found in ratios.items()}
    likes = _LikesOfMany()
    return {key: replace(stage, cost=stage.cost * _first(learned, likes.of(stage))) for key, stage in stages.items()}


def timed(records: Iterable[Record]) -> list[Record]:
    """Those of the records whose time tells something, and of these the ones on the device that most were made on."""
    known = [record for record in records if _is_measured(record)]
    on = Counter(device_of(record) for record in known)
    chosen = max(sorted(on), key=lambda name: on[name], default="cpu")
    return [record for record in known if device_of(record) == chosen]


def device_of(record: Record) -> str:
    """What a finished stage was made on: "cpu" or "cuda"."""
    return str(record.get("device", "cpu"))


def worth_reading(stages: Mapping[str, Stage], finished: Collection[str]) -> list[str]:
    """Which of the finished keys to read for `costed`, so that a store of many thousands is not read whole.

    Of each sort of stage in the plans some; of keys that are in no plan here some others. The same for the same store.
    """
    counts: dict[Like, int] = defaultdict(int)
    likes, others, chosen = _LikesOfMany(), 0, []
    for key in sorted(finished):  # keys are digests: this order is as good as a random one
        if key not in stages:
            others += 1
            if others <= READ_OTHERS:
                chosen.append(key)
            continue
        like = likes.of(stages[key])[0]
        counts[like] += 1
        if counts[like] <= READ_PER_LIKE:
            chosen.append(key)
    return chosen


def _is_measured(record: Record) -> bool:
    """False where the time of the last attempt tells nothing: it went on from the very end, or a clock was set back."""
    begun, ended = _trained(record)
    return bool((record.get("seconds") or 0) > 0 and (not begun or begun < ended))


def _trained(record: Record) -> tuple[int, int]:
    """The steps at which the timed attempt began and ended.

    It went on from a checkpoint, or from the state of a shorter trial; a trial may have been given up.
    """
    facts, dials = record.get("facts", {}), dials_of(record["kind"], record["spec"])
    asked = steps_of(dials, facts.get("n_pretrain", facts.get("n_train", 0)))
    ended = facts.get("pruned_at") or facts.get("steps") or asked
    return int(facts.get("resumed_from") or ended - facts.get("steps_run", ended)), int(ended)


def estimated(record: Record) -> float:
    """The seconds that would have been estimated for what a finished stage has done: for the steps that were timed."""
    facts, spec = record.get("facts", {}), record["spec"]
    begun, ended = _trained(record)
    section = "pretrain" if "pretext" in spec else "finetune"
    asked = steps_of(dials_of(record["kind"], spec), facts.get("n_pretrain", facts.get("n_train", 0)))
    if section in spec and ended - begun != asked:
        spec = {**spec, section: {**spec[section], "steps": ended - begun, "epochs": None}}
        spec |= {"rungs": [step for step in spec.get("rungs", ()) if begun < step < ended]}
    seen = facts.get("n_pretrain", 0) + facts.get("n_validation", 0)
    seen = seen or facts.get("pictures") or facts.get("volumes") or 0
    return device_seconds(record["kind"], spec, n_eval=facts.get("n_eval", 0), n_pretrain=seen)


def _first(learned: Mapping[Like, float], likes: Iterable[Like]) -> float:
    return next((learned[like] for like in likes if like in learned), 1.0)


class _LikesOfMany:
    """`_likes` of the stages of a plan, which share the parts of their specs: each combination is looked at once.

    An id stands for an object only while it lives, so this must not outlive the stages.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Like, ...]] = {}

    def of(self, stage: Stage) -> tuple[Like, ...]:
        """What `stage` has in common with others."""
        spec = stage.spec
        parts = (
            stage.kind,
            spec.get("frozen"),
            *(id(spec.get(n)) for n in ("network", "pretext", "pretrain", "finetune", "backend")),
        )
        if parts not in self._known:
            self._known[parts] = _likes(stage.kind, spec)
        return self._known[parts]


def _likes(kind: str, spec: Mapping[str, Any]) -> tuple[Like, ...]:
    """What a stage has in common with others, the closest first: all that sets its pace; that on any numeric backend;
    its kind; nothing."""
    dials, pretext = dials_of(kind, spec), spec.get("pretext", {})
    pace = (
        *("pretrain" if kind == "trial" else kind, pretext.get("method"), tuple(pretext.get("tasks", ()))),
        *(canonical(spec.get("network")), spec.get("frozen", False)),
        *(dials.get(name) for name in ("input_size", "batch")),
    )
    return (*pace, _backend(spec)), pace, ("pretrain" if kind == "trial" else kind,), ()


def _backend(spec: Mapping[str, Any]) -> str:
    """Precision, compiling and fusing. Threads are those of the CPU, which stages of one grid have in common."""
    backend = as_now({"backend": spec.get("backend", {})})["backend"]
    return canonical({name: value for name, value in backend.items() if name != "threads"})
