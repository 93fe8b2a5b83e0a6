"""What a key stands for, and where it parts from the stage most like it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.plan.keys import identity
from orchestrator.plan.stages import Stage
from trainables.settings import as_now


def flat_identity(stage: Stage) -> dict[str, Any]:
    """All that goes into a stage's key, one dotted name per value."""
    return _flat(_identity(stage))


def differences(one: Stage, other: Stage) -> list[tuple[str, Any, Any]]:
    """The fields in which two identities differ, as (name, value in one, value in other)."""
    a, b = (_flat(known | {"spec": as_now(known["spec"])}) for known in map(_identity, (one, other)))
    return [(name, a.get(name), b.get(name)) for name in sorted({*a, *b}) if a.get(name) != b.get(name)]


def most_similar(stage: Stage, others: Iterable[Stage]) -> Stage | None:
    """The stage of the same kind that differs in the fewest fields, not itself."""
    like = [other for other in others if other.kind == stage.kind and other.key != stage.key]
    return min(like, key=lambda other: (len(differences(stage, other)), other.key), default=None)


def _identity(stage: Stage) -> dict[str, Any]:
    return identity(stage.kind, stage.spec, stage.parents, stage.fingerprint)


def _flat(value: Any) -> dict[str, Any]:
    return dict(_flatten(value, ""))


def _flatten(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
