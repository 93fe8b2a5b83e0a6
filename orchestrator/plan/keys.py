"""Identity is meaning: a stage's key is a hash of all that changes its result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trainables.versions import VERSIONS


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def versions_of(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """`["finetune@1", "network/conrec-unet@1"]`: which code, in which version."""
    stage = f"pretrain/{spec['pretext']['method']}" if kind == "pretrain" else kind
    return [f"{name}@{VERSIONS[name]}" for name in (stage, f"network/{spec['network']['name']}")]


def identity(kind: str, spec: Mapping[str, Any], parents: Mapping[str, str], fingerprint: str) -> dict[str, Any]:
    """What a key stands for, as data: `--explain` shows it, `stage_key` hashes it."""
    return {
        "kind": kind,
        "versions": versions_of(kind, spec),
        "spec": {**spec, "data": {**spec["data"], "options": _choices(spec["data"]["options"])}},
        "parents": dict(parents),
        "data": fingerprint,
    }


def _choices(options: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's options without the place where it lies: the fingerprint tells its content."""
    return {name: value for name, value in options.items() if name != "path"}


def stage_key(kind: str, spec: Mapping[str, Any], parents: Mapping[str, str], fingerprint: str) -> str:
    """The first 24 hex digits of the sha256 of a stage's identity."""
    return hashlib.sha256(canonical(identity(kind, spec, parents, fingerprint)).encode()).hexdigest()[:24]
