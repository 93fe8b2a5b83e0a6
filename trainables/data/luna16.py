"""LUNA16 for Models Genesis: ready cubes, else the scans that a `prepare` stage cuts them from [P1 §4; genesis]."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.data.cubes import cube_names, open_cubes
from trainables.data.listing import (
    AbsentData,
    DataError,
    Kind,
    Listing,
    WrongRequest,
    count_note,
    find_folder,
    pictures,
)
from trainables.settings.datasets import LUNA16Options

FOLDERS = ("luna16", "LUNA-16")
HOLDS = "bat_32_s_64x64x32_{0..9}.npy (or bat_32_64x64x32_{0..9}.npy), or subset{0..9}/*.mhd"
READY = re.compile(r"bat_\d+_(?:s_)?\d+x\d+x\d+_(\d)\.npy")
SCANS = 888


def open_listing(data_root: Path, options: LUNA16Options) -> Listing:
    """Pretraining: the volumes of `folds`; validation: those of `validation_folds`. Labels: the fold of each volume.

    Raises:
        AbsentData: the folder is missing, or holds neither cubes nor scans.
        DataError: a file is no array of volumes.
        WrongRequest: a fold stands in both parts.
    """
    folder = find_folder(data_root, FOLDERS, HOLDS)
    if both := set(options.folds) & set(options.validation_folds):
        raise WrongRequest(f"options of luna16: fold {min(both)} both pretrains and validates; expected it in one")
    kind: Kind = "cubes"
    volumes, notes = _cubes(folder)
    if not volumes:
        kind, (volumes, notes) = "scans", _scans(folder)
    wanted = {*options.folds, *options.validation_folds}
    kept = [(name, fold) for name, fold in volumes if fold in wanted]
    seen = tuple(number for number, (_, fold) in enumerate(kept) if fold in options.folds)
    if not seen:
        raise AbsentData(f"{folder}: nothing of the folds {', '.join(map(str, options.folds))}; expected {HOLDS}")
    return Listing(
        reader="luna16",
        folder=folder,
        images=tuple(name for name, _ in kept),
        masks=(None,) * len(kept),
        labels=tuple(fold for _, fold in kept),
        mask_values={},
        pretrain=seen,
        validation=tuple(number for number, (_, fold) in enumerate(kept) if fold in options.validation_folds),
        notes=notes,
        label_names=tuple(f"fold {number}" for number in range(10)),
        kind=kind,
    )


def _cubes(folder: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """([(name, fold)] of the ready cubes, notes); of two files of one fold the training code's name goes first."""
    files: dict[int, str] = {}
    for path in sorted(folder.glob("*.npy"), key=lambda path: ("_s_" not in path.name, path.name)):
        if match := READY.fullmatch(path.name):
            files.setdefault(int(match[1]), path.name)
    volumes = []
    for fold, file in sorted(files.items()):
        try:
            volumes += [(name, fold) for name in cube_names(file, len(open_cubes(folder / file)))]
        except DataError as error:
            raise DataError(f"{folder / file}: this file {error}") from None
    return volumes, count_note("luna16: folds with cubes", len(files), 10)


def _scans(folder: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """([(name, fold)] of the scans, notes)."""
    volumes = []
    for fold in range(10):
        if (place := folder / f"subset{fold}").is_dir():
            volumes += [(f"subset{fold}/{name}", fold) for name in pictures(place, [".mhd"], below=True)]
    return volumes, count_note("luna16: scans", len(volumes), SCANS)
