"""What a key stands for, and where it parts from the stage most like it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.plan.keys import identity
from orchestrator.plan.stages import Stage
from trainables.settings.training import LATER_BACKEND_DIALS


def flat_identity(stage: Stage) -> dict[str, Any]:
    """All that goes into a stage's key, one dotted name per value."""
    return dict(_flatten(identity(stage.kind, stage.spec, stage.parents, stage.fingerprint), ""))


def differences(one: Stage, other: Stage) -> list[tuple[str, Any, Any]]:
    """The fields in which two identities differ, as (name, value in one, value in other)."""
    a, b = flat_identity(one), flat_identity(other)
    return [(name, _in(a, name), _in(b, name)) for name in sorted({*a, *b}) if _in(a, name) != _in(b, name)]


def most_similar(stage: Stage, others: Iterable[Stage]) -> Stage | None:
    """The stage of the same kind that differs in the fewest fields, not itself."""
    like = [other for other in others if other.kind == stage.kind and other.key != stage.key]
    return min(like, key=lambda other: (len(differences(stage, other)), other.key), default=None)


def _in(flat: Mapping[str, Any], name: str) -> Any:
    """The value there; of a dial of the backend that an identity leaves out the one that it then has."""
    _, of_backend, dial = name.rpartition("backend.")
    return flat.get(name, LATER_BACKEND_DIALS.get(dial) if of_backend else None)


def _flatten(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
