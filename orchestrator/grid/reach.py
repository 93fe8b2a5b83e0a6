"""Which `--set` of a figure is about itself, and which also about the grids that it draws from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainables.settings import DATASET_OPTIONS, PRETEXT_SETTINGS

# Settings reach other grids, rows and layout do not.
_PASSED_ON = ("network", "networks", "pretrain", "finetune", "probe", "backend", "datasets", "stand_ins", "pretexts",
              "pretrain_seed", "train_sizes", "seeds")  # fmt: skip
# Sections of names that a grid makes up -> the section where it does so, and the names that every grid has.
_NAMED = {
    "pretexts": ("pretexts", set(PRETEXT_SETTINGS)),
    "datasets": ("datasets", set(DATASET_OPTIONS)),
    "stand_ins": ("datasets", {*DATASET_OPTIONS, "*"}),
}
Values = Mapping[str, Any]


def for_itself(overrides: Sequence[str], values: Values, others: Sequence[Values]) -> list[str]:
    """Those that are not only about a pretext or data set of one of the others.

    Args:
        values, others: the content of the files, not checked yet; the profile's laid over it or not.
    """
    return [text for text in overrides if _has(text, values) or not any(_has(text, other) for other in others)]


def for_another(overrides: Sequence[str], values: Values) -> list[str]:
    """Those that are also about another grid, with this content of its file."""
    return [text for text in overrides if _keys(text)[0] in _PASSED_ON and _has(text, values)]


def grids_named(values: Any) -> Iterator[str]:
    """Every `grid: NAME` in a tree."""
    if isinstance(values, Mapping):
        yield from (name for key, name in values.items() if key == "grid" and isinstance(name, str))
    if isinstance(values, Mapping | list):
        for inner in values.values() if isinstance(values, Mapping) else values:
            yield from grids_named(inner)


def _has(override: str, values: Values) -> bool:
    """Whether a grid has what an override is about."""
    section, *rest = _keys(override)
    if section not in _NAMED or not rest:
        return True
    where, known = _NAMED[section]
    own = values.get(where)  # not checked yet
    return rest[0] in known or (isinstance(own, Mapping) and rest[0] in own)


def _keys(override: str) -> list[str]:
    return [word.strip() for word in override.partition("=")[0].split(".")]
