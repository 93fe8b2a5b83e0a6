"""Oxford-IIIT Pet: pet against background on the 7349 listed images; the paper counts 7375 [P1 Table 1]."""

from __future__ import annotations

from pathlib import Path

from trainables.data.listing import (
    BACKGROUND,
    IGNORE,
    OBJECT,
    AbsentData,
    DataError,
    Listing,
    count_note,
    find_folder,
    pictures,
    read_lines,
)
from trainables.settings.datasets import PetsOptions

FOLDERS = ("oxford-iiit-pet", "oxford_pets", "pets")
HOLDS = "images/*.jpg, annotations/list.txt and annotations/trimaps/*.png"
LINE = "lines `NAME CLASS SPECIES BREED`, CLASS from 1"
BORDER = {"foreground": OBJECT, "background": BACKGROUND, "ignore": IGNORE}


def open_listing(data_root: Path, options: PetsOptions) -> Listing:
    """Task and pretraining: the images of list.txt (else of trainval.txt and test.txt). Labels: the 37 breeds.

    The picture folder holds some files that stand in no list; they are left out. So are, with a note, listed names with
    neither picture nor trimap: the copy was cut down. Where one of the two is there, the survey names the other.

    Raises:
        DataError: the folder or all lists are missing; a list is unreadable; none of its names has both files.
    """
    folder = find_folder(data_root, FOLDERS, HOLDS)
    classes = _classes(folder / "annotations")
    images = _by_stem(folder, "images")
    trimaps = _by_stem(folder, "annotations/trimaps")
    if not any(name in images and name in trimaps for name in classes):
        raise AbsentData(f"{folder}: none of the {len(classes)} listed names has picture and trimap; expected {HOLDS}")
    names = [name for name in classes if name in images or name in trimaps]
    numbers = tuple(range(len(names)))
    notes = count_note("pets: listed images", len(names), 7349)
    if lacking := len(classes) - len(names):
        notes += (f"pets: {lacking} listed names have neither picture nor trimap and are left out",)
    return Listing(
        reader="pets",
        folder=folder,
        images=tuple(images.get(name, f"images/{name}.jpg") for name in names),
        masks=tuple(trimaps.get(name, f"annotations/trimaps/{name}.png") for name in names),
        labels=tuple(classes[name] for name in names),
        mask_values={1: OBJECT, 2: BACKGROUND, 3: BORDER[options.border]},
        pretrain=numbers,
        pool=numbers,
        notes=notes,
        target="pet",
    )


def _by_stem(folder: Path, part: str) -> dict[str, str]:
    return {name.rpartition(".")[0]: f"{part}/{name}" for name in pictures(folder / part, [".jpg", ".png"])}


def _classes(annotations: Path) -> dict[str, int]:
    """Name -> class (from 0) of the listed images, in the order of the list."""
    lists = [annotations / "list.txt"]
    if not lists[0].exists():
        lists = [path for name in ("trainval.txt", "test.txt") if (path := annotations / name).exists()]
    if not lists:
        raise AbsentData(f"{annotations}: no list.txt, trainval.txt or test.txt in it; expected {LINE}")
    classes: dict[str, int] = {}
    for path in lists:
        for line in read_lines(path, LINE):
            columns = line.split()
            if len(columns) < 2 or not columns[1].isdecimal() or int(columns[1]) < 1:
                raise DataError(f"{path}: cannot read the line {line[:80]!r}; expected {LINE}")
            classes[columns[0]] = int(columns[1]) - 1
    return classes
