"""Identity is meaning: a stage's key is a hash of all that changes its result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from trainables.settings import as_before
from trainables.versions import VERSIONS

# One encoder for all: making one anew costs a quarter of a key.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_ANY_SEED = "\0 any seed"  # no text of a grid has this character


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
    return _ENCODER.encode(value)


def versions_of(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """`["finetune@1", "network/conrec-unet@1"]`: which code, in which version."""
    names = [kind]
    if "pretext" in spec:
        names = [f"pretrain/{spec['pretext']['method']}"]
    elif kind in ("prepare", "analysis"):
        names = [f"{kind}/{spec[kind]['kind']}"]
    if kind == "trial":
        names.append("trial")
    if spec.get("objective", {}).get("kind") == "downstream":
        names.append("finetune")
    if "network" in spec:
        names.append(f"network/{spec['network']['name']}")
    return [f"{name}@{VERSIONS[name]}" for name in names]


def identity(kind: str, spec: Mapping[str, Any], parents: Mapping[str, str], fingerprint: str) -> dict[str, Any]:
    """What a key stands for, as data: `--explain` shows it, `stage_key` hashes it."""
    return {
        "kind": kind,
        "versions": versions_of(kind, spec),
        "spec": meaning(spec),
        "parents": dict(parents),
        "data": fingerprint,
    }


def meaning(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without the places where its data lie, as the fingerprint tells their content, without what is kept of its
    result, and without dials that came later and have the value that means what was before them."""
    spec = as_before(spec)
    if "finetune" in spec.get("objective", {}):  # of a trial
        spec = {**spec, "objective": {**spec["objective"], "finetune": meaning(spec["objective"]["finetune"])}}
    if "panels" in spec:  # of an analysis
        spec = {**spec, "panels": [meaning(panel) for panel in spec["panels"]]}
    if "data" not in spec:
        return {name: value for name, value in spec.items() if name != "file"}
    options = {name: value for name, value in spec["data"]["options"].items() if name != "path"}
    kept = {name: value for name, value in spec.items() if name != "keep_weights"}
    return {**kept, "data": {**spec["data"], "options": options}}


def stage_key(kind: str, spec: Mapping[str, Any], parents: Mapping[str, str], fingerprint: str) -> str:
    """The first 24 hex digits of the sha256 of a stage's identity."""
    return _digest(canonical(identity(kind, spec, parents, fingerprint)))


def seed_keys(
    kind: str, spec: Mapping[str, Any], seeds: Iterable[int], parents: Mapping[str, str], fingerprint: str
) -> list[str]:
    """The `stage_key` of `spec` with each of the seeds: their texts differ in that number only, so one is made."""
    text = canonical(identity(kind, {**spec, "seed": _ANY_SEED}, parents, fingerprint))
    before, after = text.split(canonical(_ANY_SEED))
    return [_digest(f"{before}{canonical(seed)}{after}") for seed in seeds]


def awaited(awaits: Mapping[str, str]) -> dict[str, str]:
    """What stands in a key for parents that studies are still to find."""
    return {role: f"study {study}" for role, study in awaits.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
