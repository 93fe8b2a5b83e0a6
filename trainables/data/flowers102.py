"""Oxford 102 Category Flowers, for pretraining: 8189 images without masks [P1 §3]."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.data.listing import AbsentData, DataError, Listing, count_note, find_folder, pictures, read_mat
from trainables.settings.datasets import Flowers102Options

FOLDERS = ("flowers-102", "102flowers", "oxford_flowers102", "oxford_102_flowers")
HOLDS = "jpg/image_00001.jpg ... and imagelabels.mat"


def open_listing(data_root: Path, options: Flowers102Options) -> Listing:
    """All images, in the order of their numbers. Labels: the 102 classes, None where imagelabels.mat is absent.

    Raises:
        DataError: the folder or its pictures are missing; imagelabels.mat is unreadable or too short.
    """
    folder = find_folder(data_root, FOLDERS, HOLDS)
    images = [name for name in pictures(folder / "jpg") if re.fullmatch(r"image_\d+\.\w+", name)]
    if not images:
        raise AbsentData(f"{folder / 'jpg'}: no image_NNNNN.jpg in it; expected {HOLDS}")
    return Listing(
        reader="flowers102",
        folder=folder,
        images=tuple(f"jpg/{name}" for name in images),
        masks=(None,) * len(images),
        labels=_labels(folder / "imagelabels.mat", [int(re.findall(r"\d+", name)[0]) for name in images]),
        mask_values={},
        pretrain=tuple(range(len(images))),
        notes=count_note("flowers102: images", len(images), 8189),
    )


def _labels(path: Path, numbers: list[int]) -> tuple[int | None, ...]:
    if not path.exists():
        return (None,) * len(numbers)
    labels = read_mat(path, "labels")
    if max(numbers) > len(labels):
        raise DataError(f"{path}: {len(labels)} labels, but there is an image {max(numbers)}; expected one per image")
    return tuple(labels[number - 1] - 1 for number in numbers)
