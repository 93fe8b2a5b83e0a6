"""How a setting is declared and how a settings object is built from JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def dial(default: Any, **limits: float) -> Any:
    """A field with limits (`ge`, `gt`, `le`, `lt`, `multiple_of`), which the grid's schema checks."""
    return field(default=default, metadata=limits)


def parse(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a settings object from JSON values (lists become tuples). Unknown names raise TypeError."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise TypeError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
