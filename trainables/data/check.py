"""Look a dataset over before anything trains: count, decode, compare with the published figures, name each fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data import Listing, Survey, open_dataset, survey
from trainables.data.contact_sheet import draw_sheet
from trainables.data.manifest import Progress, manifest_path
from trainables.data.survey import absent_classes

SHOWN_CLASSES = 30
# Their images are cut into patches of both parts alike, so that one part may lack the class.
FOR_PATCHES = ("cityscapes-car",)
# What a set needs for its segmentation task beside images, where it also serves for pretraining without.
MASKS = {"cityscapes": "gtFine/{train,val}/CITY/*_gtFine_labelIds.png, as gtFine_trainvaltest.zip holds them"}
# Width and height of every picture, where the dataset's documentation gives one.
SIZES = {
    "cityscapes": {(2048, 1024)},
    "lucchi": {(1024, 768)},
    "kasthuri": {(1613, 1463), (1553, 1334)},
}
CUBE = (64, 64, 32)


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        counts: lines about what is there.
        notes: what differs from the published set, or is worth knowing; no fault.
        faults: what must be put right, each naming the place and what was expected.
    """

    counts: tuple[str, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]


def check(
    name: str,
    data_root: Path,
    options: Mapping[str, Any],
    *,
    sheet: Path | None = None,
    cache_dir: Path | str | None = None,
    on_progress: Progress | None = None,
) -> Finding:
    """Check the dataset `name`; the manifest that planning uses is written on the way.

    Args:
        options: of its reader.
        sheet: where to write a contact sheet (PNG); None: nowhere.

    Raises:
        WrongRequest: no such dataset or option; AbsentData: it is not there; DataError: a list of it is unreadable, or
            the sheet cannot be written.
    """
    listing = open_dataset(name, data_root, options, cache_dir=cache_dir)
    found = survey(listing, cache_dir=cache_dir, on_progress=on_progress)
    faults = [*found.problems, *_doubles(listing, found), *_empty_classes(listing, found), *_empty_labels(listing)]
    gaps = tuple(_empty_parts(listing, found))
    faults += [*_absent_masks(listing), *(() if name in FOR_PATCHES else gaps)]
    counts = tuple(_counts(name, listing, found, cache_dir))
    notes = (*listing.notes, *_size_notes(listing, found), *(gaps if name in FOR_PATCHES else ()))
    if sheet is not None:
        title = listing.folder.name if name == "folder" else name
        draw_sheet(listing, f"{title}, {_summary(listing)}", _images_by_class(listing, found), sheet)
    return Finding(counts, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(faults)))


def _counts(name: str, listing: Listing, found: Survey, cache_dir: Path | str | None) -> Iterator[str]:
    yield f"{name}: {listing.folder}"
    yield f"  {_summary(listing)}"
    if listing.draw is None:
        sizes = Counter(_size(record) for record in found.files.values())
        sizes.pop("", None)
        shown = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(3))
        more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
        yield f"  {len(found.files)} files decoded; {shown}{more}"
    yield from _table("images with a pixel of", _images_by_class(listing, found))
    if listing.labelled:
        of = Counter(label for label in listing.labels if label is not None)
        yield from _table(
            "images labelled", {_label_name(listing, label): count for label, count in sorted(of.items())}
        )
    yield f"  fingerprint {found.fingerprint}"
    if listing.draw is None:
        yield f"  manifest {manifest_path(listing.reader, listing.folder, cache_dir)}"


def _summary(listing: Listing) -> str:
    parts = {"pool": "in the pool", "train": "train", "validation": "validate", "evaluation": "evaluate"}
    counted = [f"{len(getattr(listing, part))} {says}" for part, says in parts.items() if getattr(listing, part)]
    counted = [f"{len(listing.pretrain)} for pretraining", *counted]
    counted += [f"{len(listing.labelled)} with a label"] if listing.labelled else []
    kind = "images" if listing.kind == "pictures" else listing.kind
    return f"{len(listing.images)} {kind}: {', '.join(counted)}"


def _table(title: str, rows: Mapping[str, int]) -> Iterator[str]:
    if not rows:
        return
    listed = list(rows.items())
    if len(listed) > SHOWN_CLASSES:
        listed = sorted(listed, key=lambda row: row[1])[:SHOWN_CLASSES]
        title = f"{title} (the {SHOWN_CLASSES} rarest of {len(rows)})"
    yield f"  {title}: " + ", ".join(f"{name} {count}" for name, count in listed)


def _size(record: Mapping[str, Any]) -> str:
    sides = record["shape"] if "shape" in record else (record["width"], record["height"])
    return " x ".join(map(str, sides)) if sides and sides[0] else ""


def _images_by_class(listing: Listing, found: Survey) -> dict[str, int]:
    """How many images of the task hold each class, background left out; of volumes and drawn sets nothing is known."""
    if listing.draw is not None or listing.kind != "pictures" or not listing.annotated:
        return {}
    counts = [0] * len(listing.classes)
    for number in listing.annotated:
        for meaning in _meanings(listing, found, number):
            counts[meaning] += 1
    return {name: count for name, count in zip(listing.classes, counts, strict=True) if name != "background"}


