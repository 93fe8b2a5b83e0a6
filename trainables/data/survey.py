"""Look at every file of a dataset once: is it sound, what is its fingerprint? Cached by size and time of the files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data import decode
from trainables.data.cache import cache_folder, read_json, write_json
from trainables.data.listing import OBJECT, DataError, Listing, show_value
from trainables.data.threads import in_threads

MANIFEST_VERSION = 1
MOST_VALUES = 300
SAVE_SECONDS = 30.0
SHOWN_PROBLEMS = 5

Record = dict[str, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Survey:
    """What a survey found.

    Attributes:
        fingerprint: sha256 (hex) over all that the task lists: names, file contents, labels, parts, mask values.
        problems: what must be put right before training, each naming a file and what was expected.
        files: by name, {size, mtime_ns, sha256, width, height, values, problem}; `values` are a mask's pixel values
            (None for an image, at most 300).
    """

    fingerprint: str
    problems: tuple[str, ...]
    files: dict[str, Record]

    def check(self) -> None:
        """Raise DataError with the first problems, if there are any."""
        if self.problems:
            shown = "\n  ".join(self.problems[:SHOWN_PROBLEMS])
            more = len(self.problems) - SHOWN_PROBLEMS
            raise DataError(shown + (f"\n  ... and {more} more problems" if more > 0 else ""))


def survey(listing: Listing, *, cache_dir: Path | str | None = None, on_progress: Progress | None = None) -> Survey:
    """Decode every file of `listing` that changed since the last survey, and judge the whole.

    Args:
        cache_dir: where manifests are kept; default $TRANSFERGRID_CACHE, else ~/.cache/transfergrid.
        on_progress: called with (files done, files to decode) from the calling thread.
    """
    if listing.draw is not None:
        return Survey(_fingerprint(listing, {}), (), {})
    manifest_path = _manifest_path(listing, cache_dir)
    manifest = _load(manifest_path)
    states = _states(listing)
    wanted = [(name, False) for name in listing.images] + [(name, True) for name in listing.masks if name is not None]
    stale = [
        (name, mask) for name, mask in wanted if name in states and not _fresh(manifest.get(name), states[name], mask)
    ]
    for record_name, record in _inspect_all(listing, stale, states, manifest, manifest_path, on_progress):
        manifest[record_name] = record
    if stale:
        _save(manifest_path, manifest)
    files = {name: manifest[name] for name, _ in wanted if name in states}
    return Survey(_fingerprint(listing, files), tuple(_problems(listing, files)), files)


def _manifest_path(listing: Listing, cache_dir: Path | str | None) -> Path:
    place = hashlib.sha256(os.fsencode(os.path.realpath(listing.folder))).hexdigest()[:16]
    return cache_folder(cache_dir) / "manifests" / f"{listing.reader}-{place}.json"


def _load(path: Path) -> dict[str, Record]:
    """The records of a manifest; none when it is missing, broken or of another version."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("version") != [MANIFEST_VERSION, decode.VERSION]:
        return {}
    files = content.get("files")
    return files if isinstance(files, dict) else {}


def _save(path: Path, manifest: dict[str, Record]) -> None:
    write_json(path, {"version": [MANIFEST_VERSION, decode.VERSION], "files": manifest})


def _states(listing: Listing) -> dict[str, tuple[int, int]]:
    """(size, mtime_ns) of the listed files that exist, by one look into each folder."""
    wanted = {*listing.images, *(name for name in listing.masks if name is not None)}
    states: dict[str, tuple[int, int]] = {}
    for parent in {name.rpartition("/")[0] for name in wanted}:
        prefix = f"{parent}/" if parent else ""
        try:
            with os.scandir(listing.folder / parent) as entries:
                for entry in entries:
                    if (name := prefix + entry.name) in wanted:
                        states[name] = _state(entry)
        except OSError:
            continue
    return states


def _state(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # a link to nowhere: reading it gives the message
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _fresh(record: Any, state: tuple[int, int], mask: bool) -> bool:
    try:
        same = (record["size"], record["mtime_ns"]) == state and record["sha256"] != ""  # empty: it could not be read
        return same and (not mask or record["values"] is not None or record["problem"] is not None)
    except (TypeError, KeyError):
        return False


def _inspect_all(
    listing: Listing,
    stale: list[tuple[str, bool]],
    states: dict[str, tuple[int, int]],
    manifest: dict[str, Record],
    manifest_path: Path,
    on_progress: Progress | None,
) -> Iterator[tuple[str, Record]]:
    """Decode the stale files in threads; what is done is kept from time to time."""
    saved = time.monotonic()
    records = in_threads(lambda job: _inspect(listing.folder / job[0], states[job[0]], job[1]), stale)
    for done, ((name, _), record) in enumerate(zip(stale, records, strict=True), start=1):
        yield name, record
        if on_progress is not None:
            on_progress(done, len(stale))
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(manifest_path, manifest)
            saved = time.monotonic()


def _inspect(path: Path, state: tuple[int, int], mask: bool) -> Record:
    record: Record = {"size": state[0], "mtime_ns": state[1], "sha256": "", "width": 0, "height": 0}
    record |= {"values": None, "problem": None}
    try:
        content = decode.read(path)
        record["sha256"] = hashlib.sha256(content).hexdigest()
        picture = decode.open_picture(content)
        record["width"], record["height"] = picture.size
        if mask:
            record["values"] = decode.distinct(decode.as_mask(picture))[:MOST_VALUES].tolist()
        else:
            decode.as_image(picture)
    except DataError as error:
        record["problem"] = str(error)
    return record


def _fingerprint(listing: Listing, files: dict[str, Record]) -> str:
    """A digest of what the task lists; the place of the folder is no part of it."""
    content = [
        [listing.reader, listing.identity, sorted(listing.mask_values.items())],
        [listing.images, listing.masks, listing.labels],
        [[files.get(name or "", {}).get("sha256") for name in names] for names in (listing.images, listing.masks)],
        [listing.pretrain, listing.pool, listing.train, listing.evaluation],
    ]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _problems(listing: Listing, files: dict[str, Record]) -> Iterator[str]:
    for image in listing.images:
        yield from _file_problem(listing, files, image, "image")
    for image, mask in zip(listing.images, listing.masks, strict=True):
        if mask is not None:
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
    size, expected = (tuple(files[name][k] for k in ("width", "height")) for name in (mask, image))
    if size != expected and not files[image]["problem"]:
        yield (
            f"{listing.folder / mask}: this mask has {size[0]} x {size[1]} pixels; "
            f"expected {expected[0]} x {expected[1]}, the size of {image}"
        )
    if unknown := [value for value in files[mask]["values"] if value not in listing.mask_values]:
        yield f"{listing.folder / mask}: this mask {decode.unknown_values(unknown, listing.mask_values)}"


def _value_problems(listing: Listing, files: dict[str, Record]) -> Iterator[str]:
    """Faults of all masks of the task together."""
    masks: Iterable[Record] = (files[name] for n in listing.annotated if (name := listing.masks[n]) in files)
    seen = {value for record in masks for value in record["values"] or ()}
    objects = sorted(value for value, meaning in listing.mask_values.items() if meaning == OBJECT)
    if seen and seen.isdisjoint(objects):
        expected = " or ".join(show_value(value) for value in objects)
        yield f"{listing.folder}: no mask has a pixel of the class {listing.target}; expected the value {expected}"
    if len(both := sorted(seen.intersection(listing.exclusive))) > 1:
        shown = " and ".join(map(str, both))
        yield f"{listing.folder}: its masks hold {shown}, so what they mean is unclear; say it by `classes` or `ignore`"
