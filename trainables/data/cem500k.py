"""CEM500K: unlabelled electron microscopy for pretraining, and a disjoint part with organisms as labels [P2 §IV-B]."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from trainables.data.listing import AbsentData, DataError, Listing, WrongRequest, count_note, find_folder, pictures
from trainables.settings.datasets import CEM500KOptions

FOLDERS = ("cem500k",)
HOLDS = "*.tiff patches named SOURCE-LOC-..., flat or in a folder for each source"
TABLE = "lines `source,organism` under that header; a source may be the beginning of its name"
ABOUT = 500_000


def open_listing(data_root: Path, options: CEM500KOptions) -> Listing:
    """Pretraining: `pretraining` patches of any organism. Labels: `classification` others, of the organisms `classes`.

    Both are the first of all patches in an order that depends on the seed and the names only, so that the organisms
    keep their natural proportions. The organism of a source stands in no file of the set, so a table must tell it.

    Raises:
        AbsentData: the folder, its patches or the table of organisms is missing.
        DataError: the table is unreadable, knows none of the classes, or no patch is left for pretraining.
    """
    if len(options.classes) < 2:
        raise WrongRequest(f"options of cem500k: classes must be two or more organisms, but got {options.classes!r}")
    folder = find_folder(data_root, FOLDERS, HOLDS)
    names = pictures(folder, [".tiff", ".tif"], below=True)
    if not names:
        raise AbsentData(f"{folder}: no .tiff in it; expected {HOLDS}")
    table = _table(folder, data_root, options.organisms)
    sources = {source: _organism(source, table) for source in {_source(name) for name in names}}
    organisms = [sources[_source(name)] for name in names]
    order = _drawn(names, options.seed)
    labelled = [n for n in order if organisms[n] in options.classes][: options.classification]
    chosen = set(labelled)
    seen = [n for n in order if n not in chosen][: options.pretraining]
    if not labelled or not seen:
        short = "for pretraining; lower `classification`" if labelled else f"of {', '.join(options.classes)}"
        raise DataError(f"{folder}: of {len(names)} patches none is left {short}")
    return _listing(folder, options, names, organisms, (chosen, set(seen)), sources)


def _listing(
    folder: Path,
    options: CEM500KOptions,
    names: Sequence[str],
    organisms: Sequence[str | None],
    parts: tuple[set[int], set[int]],
    sources: dict[str, str | None],
) -> Listing:
    labelled, seen = parts
    kept = sorted(labelled | seen)
    unknown = sorted(source for source, organism in sources.items() if organism is None)
    notes = count_note("cem500k: images for classification", len(labelled), options.classification)
    notes += count_note("cem500k: images for pretraining", len(seen), options.pretraining)
    notes += (f"cem500k: {len(names)} patches, the published set has about {ABOUT}",) if len(names) < ABOUT // 2 else ()
    notes += (f"cem500k: {len(unknown)} sources stand in no table, {unknown[0]} the first",) if unknown else ()
    classes = {organism: number for number, organism in enumerate(options.classes)}
    return Listing(
        reader="cem500k",
        folder=folder,
        images=tuple(names[n] for n in kept),
        masks=(None,) * len(kept),
        labels=tuple(classes[str(organisms[n])] if n in labelled else None for n in kept),
        mask_values={},
        pretrain=tuple(place for place, n in enumerate(kept) if n in seen),
        notes=notes,
        label_names=tuple(options.classes),
        groups=tuple(organisms[n] for n in kept),
    )


def _source(name: str) -> str:
    return name.rpartition("/")[2].partition("-LOC-")[0]


def _drawn(names: Sequence[str], seed: int) -> list[int]:
    """All numbers in drawn order; the folder that a patch lies in does not count."""

    def digest(number: int) -> bytes:
        name = names[number].rpartition("/")[2]
        return hashlib.sha256(f"cem500k\0{seed}\0{name}".encode(errors="surrogateescape")).digest()

    return sorted(range(len(names)), key=digest)


def _table(folder: Path, data_root: Path, name: str) -> dict[str, str]:
    """Source (or the beginning of its name) -> organism."""
    places = [place for place in (folder / name, data_root / name) if place.is_file()]
    if not places:
        raise AbsentData(f"{folder / name}: the organisms of the sources are missing; expected a CSV file with {TABLE}")
    try:
        with places[0].open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
        table = {row["source"].strip(): row["organism"].strip() for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError) as error:
        raise DataError(f"{places[0]}: cannot read this table ({error}); expected {TABLE}") from None
    if not table:
        raise DataError(f"{places[0]}: no lines in this table; expected {TABLE}")
    return table


def _organism(source: str, table: dict[str, str]) -> str | None:
    """By the whole name of the source, else by the longest beginning that the table knows."""
    beginnings = [known for known in table if known and source.startswith(known)]
    return table[max(beginnings, key=len)] if beginnings else None
