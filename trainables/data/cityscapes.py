"""Cityscapes: one class of its fine annotation against the rest; all its images for pretraining [P1 §5.1]."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from trainables.data.holding import values_held
from trainables.data.listing import BACKGROUND, IGNORE, OBJECT, AbsentData, Listing, count_note, find_folder, pictures
from trainables.settings.datasets import CityscapesOptions

LOOKS_INSIDE = True
FOLDERS = ("cityscapes",)
HOLDS = "leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png and gtFine/.../*_gtFine_labelIds.png"
END = "_leftImg8bit.png"
# labelIds of the things; 34 ids in all, 0 to 33.
IDS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33}
NOTHING = (0, 1, 2, 3)  # unlabelled, own car, rectification border, outside the region of interest
COUNTS = {"train": 2975, "val": 500, "test": 1525}
BUS_IMAGES = 483  # P1 Table 1
SEEN = {"all": ("train", "val", "test"), "train-val": ("train", "val"), "train": ("train",)}


def open_listing(data_root: Path, options: CityscapesOptions, cache_dir: Path | str | None = None) -> Listing:
    """Task: train trains, val evaluates, on the images with a pixel of the target or on all. Test has no labels.

    Raises:
        AbsentData: the folder or its training pictures are missing.
    """
    folder = find_folder(data_root, FOLDERS, HOLDS)
    parts = {part: _pictures(folder, part) for part in COUNTS}
    if not parts["train"]:
        raise AbsentData(f"{folder / 'leftImg8bit' / 'train'}: no *{END} in it; expected {HOLDS}")
    notes: tuple[str, ...] = ()
    for part, names in parts.items():
        notes += count_note(f"cityscapes: {part} images", len(names), COUNTS[part])
    values = _meaning(options)
    task = [*parts["train"], *parts["val"]] if (folder / "gtFine").is_dir() else []
    if not task:
        notes += (f"cityscapes: no {folder / 'gtFine'}; the images serve for pretraining only",)
    if options.images == "with-target":
        task = _with_target(folder, task, options.target, values, cache_dir)
        if task and options.target == "bus":
            notes += count_note("cityscapes: images with a bus", len(task), BUS_IMAGES)
    return _listing(folder, options, parts, set(task), values, notes)


def _listing(
    folder: Path,
    options: CityscapesOptions,
    parts: dict[str, list[str]],
    task: Collection[str],
    values: dict[int, int],
    notes: tuple[str, ...],
) -> Listing:
    seen = {name for part in SEEN[options.pretrain] for name in parts[part]}
    names = sorted(seen.union(task))
    numbers = {name: number for number, name in enumerate(names)}
    return Listing(
        reader="cityscapes",
        folder=folder,
        images=tuple(names),
        masks=tuple(_mask(name) if name in task else None for name in names),
        labels=(None,) * len(names),
        mask_values=values if task else {},
        pretrain=tuple(numbers[name] for name in names if name in seen),
        train=tuple(numbers[name] for name in parts["train"] if name in task),
        evaluation=tuple(numbers[name] for name in parts["val"] if name in task),
        notes=notes,
        target=options.target,
    )


def _pictures(folder: Path, part: str) -> list[str]:
    """Names relative to `folder`, sorted; none where the part is absent."""
    place = folder / "leftImg8bit" / part
    if not place.is_dir():
        return []
    return [f"leftImg8bit/{part}/{name}" for name in pictures(place, [END.lower()], below=True)]


def _mask(image: str) -> str:
    return "gtFine" + image.removeprefix("leftImg8bit").removesuffix(END) + "_gtFine_labelIds.png"


def _meaning(options: CityscapesOptions) -> dict[int, int]:
    void = IGNORE if options.void == "ignore" else BACKGROUND
    return dict.fromkeys(range(34), BACKGROUND) | dict.fromkeys(NOTHING, void) | {IDS[options.target]: OBJECT}


def _with_target(
    folder: Path, names: list[str], target: str, known: Collection[int], cache_dir: Path | str | None
) -> list[str]:
    held = values_held("cityscapes", folder, [_mask(name) for name in names], known, cache_dir)
    found = [name for name, values in zip(names, held, strict=True) if values is None or IDS[target] in values]
    if names and not found:
        raise AbsentData(f"{folder}: no image of train and val has a pixel of {target}; expected some")
    return found