def _meanings(listing: Listing, found: Survey, number: int) -> set[int]:
    """The classes that the mask of an image holds."""
    values = found.files.get(listing.masks[number] or "", {}).get("values") or ()
    held = {listing.mask_values[value] for value in values if value in listing.mask_values}
    return {meaning for meaning in held if meaning < len(listing.classes)}


def _doubles(listing: Listing, found: Survey) -> Iterator[str]:
    """Images of equal content of which one may train and the other evaluate."""
    first: dict[str, int] = {}
    parts = {n: p for p in ("pool", "train", "validation", "evaluation") for n in getattr(listing, p)}
    for number, part in sorted(parts.items()):
        content = _content(listing, found, number)
        other = number if content is None else first.setdefault(content, number)
        if other == number or (part == parts[other] != "pool"):
            continue
        where = "the pool, from which some train and the others evaluate"
        where = where if part == "pool" else f"the parts {parts[other]} and {part}"
        names = f"{listing.images[other]} and {listing.images[number]}"
        yield f"{listing.folder}: {names} have equal content and lie in {where}; expected each image once"


def _content(listing: Listing, found: Survey, number: int) -> str | None:
    """A digest of an image's pixels; None where it could not be decoded or is made from numbers."""
    name = listing.images[number]
    pixels = found.files.get(listing.file(name), {}).get("pixels")
    if isinstance(pixels, list):
        return str(pixels[int(name.rpartition("#")[2])])
    return pixels


def _empty_classes(listing: Listing, found: Survey) -> Iterator[str]:
    """A binary task without its object is a problem of the survey already."""
    if listing.draw is not None or len(listing.classes) <= 2 or not listing.annotated:
        return
    if absent := absent_classes(listing, found.files):
        shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        yield (
            f"{listing.folder}: {len(absent)} of {len(listing.classes)} classes have no pixel in any mask: {shown}; "
            "expected each in some image"
        )


def _empty_labels(listing: Listing) -> Iterator[str]:
    if not listing.label_names or listing.reader == "luna16":  # there labels are folds, of which some are left out
        return
    seen = set(listing.labels)
    if absent := [name for number, name in enumerate(listing.label_names) if number not in seen]:
        yield f"{listing.folder}: no image has the label {', '.join(absent)}; expected some of each"


def _size_notes(listing: Listing, found: Survey) -> Iterator[str]:
    if listing.kind == "cubes":
        shapes = {tuple(record["shape"][1:]) for record in found.files.values() if record["shape"]}
        if odd := sorted(shapes - {CUBE}):
            yield f"{listing.reader}: volumes of {odd[0]} voxels, the published ones have {CUBE}"
        return
    expected = SIZES.get(listing.reader)
    images = {listing.images[number] for number in listing.annotated or listing.pretrain}
    sizes = {(r["width"], r["height"]) for name, r in found.files.items() if name in images and r.get("width")}
    if expected and (odd := sorted(sizes - expected)):
        known = " or ".join(f"{width} x {height}" for width, height in sorted(expected))
        yield f"{listing.reader}: images of {odd[0][0]} x {odd[0][1]} pixels, the published ones have {known}"


def _absent_masks(listing: Listing) -> Iterator[str]:
    if not listing.annotated and (expected := MASKS.get(listing.reader)):
        yield (
            f"{listing.folder}: no masks, so its images serve for pretraining only and not for the task "
            f"{listing.target}; expected {expected}"
        )


def _empty_parts(listing: Listing, found: Survey) -> Iterator[str]:
    """Classes that one of the official parts lacks while the other has them: they can't be learnt, or not evaluated.

    Of a part with a faulty mask that is not known before the mask is mended.
    """
    if listing.draw is not None or listing.kind != "pictures" or not (listing.train or listing.evaluation):
        return
    judged = set(listing.classes[1:] if len(listing.classes) == 2 else listing.classes)
    judged -= set(absent_classes(listing, found.files))
    for part, numbers in (("train", listing.train), ("evaluation", listing.evaluation)):
        if not all(_readable(listing, found, number) for number in numbers):
            continue
        held = {meaning for number in numbers for meaning in _meanings(listing, found, number)}
        if lacking := [name for k, name in enumerate(listing.classes) if k not in held and name in judged]:
            shown = ", ".join(lacking[:10]) + (", ..." if len(lacking) > 10 else "")
            yield (
                f"{listing.folder}: no mask of the part {part} ({len(numbers)} images) has a pixel of {shown}; "
                "expected some in each part"
            )


def _readable(listing: Listing, found: Survey, number: int) -> bool:
    """Whether an image has a mask of allowed values only."""
    values = found.files.get(listing.masks[number] or "", {}).get("values")
    return values is not None and listing.mask_values.keys() >= set(values)


def _label_name(listing: Listing, label: int) -> str:
    return listing.label_names[label] if listing.label_names else f"class {label}"
