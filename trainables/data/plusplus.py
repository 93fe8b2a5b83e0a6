"""Lucchi++ and Kasthuri++: mitochondria in electron microscopy, re-annotated by Casser et al. [P2 §IV-C]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainables.data.listing import (
    BACKGROUND,
    IGNORE,
    OBJECT,
    PICTURE_EXTENSIONS,
    AbsentData,
    DataError,
    Listing,
    count_note,
    find_folder,
    pictures,
)
from trainables.settings.datasets import KasthuriOptions, LucchiOptions

HOLDS = "Train_In, Train_Out, Test_In and Test_Out, each with numbered pictures"


@dataclass(frozen=True)
class _Set:
    name: str
    folders: tuple[str, ...]
    counts: dict[str, int]


LUCCHI = _Set("lucchi", ("Lucchi++", "lucchi_plusplus", "lucchi_pp", "lucchi"), {"Train": 165, "Test": 165})
KASTHURI = _Set("kasthuri", ("Kasthuri++", "kasthuri_plusplus", "kasthuri_pp", "kasthuri"), {"Train": 85, "Test": 75})


def open_listing(data_root: Path, options: LucchiOptions | KasthuriOptions) -> Listing:
    """Task: mitochondrion against the rest, the official parts. Pretraining: the training part.

    Image and mask belong together by the *number* in their names: images are padded with zeros, masks are not, so
    that sorted names would pair wrong files.

    Raises:
        AbsentData: the folder or a part of it is missing.
        DataError: two files of a part have one number, or a name has none.
    """
    which = KASTHURI if isinstance(options, KasthuriOptions) else LUCCHI
    folder = find_folder(data_root, which.folders, HOLDS)
    images: list[str] = []
    masks: list[str | None] = []
    sizes: list[int] = []
    notes: tuple[str, ...] = ()
    for part, published in which.counts.items():
        inputs, truths = (_by_number(folder, f"{part}_{side}") for side in ("In", "Out"))
        images += inputs.values()
        masks += [truths.get(number) for number in inputs]
        sizes.append(len(inputs))
        notes += count_note(f"{which.name}: {part.lower()} images", len(inputs), published)
        if extra := sorted(set(truths) - set(inputs)):
            notes += (f"{which.name}: {len(extra)} masks have no image, {truths[extra[0]]} the first",)
    return Listing(
        reader=which.name,
        folder=folder,
        images=tuple(images),
        masks=tuple(masks),
        labels=(None,) * len(images),
        mask_values=_meaning(options),
        pretrain=tuple(range(sizes[0])),
        train=tuple(range(sizes[0])),
        evaluation=tuple(range(sizes[0], sum(sizes))),
        notes=notes,
        target="mitochondrion",
    )


def _meaning(options: LucchiOptions | KasthuriOptions) -> dict[int, int]:
    exact = {0: BACKGROUND, 255: OBJECT}
    values = exact if options.values == "exact" else {v: OBJECT if v > 127 else BACKGROUND for v in range(256)}
    if isinstance(options, KasthuriOptions):
        values = values | {2: BACKGROUND if options.outside == "background" else IGNORE}
    return values


def _by_number(folder: Path, part: str) -> dict[int, str]:
    """The last number in a file's name -> its name relative to `folder`, in the order of the numbers."""
    found: dict[int, str] = {}
    for name in pictures(folder / part, PICTURE_EXTENSIONS):
        digits = re.findall(r"\d+", name.rpartition(".")[0])
        if not digits:
            raise DataError(f"{folder / part / name}: no number in its name; expected one, since it pairs the files")
        if (number := int(digits[-1])) in found:
            raise DataError(f"{folder / part / name}: {found[number]} has the number {number} too; expected one file")
        found[number] = f"{part}/{name}"
    if not found:
        raise AbsentData(f"{folder / part}: no pictures in it; expected {HOLDS}")
    return dict(sorted(found.items()))
