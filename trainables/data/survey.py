"""Look at every file of a dataset once: is it sound, what is its fingerprint?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data import decode
from trainables.data.cache import cache_folder, read_json, turn, write_json
from trainables.data.listing import IGNORE, OBJECT, DataError, Listing, show_value
from trainables.data.manifest import VERSION as MANIFEST_VERSION
from trainables.data.manifest import Progress, Record, file_records, file_states
from trainables.data.threads import in_threads

VERSION = 1  # of a kept verdict; raise it when the fingerprint or the problems of a dataset change
SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class Survey:
    """What a survey found.

    Attributes:
        fingerprint: sha256 (hex) over all that the task lists: names, file contents, labels, parts, mask values.
        problems: what must be put right before training, each naming a file and what was expected.
        read: gives `files`, when somebody asks for them.
    """

    fingerprint: str
    problems: tuple[str, ...]
    read: Callable[[], dict[str, Record]] = field(repr=False, compare=False)

    @property
    def files(self) -> dict[str, Record]:
        """The record of each file by its name (`manifest.file_records`)."""
        return self.read()

    def check(self) -> None:
        """Raise DataError with the first problems, if there are any."""
        if self.problems:
            shown = "\n  ".join(self.problems[:SHOWN_PROBLEMS])
            more = len(self.problems) - SHOWN_PROBLEMS
            raise DataError(shown + (f"\n  ... and {more} more problems" if more > 0 else ""))


def survey(
    listing: Listing,
    *,
    cache_dir: Path | str | None = None,
    on_progress: Progress | None = None,
    planned: str | None = None,
) -> Survey:
    """Decode every file of `listing` that changed since the last survey, and judge the whole.

    A verdict without problems is kept under a digest of the listing and of the files' sizes and times, so that a second
    look at 100,000 files reads none of their records.

    Args:
        cache_dir: where manifests are kept; default $TRANSFERGRID_CACHE, else ~/.cache/transfergrid.
        on_progress: called with (files done, files to decode) from the calling thread.
        planned: the fingerprint that a plan was made for, which refuses faulty data. Pictures that have it were found
            sound when the plan was made, so a node that sees them for the first time only hashes them.
    """
    if listing.draw is not None:
        return Survey(_fingerprint(listing, {}), (), dict)
    own = _wanted(listing)
    wanted = list(dict.fromkeys((*own, *(_wanted(listing.label_source) if listing.label_source else ()))))

    def read() -> dict[str, Record]:
        return file_records(listing.reader, listing.folder, wanted, cache_dir, on_progress)

    def keep(fingerprint: str) -> None:
        if verdict == _verdict_path(listing, wanted, cache_dir):  # nothing changed meanwhile
            write_json(verdict, {"fingerprint": fingerprint})

    verdict = _verdict_path(listing, wanted, cache_dir)

    def look() -> Survey:
        if known := _kept(verdict):
            return Survey(known, (), read)
        names = [name for name, _ in own]
        if planned and listing.kind == "pictures" and _fingerprint(listing, _hashes(listing, names)) == planned:
            keep(planned)
            return Survey(planned, (), read)
        files = read()
        found = Survey(_fingerprint(listing, files), _all_problems(listing, files), lambda: files)
        if not found.problems:
            keep(found.fingerprint)
        return found

    if _kept(verdict):
        return look()
    with turn(cache_folder(cache_dir) / "locks" / f"{verdict.stem}.lock"):  # one of several workers looks
        return look()


def _wanted(listing: Listing) -> list[tuple[str, bool]]:
    """The files of a listing, each with whether it is a mask."""
    wanted = {(listing.file(name), False): None for name in listing.images}
    wanted |= {(listing.file(name), True): None for name in listing.masks if name is not None}
    return list(wanted)


def _kept(verdict: Path) -> str | None:
    """The fingerprint of data that were found sound."""
    content = read_json(verdict)
    fingerprint = content.get("fingerprint") if isinstance(content, dict) else None
    return fingerprint if isinstance(fingerprint, str) else None


def _hashes(listing: Listing, names: Sequence[str]) -> dict[str, Record]:
    """Of the records of pictures only the hash, without decoding; those that cannot be read are left out."""

    def look(name: str) -> str | None:
        try:
            return hashlib.sha256(decode.read(listing.folder / name)).hexdigest()
        except DataError:
            return None

    found = zip(names, in_threads(look, names), strict=True)
    return {name: {"sha256": digest} for name, digest in found if digest is not None}


def _verdict_path(listing: Listing, wanted: Iterable[tuple[str, bool]], cache_dir: Path | str | None) -> Path:
    """Where the verdict on this listing is kept while its files have their present sizes and times."""
    states = file_states(listing.folder, {name for name, _ in wanted})
    content = [
        [VERSION, MANIFEST_VERSION, decode.VERSION, os.path.realpath(listing.folder)],
        [listing.reader, listing.identity, sorted(listing.mask_values.items()), listing.target, listing.exclusive],
        [listing.images, listing.masks, listing.labels, listing.classes, listing.label_names, listing.kind],
        [listing.pretrain, listing.pool, listing.train, listing.evaluation, listing.validation],
        sorted(states.items()),
    ]
    digest = hashlib.sha256(json.dumps(content, separators=(",", ":")).encode(errors="surrogateescape")).hexdigest()
    return cache_folder(cache_dir) / "verdicts" / f"{listing.reader}-{digest[:32]}.json"


def combined_fingerprint(fingerprints: Sequence[str]) -> str:
    """What stands for the data of a stage that reads several datasets, in the order in which its spec names them."""
    different = list(dict.fromkeys(fingerprints))
    return different[0] if len(different) == 1 else hashlib.sha256("\n".join(different).encode()).hexdigest()


def absent_classes(listing: Listing, files: dict[str, Record]) -> tuple[str, ...]:
    """Names of the mask classes that no mask of the task has a pixel of."""
    seen = _seen(listing, files)
    meanings = {listing.mask_values.get(value, IGNORE) for value in seen}
    return tuple(name for number, name in enumerate(listing.classes) if number not in meanings)


def _fingerprint(listing: Listing, files: dict[str, Record]) -> str:
    """A digest of what the task lists; the place of the folder is no part of it."""
    contents = [
        [files.get(listing.file(name), {}).get("sha256") if name else None for name in names]
        for names in (listing.images, listing.masks)
    ]
    content: list[object] = [
        [listing.reader, listing.identity, sorted(listing.mask_values.items())],
        [listing.images, listing.masks, listing.labels],
        contents,
        [listing.pretrain, listing.pool, listing.train, listing.evaluation],
    ]
    more = [len(listing.classes), len(listing.label_names), listing.validation, listing.kind]
    if more not in ([0, 0, (), "pictures"], [2, 0, (), "pictures"]):
        content.append(more)
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _all_problems(listing: Listing, files: dict[str, Record]) -> tuple[str, ...]:
    """Also those of the masks that the labels were read from; each once."""
    of = (listing, listing.label_source) if listing.label_source else (listing,)
    return tuple(dict.fromkeys(problem for one in of for problem in _problems(one, files)))


def _problems(listing: Listing, files: dict[str, Record]) -> Iterator[str]:
    for image in dict.fromkeys(map(listing.file, listing.images)):
        yield from _file_problem(listing, files, image, "image")
    pairs = zip(listing.images, listing.masks, strict=True)
    for image, mask in dict.fromkeys((listing.file(i), listing.file(m)) for i, m in pairs if m is not None):
        yield from _mask_problems(listing, files, image, mask)
    for number in listing.annotated:
        if listing.masks[number] is None:
            yield f"{listing.folder / listing.images[number]}: image without a mask; expected one, as the task uses it"
    yield from _value_problems(listing, files)


def _file_problem(listing: Listing, files: dict[str, Record], name: str, kind: str) -> Iterator[str]:
    if name not in files:
        yield f"{listing.folder / name}: this {kind} is missing; expected, as the dataset lists it"
    elif problem := files[name]["problem"]:
        yield f"{listing.folder / name}: this {kind} {problem}"


def _mask_problems(listing: Listing, files: dict[str, Record], image: str, mask: str) -> Iterator[str]:
    found = list(_file_problem(listing, files, mask, "mask"))
    yield from found
    if found or image not in files:
        return
    size, expected = _size(files[mask]), _size(files[image])
    if size != expected and not files[image]["problem"]:
        unit = "voxels" if "shape" in files[mask] else "pixels"
        yield (f"{listing.folder / mask}: this mask has {size} {unit}; expected {expected}, the size of {image}")
    if unknown := [value for value in files[mask]["values"] if value not in listing.mask_values]:
        yield f"{listing.folder / mask}: this mask {decode.unknown_values(unknown, listing.mask_values)}"


def _size(record: Record) -> str:
    return " x ".join(map(str, record["shape"] if "shape" in record else (record["width"], record["height"])))


def _seen(listing: Listing, files: dict[str, Record]) -> set[int]:
    """The pixel values of all masks of the task."""
    masks = {listing.file(name) for number in listing.annotated if (name := listing.masks[number]) is not None}
    return {value for mask in masks if mask in files for value in files[mask]["values"] or ()}


def _value_problems(listing: Listing, files: dict[str, Record]) -> Iterator[str]:
    """Faults of all masks of the task together. Of many classes some may be absent in a part of a dataset."""
    seen = _seen(listing, files)
    binary = len(listing.classes) == 2
    wanted = sorted(value for value, of in listing.mask_values.items() if of == OBJECT or (not binary and of != IGNORE))
    if seen and seen.isdisjoint(wanted):
        expected = " or ".join(map(show_value, wanted[:SHOWN_PROBLEMS]))
        expected += " ..." if len(wanted) > SHOWN_PROBLEMS else ""
        what = f"the class {listing.target}" if binary else "any class"
        yield f"{listing.folder}: no mask has a pixel of {what}; expected the value {expected}"
    if len(both := sorted(seen.intersection(listing.exclusive))) > 1:
        shown = " and ".join(map(str, both))
        yield f"{listing.folder}: its masks hold {shown}, so what they mean is unclear; say it by `classes` or `ignore`"
