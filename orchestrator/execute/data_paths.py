"""Files that tell whether a node has the data of a run: some of each data set and each file of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.execute.outcome import Job
from orchestrator.plan.keys import canonical
from orchestrator.plan.stages import Stage
from trainables.data import DataError, Listing, open_dataset
from trainables.data.weight_files import weight_file

MADE_FROM_NUMBERS = ("shapes", "textures", "nodules")  # readers that need no files
SOME = 8  # files of a data set that are looked for, from its first to its last; a node has all of it or an old part


def reads_files(stage: Stage) -> bool:
    """Whether a stage needs the data root."""
    data = stage.spec.get("data")
    return isinstance(data, Mapping) and data.get("reader") not in MADE_FROM_NUMBERS


def files_to_look_for(stages: Iterable[Stage], job: Job) -> tuple[str, ...]:
    """Absolute paths of some files of every data set, and of all files of weights, that the stages read.

    What this machine lacks itself is left out: it may be a submitting machine without data.
    """
    sets: dict[str, Mapping[str, Any]] = {}
    weights: dict[str, Mapping[str, Any]] = {}
    for stage in stages:
        if reads_files(stage):
            data = stage.spec["data"]
            sets[canonical([data["reader"], data.get("options") or {}])] = data
        if stage.kind == "import":
            weights[canonical([stage.spec["format"], stage.spec.get("file")])] = stage.spec
    found: list[str] = []
    for data in sets.values():
        try:
            listing = open_dataset(data["reader"], job.data_root, data.get("options"), cache_dir=job.cache_dir)
        except DataError:
            continue
        found += _some(listing)
    for spec in weights.values():
        try:
            path, _ = weight_file(job.data_root, spec["format"], {"file": spec.get("file")}, cache_dir=job.cache_dir)
        except DataError:
            continue
        found.append(str(path))
    return tuple(dict.fromkeys(found))


def _some(listing: Listing) -> Iterator[str]:
    names = list(dict.fromkeys(listing.file(name) for name in (*listing.images, *filter(None, listing.masks))))
    picked = sorted({number * (len(names) - 1) // (SOME - 1) for number in range(SOME)}) if names else []
    return (str((listing.folder / names[number]).absolute()) for number in picked)


def missing(paths: Iterable[str]) -> tuple[str, ...]:
    """Which of the paths this machine lacks."""
    return tuple(path for path in paths if not Path(path).is_file())
