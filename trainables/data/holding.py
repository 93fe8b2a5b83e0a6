"""Which masks hold a class: a task on one class of a set takes only the images with a pixel of it [P1 §2.3]."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from trainables.data.manifest import file_records


def values_held(
    reader: str, folder: Path, masks: Sequence[str], known: Collection[int], cache_dir: Path | str | None
) -> list[frozenset[int] | None]:
    """The pixel values of each mask, from the manifest that the survey writes too, so that each is decoded once.

    Args:
        masks: names relative to `folder`.
        known: the values that a mask may have.

    Returns:
        None for a mask that is missing, broken or has unknown values: it is to stay in the task, so that the survey
        names its fault.
    """
    records = file_records(reader, folder, [(name, True) for name in dict.fromkeys(masks)], cache_dir)
    held: list[frozenset[int] | None] = []
    for name in masks:
        values = records.get(name, {}).get("values")
        held.append(None if values is None or not set(values).issubset(known) else frozenset(values))
    return held
