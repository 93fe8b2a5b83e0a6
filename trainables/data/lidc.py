"""Nodule segmentation in CT cubes of LIDC-IDRI, as the authors of Models Genesis cut them [P1 §4]."""

from __future__ import annotations

from pathlib import Path

from trainables.data.cubes import cube_names, open_cubes
from trainables.data.listing import BACKGROUND, OBJECT, AbsentData, DataError, Listing, count_note, find_folder
from trainables.settings.datasets import LIDCOptions

FOLDERS = ("lidc_nodules", "NCS", "lidc", "lidc_idri", "LIDC-IDRI")
HOLDS = "x_{train,valid,test}_64x64x32.npy and m_{train,valid,test}_64x64x32.npy"
COUNTS = {"train": 4082, "valid": 3126, "test": 852}


def open_listing(data_root: Path, options: LIDCOptions) -> Listing:
    """`train` trains, `valid` chooses the weights, `test` evaluates; pretraining sees `train`.

    Raises:
        AbsentData: the folder or a file is missing.
        DataError: a file is no array of volumes.
    """
    folder = find_folder(data_root, FOLDERS, HOLDS)
    images: list[str] = []
    masks: list[str] = []
    numbers: dict[str, tuple[int, ...]] = {}
    notes: tuple[str, ...] = ()
    for part, published in COUNTS.items():
        cubes, truths = _file(folder, "x", part), _file(folder, "m", part)
        counts = [_count(folder / file) for file in (cubes, truths)]
        if counts[0] != counts[1]:
            raise DataError(f"{folder / truths}: {counts[1]} masks, but {cubes} has {counts[0]} cubes; expected equal")
        notes += count_note(f"lidc-nodules: {part} cubes", counts[0], published)
        numbers[part] = tuple(range(len(images), len(images) + counts[0]))
        images += cube_names(cubes, counts[0])
        masks += cube_names(truths, counts[0])
    return Listing(
        reader="lidc-nodules",
        folder=folder,
        images=tuple(images),
        masks=tuple(masks),
        labels=(None,) * len(images),
        mask_values={0: BACKGROUND, 1: OBJECT},
        pretrain=numbers["train"],
        train=numbers["train"],
        validation=numbers["valid"],
        evaluation=numbers["test"],
        notes=notes,
        target="nodule",
        kind="cubes",
    )


def _file(folder: Path, kind: str, part: str) -> str:
    """The file of a part; its sides may be others than 64 x 64 x 32."""
    found = sorted(path.name for path in folder.glob(f"{kind}_{part}_*.npy"))
    if len(found) != 1:
        got = "none" if not found else " and ".join(found)
        raise AbsentData(f"{folder}: expected one file {kind}_{part}_64x64x32.npy, but there is {got}")
    return found[0]


def _count(path: Path) -> int:
    try:
        return len(open_cubes(path))
    except DataError as error:
        raise DataError(f"{path}: this file {error}") from None
