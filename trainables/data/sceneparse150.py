"""SceneParse150, the scene parsing challenge on ADE20K: 150 classes, 20,210 training and 2,000 validation images."""

from __future__ import annotations

from pathlib import Path

from trainables.data.listing import IGNORE, AbsentData, Listing, count_note, find_folder, pictures, read_lines
from trainables.settings.datasets import SceneParse150Options

FOLDERS = ("ADEChallengeData2016", "SceneParse150", "ade20k_sample", "ade20k")
HOLDS = "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png"
TABLE = "the table of classes: Idx, Ratio, Train, Val, Name"
CLASSES = 150
COUNTS = {"training": 20_210, "validation": 2_000}


def open_listing(data_root: Path, options: SceneParse150Options) -> Listing:
    """Task: label 1..150 is class 0..149, label 0 (other) is not counted. Pretraining: the training part.

    Raises:
        AbsentData: the folder or its pictures are missing.
        DataError: objectInfo150.txt is unreadable.
    """
    folder = find_folder(data_root, FOLDERS, HOLDS)
    parts = {part: _images(folder, part) for part in COUNTS}
    names = [*parts["training"], *parts["validation"]]
    if not names:
        raise AbsentData(f"{folder / 'images'}: no pictures in training or validation; expected {HOLDS}")
    notes: tuple[str, ...] = ()
    for part, found in parts.items():
        notes += count_note(f"sceneparse150: {part} images", len(found), COUNTS[part])
    trained = len(parts["training"])
    return Listing(
        reader="sceneparse150",
        folder=folder,
        images=tuple(names),
        masks=tuple(_mask(name) for name in names),
        labels=(None,) * len(names),
        mask_values={0: IGNORE} | {number + 1: number for number in range(CLASSES)},
        pretrain=tuple(range(trained)),
        train=tuple(range(trained)),
        evaluation=tuple(range(trained, len(names))),
        notes=notes,
        target="*",
        classes=_class_names(folder / "objectInfo150.txt"),
    )


def _images(folder: Path, part: str) -> list[str]:
    place = folder / "images" / part
    return [f"images/{part}/{name}" for name in pictures(place, [".jpg"])] if place.is_dir() else []


def _mask(image: str) -> str:
    return "annotations" + image.removeprefix("images").rpartition(".")[0] + ".png"


def _class_names(path: Path) -> tuple[str, ...]:
    """The first name of each class by the official table; their numbers where it is absent or of another length."""
    rows = [line.split("\t") for line in read_lines(path, TABLE)] if path.exists() else []
    names = {int(row[0]): row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdecimal()}
    return tuple(names.get(number, f"class {number}") for number in range(1, CLASSES + 1))
