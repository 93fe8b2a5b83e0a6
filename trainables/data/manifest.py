"""What is known of each file of a dataset, kept by the file's size and time, so that it is looked at once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.data import decode
from trainables.data.cache import cache_folder, read_json, turn, write_json
from trainables.data.cubes import inspect_cubes
from trainables.data.listing import DataError
from trainables.data.scans import inspect_scan, scan_state
from trainables.data.threads import in_threads

VERSION = 2
MOST_VALUES = 300
SAVE_SECONDS = 30.0

Record = dict[str, Any]
Progress = Callable[[int, int], None]
States = Mapping[str, tuple[int, int]]
Wanted = Sequence[tuple[str, bool]]  # name relative to the folder, and whether it is a mask


def file_records(
    reader: str, folder: Path, wanted: Wanted, cache_dir: Path | str | None = None, on_progress: Progress | None = None
) -> dict[str, Record]:
    """The record of each wanted file that exists; those that changed since the last time are decoded.

    A record of a picture is {size, mtime_ns, sha256, width, height, values, pixels, problem}: `values` are a mask's
    pixel values (None for an image, at most 300), `pixels` a digest of an image's pixels (None for a mask). A file of
    volumes has `shape` instead of width and height, and in `pixels` one digest for each.

    Args:
        cache_dir: where manifests are kept; default $TRANSFERGRID_CACHE, else ~/.cache/transfergrid.
        on_progress: called with (files done, files to decode) from the calling thread.
    """
    place = manifest_path(reader, folder, cache_dir)
    states = file_states(folder, {name for name, _ in wanted})
    manifest = _load(place)
    if _stale(manifest, wanted, states):
        # Workers that start at once decode each file once.
        with turn(cache_folder(cache_dir) / "locks" / f"{place.stem}.lock"):
            states = file_states(folder, {name for name, _ in wanted})
            manifest = _load(place)
            _refresh(manifest, place, folder, _stale(manifest, wanted, states), states, on_progress)
    return {name: manifest[name] for name, _ in wanted if name in states}


def _stale(manifest: dict[str, Record], wanted: Wanted, states: States) -> list[tuple[str, bool]]:
    return [(name, mask) for name, mask in wanted if name in states and not _fresh(manifest, name, states, mask)]


def _refresh(
    manifest: dict[str, Record], place: Path, folder: Path, stale: Wanted, states: States, on_progress: Progress | None
) -> None:
    """Decode the stale files; their records go into the manifest and, now and then, into its file."""
    saved = time.monotonic()
    for done, (name, record) in enumerate(_inspect_all(folder, stale, states), start=1):
        manifest[name] = record
        if on_progress is not None:
            on_progress(done, len(stale))
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(place, manifest)
            saved = time.monotonic()
    if stale:
        _save(place, manifest)


def manifest_path(reader: str, folder: Path, cache_dir: Path | str | None = None) -> Path:
    """Where the records of a dataset's folder are kept; all tasks of one reader share them."""
    place = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    return cache_folder(cache_dir) / "manifests" / f"{reader}-{place}.json"


def _load(path: Path) -> dict[str, Record]:
    """The records of a manifest; none when it is missing, broken or of another version."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("version") != [VERSION, decode.VERSION]:
        return {}
    files = content.get("files")
    return files if isinstance(files, dict) else {}


def _save(path: Path, manifest: dict[str, Record]) -> None:
    write_json(path, {"version": [VERSION, decode.VERSION], "files": manifest})


def file_states(folder: Path, wanted: set[str]) -> dict[str, tuple[int, int]]:
    """(size, mtime_ns) of the wanted files that exist, by one look into each folder."""
    states: dict[str, tuple[int, int]] = {}
    for parent in {name.rpartition("/")[0] for name in wanted}:
        prefix = f"{parent}/" if parent else ""
        try:
            with os.scandir(folder / parent) as entries:
                for entry in entries:
                    if (name := prefix + entry.name) in wanted:
                        states[name] = _state(entry)
        except OSError:
            continue
    return states


def _state(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        if entry.name.endswith(".mhd"):
            return scan_state(Path(entry.path))
        status = entry.stat()
    except (OSError, DataError):  # a link to nowhere, a broken header: reading it gives the message
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _fresh(manifest: dict[str, Record], name: str, states: States, mask: bool) -> bool:
    try:
        record = manifest[name]
        same = (record["size"], record["mtime_ns"]) == states[name] and record["sha256"] != ""  # "": it was unreadable
        return same and (record["values" if mask else "pixels"] is not None or record["problem"] is not None)
    except (TypeError, KeyError):
        return False


def _inspect_all(folder: Path, stale: Wanted, states: States) -> Iterator[tuple[str, Record]]:
    records = in_threads(lambda job: _inspect(folder / job[0], states[job[0]], job[1]), stale)
    for (name, _), record in zip(stale, records, strict=True):
        yield name, record


def _inspect(path: Path, state: tuple[int, int], mask: bool) -> Record:
    record: Record = {"size": state[0], "mtime_ns": state[1], "sha256": ""}
    look = {".npy": inspect_cubes, ".mhd": inspect_scan}.get(path.suffix, _inspect_picture)
    try:
        look(path, mask, record)
    except DataError as error:
        record = {"values": None, "pixels": None, **record, "problem": str(error)}
    return record


def _inspect_picture(path: Path, mask: bool, record: Record) -> None:
    record |= {"width": 0, "height": 0, "values": None, "pixels": None, "problem": None}
    content = decode.read(path)
    record["sha256"] = hashlib.sha256(content).hexdigest()
    picture = decode.open_picture(content)
    record["width"], record["height"] = picture.size
    if mask:
        record["values"] = decode.distinct(decode.as_mask(picture))[:MOST_VALUES].tolist()
    else:
        record["pixels"] = decode.digest(decode.as_image(picture))
