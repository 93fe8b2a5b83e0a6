"""Oxford 17 Category Flowers with the segmentations of Nilsback and Zisserman: 849 of 1360 images [P1 Table 1]."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from trainables.data.listing import (
    BACKGROUND,
    IGNORE,
    OBJECT,
    PICTURE_EXTENSIONS,
    AbsentData,
    DataError,
    Listing,
    colour_value,
    count_note,
    find_folder,
    pictures,
    read_lines,
    read_mat,
)
from trainables.settings.datasets import Flowers17Options

FOLDERS = ("flowers17", "17flowers", "oxford_flowers17")
HOLDS = "jpg/image_0001.jpg ... and trimaps/image_0001.png ..."
PER_CLASS = 80

# Colour trimaps; palette trimaps hold the place of the same colour in the palette of Pascal VOC.
FLOWER = {1: OBJECT, colour_value(128, 0, 0): OBJECT}
GROUND = {
    2: BACKGROUND,  # leaves and grass
    colour_value(0, 128, 0): BACKGROUND,
    3: BACKGROUND,
    colour_value(128, 128, 0): BACKGROUND,
    4: BACKGROUND,  # sky
    colour_value(0, 0, 128): BACKGROUND,
    5: BACKGROUND,  # a few stray pixels
    colour_value(128, 0, 128): BACKGROUND,
}
RIM = (0, 7, colour_value(128, 128, 128))  # not labelled; hard to tell (palette), hard to tell (colour)


def open_listing(data_root: Path, options: Flowers17Options) -> Listing:
    """Task: flower against the rest, on all images with a trimap. Pretraining: all images. Labels: the 17 classes.

    Of a number in `imlist` that has only one of picture and trimap the survey names the other as missing; one that has
    neither is left out, with a note: the copy was cut down.

    Raises:
        DataError: the folder, its pictures or its trimaps are missing; `imlist` is unreadable.
    """
    folder = find_folder(data_root, FOLDERS, HOLDS)
    images = _by_number(folder, "jpg", PICTURE_EXTENSIONS)
    if not images:
        raise AbsentData(f"{folder / 'jpg'}: no image_NNNN.jpg in it; expected {HOLDS}")
    trimaps = _by_number(folder, "trimaps", [".png"])
    listed, notes = _imlist(folder, set(images), set(trimaps))
    images = dict(sorted((_named(listed & set(trimaps), "jpg/image_{:04d}.jpg") | images).items()))
    trimaps = _named(listed & set(images), "trimaps/image_{:04d}.png") | trimaps
    masks = tuple(trimaps.get(number) for number in images)
    pool = tuple(number for number, mask in enumerate(masks) if mask is not None)
    rim = IGNORE if options.rim == "ignore" else BACKGROUND
    counts = count_note("flowers17: images", len(images), 1360) + count_note("flowers17: trimaps", len(pool), 849)
    return Listing(
        reader="flowers17",
        folder=folder,
        images=tuple(images.values()),
        masks=masks,
        labels=tuple((number - 1) // PER_CLASS for number in images),
        mask_values=FLOWER | GROUND | dict.fromkeys(RIM, rim),
        pretrain=tuple(range(len(images))),
        pool=pool,
        notes=counts + notes,
        target="flower",
    )


def _by_number(folder: Path, part: str, extensions: Iterable[str]) -> dict[int, str]:
    """Number in the official file name -> name relative to `folder`, in the order of the numbers."""
    found = ((re.fullmatch(r"image_(\d+)\.\w+", name), name) for name in pictures(folder / part, extensions))
    return dict(sorted((int(match[1]), f"{part}/{name}") for match, name in found if match))


def _named(numbers: Iterable[int], form: str) -> dict[int, str]:
    return {number: form.format(number) for number in numbers}


def _imlist(folder: Path, pictured: set[int], with_trimap: set[int]) -> tuple[set[int], tuple[str, ...]]:
    """The numbers in the dataset's own list of its trimaps, none where it is absent, and notes on them."""
    for path in (folder / "trimaps" / "imlist.mat", folder / "imlist.mat", folder / "trimaps" / "imlist.txt"):
        if path.exists():
            listed = set(read_mat(path, "imlist") if path.suffix == ".mat" else _read_numbers(path))
            absent, extra = len(listed - with_trimap - pictured), len(with_trimap - listed)
            note = f"flowers17: {path} lists {absent} images without picture and trimap and lacks {extra} with a trimap"
            return listed, (note,) if absent or extra else ()
    return set(), ()


def _read_numbers(path: Path) -> list[int]:
    expected = "one image number a line"
    try:
        return [int(line) for line in read_lines(path, expected)]
    except ValueError as error:
        raise DataError(f"{path}: {error}; expected {expected}") from None
