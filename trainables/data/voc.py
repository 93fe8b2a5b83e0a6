"""Pascal VOC 2012: one class against the rest on the images that hold it, all 21 classes, or four as image labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import get_args

from trainables.data.holding import values_held
from trainables.data.listing import (
    BACKGROUND,
    IGNORE,
    OBJECT,
    AbsentData,
    DataError,
    Listing,
    count_note,
    find_folder,
    read_lines,
)
from trainables.settings.datasets import VOCClass, VOCFourOptions, VOCOptions

LOOKS_INSIDE = True  # its lists depend on mask pixels, which the node's manifest remembers
FOLDERS = ("VOCdevkit", "pascal_voc", "VOC2012", "pascal-voc-2012", "voc")
HOLDS = "VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets}"
NAMES = "image names, one a line"
CLASSES = ("background", *get_args(VOCClass)[1:])  # the first stands for all
VOID = 255
KNOWN = {*range(len(CLASSES)), VOID}
FOUR = ("motorbike", "car", "cat", "aeroplane")
# Images of the plain segmentation lists with a pixel of the class: P1 §5.1; aeroplane from the official counts.
PUBLISHED = {"aeroplane": (88, 90), "cat": (131, 119), "horse": (68, 79)}
SEGMENTED = (1464, 1449)
MAIN = 11_540


def open_listing(data_root: Path, options: VOCOptions | VOCFourOptions, cache_dir: Path | str | None = None) -> Listing:
    """Official parts by ImageSets/Segmentation; pixels of value 255 count as `options.void` says.

    Raises:
        AbsentData: the folder or its lists are missing.
        DataError: a list is unreadable, or an image trains and evaluates.
    """
    folder = _folder(data_root)
    train, val = (_list(folder, f"Segmentation/{part}") for part in ("train", "val"))
    if both := sorted(set(train) & set(val)):
        lists = folder / "ImageSets" / "Segmentation"
        raise DataError(f"{lists}: {len(both)} images train and evaluate, {both[0]} the first; expected none")
    notes = count_note("voc: train images with a segmentation", len(train), SEGMENTED[0])
    notes += count_note("voc: val images with a segmentation", len(val), SEGMENTED[1])
    names = list(dict.fromkeys((*train, *val)))
    held = dict(zip(names, values_held("voc", folder, [_mask(n) for n in names], KNOWN, cache_dir), strict=True))
    if isinstance(options, VOCFourOptions):
        return _four(folder, held, notes)
    return _task(folder, options, train, val, held, notes)


def _folder(data_root: Path) -> Path:
    base = find_folder(data_root, FOLDERS, HOLDS)
    for inner in (base / "VOCdevkit" / "VOC2012", base / "VOC2012", base):
        if (inner / "JPEGImages").is_dir():
            return inner
    raise AbsentData(f"{base}: no VOC2012/JPEGImages in it; expected {HOLDS}")


def _list(folder: Path, name: str) -> list[str]:
    return list(dict.fromkeys(read_lines(folder / "ImageSets" / f"{name}.txt", NAMES)))


def _image(name: str) -> str:
    return f"JPEGImages/{name}.jpg"


def _mask(name: str) -> str:
    return f"SegmentationClass/{name}.png"


def _task(
    folder: Path,
    options: VOCOptions,
    train: Sequence[str],
    val: Sequence[str],
    held: dict[str, frozenset[int] | None],
    notes: tuple[str, ...],
) -> Listing:
    parts = [[name for name in part if _in_task(options.target, held[name])] for part in (train, val)]
    for part, found, expected in zip(("train", "val"), parts, PUBLISHED.get(options.target, ()), strict=False):
        notes += count_note(f"voc: {part} images with {options.target} pixels", len(found), expected)
    task = {*parts[0], *parts[1]}
    if not task:
        raise AbsentData(f"{folder}: no image of the lists has a pixel of {options.target}; expected some")
    seen, more = _pretraining(folder, options, train, val, set(parts[0]), task)
    names = sorted(task | set(seen))
    numbers = {name: number for number, name in enumerate(names)}
    values, classes = _meaning(options.target, IGNORE if options.void == "ignore" else BACKGROUND)
    return Listing(
        reader="voc",
        folder=folder,
        images=tuple(map(_image, names)),
        masks=tuple(_mask(name) if name in task else None for name in names),
        labels=(None,) * len(names),
        mask_values=values,
        pretrain=tuple(sorted(numbers[name] for name in seen)),
        train=tuple(numbers[name] for name in parts[0]),
        evaluation=tuple(numbers[name] for name in parts[1]),
        notes=notes + more,
        target=options.target,
        classes=classes,
    )


def _in_task(target: str, held: frozenset[int] | None) -> bool:
    return target == "*" or held is None or CLASSES.index(target) in held


def _meaning(target: str, void: int = IGNORE) -> tuple[dict[int, int], tuple[str, ...]]:
    """(pixel value -> what it counts as, names of the classes); `void` is what value 255 counts as."""
    if target == "*":
        return {number: number for number in range(len(CLASSES))} | {VOID: void}, CLASSES
    values = dict.fromkeys(range(len(CLASSES)), BACKGROUND)
    return values | {CLASSES.index(target): OBJECT, VOID: void}, ("background", target)


def _pretraining(
    folder: Path,
    options: VOCOptions,
    train: Sequence[str],
    val: Sequence[str],
    task_train: Collection[str],
    task: Collection[str],
) -> tuple[set[str], tuple[str, ...]]:
    """(names of the images that pretraining sees, notes)."""
    if options.pretrain == "train":
        return {*train, *task_train}, ()
    segmented = {*train, *val}
    if options.pretrain == "segmentation":
        return segmented, ()
    if not (folder / "ImageSets" / "Main" / "trainval.txt").exists():
        return segmented, (f"voc: no ImageSets/Main/trainval.txt; pretraining sees the {len(segmented)} with masks",)
    main = _list(folder, "Main/trainval")
    return {*main, *task}, count_note("voc: images of Main/trainval", len(main), MAIN)


def _four(folder: Path, held: dict[str, frozenset[int] | None], notes: tuple[str, ...]) -> Listing:
    """Labels: the one of the four classes that an image holds; images that hold more, or none, are left out.

    Which label an image of two would get is *open*: it is dropped and counted. A mask that is missing or broken tells
    no label; it is left to the survey, which names its fault.
    """
    wanted = [CLASSES.index(name) for name in FOUR]
    found = {name: [value for value in wanted if value in (values or ())] for name, values in held.items()}
    names = sorted(name for name, values in found.items() if len(values) == 1)
    several, unread = sum(len(values) > 1 for values in found.values()), [n for n, v in held.items() if v is None]
    notes += (f"voc-four: {several} images hold two or more of {', '.join(FOUR)} and are left out",) if several else ()
    if not names:
        more = f", and {len(unread)} masks are missing or broken, {_mask(unread[0])} the first" if unread else ""
        raise DataError(f"{folder}: no image holds exactly one of {', '.join(FOUR)}{more}; expected some in the lists")
    return Listing(
        reader="voc",
        folder=folder,
        images=tuple(map(_image, names)),
        masks=(None,) * len(names),
        labels=tuple(wanted.index(found[name][0]) for name in names),
        mask_values={},
        pretrain=tuple(range(len(names))),
        notes=notes,
        label_names=FOUR,
        label_source=_masks_of(folder, sorted({*names, *unread})),
    )


def _masks_of(folder: Path, names: Sequence[str]) -> Listing:
    """Images with their masks of all classes, of which nothing trains or evaluates."""
    values, classes = _meaning("*")
    images, masks = tuple(map(_image, names)), tuple(map(_mask, names))
    return Listing("voc", folder, images, masks, (None,) * len(names), values, pretrain=(), classes=classes)
