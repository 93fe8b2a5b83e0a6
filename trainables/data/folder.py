"""Any set of pictures and masks with equal stems.

PATH/images/NAME.png        png, jpg, tif or bmp; subfolders are part of NAME
PATH/masks/NAME.png         grey or palette: class numbers; absent: the set serves for pretraining only
PATH/splits/train.txt       names, one a line, with test.txt (or val.txt): the official parts; absent: a pool
PATH/splits/unlabelled.txt  names of images that have no mask on purpose; they serve for pretraining
PATH/classes.yaml           `value: name`, one a line; absent: binary, 0 is background and 1 or 255 the object
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.data.listing import (
    BACKGROUND,
    IGNORE,
    OBJECT,
    PICTURE_EXTENSIONS,
    DataError,
    Listing,
    pictures,
    read_lines,
)
from trainables.settings.datasets import FolderOptions

HOLDS = "images/, and masks/ with equal stems"
NAMES = "image names, one a line"
CLASSES = "`value: name`, one a line, such as `8: car`"


def open_listing(data_root: Path, options: FolderOptions) -> Listing:
    """Task: the class `target` against the rest. Pretraining: all images, those of every part included.

    With train and test (or val) lists the task has official parts: test.txt goes before val.txt. Without them all
    images but the unlabelled ones are the pool.

    Raises:
        DataError: no such folder; no picture in it; a list or classes.yaml unreadable; a listed name without an
            image; no such target class.
    """
    if not options.path:
        raise DataError("options of folder: `path` is missing; expected a folder with " + HOLDS)
    folder = data_root / options.path
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with {HOLDS}")
    images = _by_stem(folder, "images")
    if not images:
        raise DataError(f"{folder / 'images'}: no picture in it; expected {', '.join(PICTURE_EXTENSIONS)}")
    masks = _by_stem(folder, "masks") if (folder / "masks").is_dir() else {}
    numbers = {stem: number for number, stem in enumerate(images)}
    unlabelled = _part(folder, "unlabelled", numbers) or ()
    train, evaluation, pool, notes = _parts(folder, numbers, set(unlabelled), bool(masks))
    if extra := sorted(set(masks) - set(images)):
        notes += (f"folder: {len(extra)} masks have no image, {masks[extra[0]]} the first",)
    meaning, target, exclusive = _meaning(folder, options) if masks else ({}, "object", ())
    return Listing(
        reader="folder",
        folder=folder,
        images=tuple(images.values()),
        masks=tuple(masks.get(stem) for stem in images),
        labels=(None,) * len(images),
        mask_values=meaning,
        pretrain=tuple(range(len(images))),
        pool=pool,
        train=train,
        evaluation=evaluation,
        notes=notes,
        target=target,
        exclusive=exclusive,
    )


def _by_stem(folder: Path, part: str) -> dict[str, str]:
    """Stem -> name relative to `folder`, sorted."""
    found: dict[str, str] = {}
    for name in pictures(folder / part, below=True):
        stem = name.rpartition(".")[0]
        if stem in found:
            raise DataError(f"{folder / part / name}: {found[stem]} has the same stem; expected one file for each")
        found[stem] = f"{part}/{name}"
    return found


def _parts(
    folder: Path, numbers: Mapping[str, int], unlabelled: set[int], masked: bool
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """(train, evaluation, pool, notes)."""
    if not masked:
        return (), (), (), ()
    train, test, val = (_part(folder, name, numbers) for name in ("train", "test", "val"))
    if train is None and test is None and val is None:
        return (), (), tuple(n for n in numbers.values() if n not in unlabelled), ()
    evaluation = val if test is None else test
    if train is None or evaluation is None:
        raise DataError(f"{folder / 'splits'}: expected train.txt with test.txt or val.txt, or none of them")
    if both := set(train) & set(evaluation):
        name = next(stem for stem, number in numbers.items() if number in both)
        raise DataError(f"{folder / 'splits'}: {len(both)} images train and evaluate, {name} the first; expected none")
    rest = len(numbers) - len({*train, *evaluation, *unlabelled})
    notes = (f"folder: {rest} images stand in none of the lists used and serve for pretraining only",) if rest else ()
    return train, evaluation, (), notes


def _part(folder: Path, name: str, numbers: Mapping[str, int]) -> tuple[int, ...] | None:
    """The image numbers of a list, each once; None when there is no such list."""
    path = folder / "splits" / f"{name}.txt"
    if not path.exists():
        return None
    found: dict[int, None] = {}
    for line in read_lines(path, NAMES):
        stem = line if line in numbers else _without_extension(line)
        if stem not in numbers:
            raise DataError(f"{path}: no image of the name {line!r} in {folder / 'images'}; expected {NAMES}")
        found[numbers[stem]] = None
    return tuple(found)


def _without_extension(name: str) -> str:
    return name.rpartition(".")[0] if name.lower().endswith(PICTURE_EXTENSIONS) else name


def _meaning(folder: Path, options: FolderOptions) -> tuple[dict[int, int], str, tuple[int, ...]]:
    """(mask_values, name of the target, exclusive values)."""
    if any(not isinstance(value, int) for value in options.ignore):
        raise DataError(f"options of folder: ignore must be pixel values, but got {options.ignore!r}")
    ignored = dict.fromkeys(options.ignore, IGNORE)
    classes = _classes(folder, options.classes)
    if not classes:
        if options.target:
            raise DataError(
                f"{folder}: target {options.target!r}, but no classes; expected classes.yaml with {CLASSES}"
            )
        binary = {0: BACKGROUND, 1: OBJECT, 255: OBJECT} | ignored
        return binary, "object", tuple(v for v, meaning in binary.items() if meaning == OBJECT)
    ground = {value for value, name in classes.items() if name == "background"} or {0}
    named = sorted({name for value, name in classes.items() if value not in ground and value not in ignored})
    target = options.target or (named[0] if len(named) == 1 else "")
    if target not in classes.values():
        allowed = ", ".join(sorted(set(classes.values())))
        raise DataError(f"options of folder: target must be one of {allowed}, but got {options.target!r} ({folder})")
    meaning = {value: OBJECT if name == target else BACKGROUND for value, name in classes.items()}
    return meaning | ignored, target, ()


def _classes(folder: Path, given: Mapping[str, str]) -> dict[int, str]:
    """Pixel value -> name, from the options, else from classes.yaml, else none."""
    path = folder / "classes.yaml"
    where, content = ("options of folder: classes", dict(given)) if given else (str(path), _read_yaml(path))
    try:
        return {int(value): str(name) for value, name in dict(content).items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}; expected {CLASSES}") from None


def _read_yaml(path: Path) -> Any:
    import yaml

    if not path.exists():
        return {}
    try:
        return yaml.safe_load(path.read_bytes()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected {CLASSES}") from None
