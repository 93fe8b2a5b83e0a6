"""Dials that came later than results: in keys they are left out where they mean what was before them.

So keys, and states of runs that wait to be continued, stay valid when a dial is added. A new dial of a stage whose
results are to stay gets its value from before here, as JSON has it; it can be removed when the stage's version is
raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Dials = Mapping[str, Any]
Change = Callable[[Dials, Dials], dict[str, Any]]

_ABSENT = object()
_VOC_READERS = (*("voc", "voc-aeroplane", "voc-cat", "voc-horse", "voc-bus", "voc-car", "voc-person", "voc-motorbike"),)
_DECODING = {"task_weights": [], "mask_loss": "mse"}
# Section of a spec -> its later dials.
LATER: Mapping[str, Dials] = {
    "backend": {"compiled": False, "fused": False},
    "finetune": {"head": "fitting"},
}
# Section -> the dial that tells its sort; sort -> the later dials. Those of `data` stand in its options.
LATER_OF: Mapping[str, tuple[str, Mapping[str, Dials]]] = {
    "pretext": (
        "method",
        {"conrec": _DECODING, "reconstruction": _DECODING, "classification": {"loss": "by-classes"}},
    ),
    "network": ("name", {"sasa-resnet50-unet": {"embeddings": "per-head"}}),
    "analysis": ("kind", {"cka": {"kernel": "linear", "bandwidth": 0.5, "pool": 1}}),
    "data": ("reader", {reader: {"void": "ignore"} for reader in _VOC_READERS}),
}


def as_now(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's spec, and those in it, with all later dials, whenever it was written."""
    return _changed(spec, lambda dials, later: {**later, **dials})


def as_before(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's spec, and those in it, as it was written before there were later dials: without those that have the
    value that means what was before them."""
    return _changed(spec, _without)


def options_as_before(reader: str, options: Dials) -> dict[str, Any]:
    """The options of a data set, likewise."""
    return _without(options, LATER_OF["data"][1].get(reader, {}))


def _without(dials: Dials, later: Dials) -> dict[str, Any]:
    found = dict(dials)
    for name, value in later.items():
        if found.get(name, _ABSENT) == value:
            del found[name]
    return found


def _changed(spec: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Planning calls this for every stage, so it looks at nothing that has no later dials."""
    found = dict(spec)
    for section, later in LATER.items():
        if section in found:
            found[section] = change(found[section], later)
    for section, (sort, sorts) in LATER_OF.items():
        if section in found and (dials := sorts.get(found[section].get(sort))):
            part = found[section]
            if section == "data":
                found[section] = {**part, "options": change(part["options"], dials)} if "options" in part else part
            else:
                found[section] = change(part, dials)
    if "finetune" in found.get("objective", {}):  # of a trial
        found["objective"] = {**found["objective"], "finetune": _changed(found["objective"]["finetune"], change)}
    for name in ("panels", "models"):  # of an analysis; a panel may name its models alone
        if name in found:
            found[name] = [_changed(part, change) if isinstance(part, Mapping) else part for part in found[name]]
    return found
