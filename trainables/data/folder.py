"""Any set of pictures and masks with equal stems.

PATH/images/NAME.png        png, jpg, tif or bmp; subfolders are part of NAME
PATH/masks/NAME.png         grey or palette: class numbers; absent: the set serves for pretraining only
PATH/splits/train.txt       names, one a line, with test.txt (or val.txt): the official parts; absent: a pool
PATH/splits/unlabelled.txt  names of images that have no mask on purpose; they serve for pretraining
PATH/classes.yaml           `value: name`, one a line; absent: binary, 0 is background and 1 or 255 the object

Task: the class `target` against the rest, or, with `target: "*"`, all classes: they are numbered 0..C-1 in the order of
their pixel values, values of one name are one class, and values in `ignore` are neither classes nor counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.listing import (
    BACKGROUND,
    IGNORE,
    OBJECT,
    PICTURE_EXTENSIONS,
    AbsentData,
    DataError,
    Listing,
    WrongRequest,
    pictures,
    read_lines,
)
from trainables.settings.datasets import FolderOptions

EVERY_CLASS = "*"
HOLDS = "images/, and masks/ with equal stems"
NAMES = "image names, one a line"
CLASSES = "`value: name`, one a line, such as `8: car`"


def open_listing(data_root: Path, options: FolderOptions) -> Listing:
    """Task: the class `target` against the rest, or all classes. Pretraining: all images, of every part, or without
    those that evaluate. Labels: by the file's prefix, by its subfolder, or none.

    With train and test (or val) lists the task has official parts: test.txt goes before val.txt. Without them all
    images but the unlabelled ones are the pool.

    Raises:
        AbsentData: no such folder; no picture in it.
        WrongRequest: `path` leads to something else; no such target class.
        DataError: a list or classes.yaml unreadable; a listed name without an image.
    """
    if not options.path:
        raise WrongRequest("options of folder: `path` is missing; expected a folder with " + HOLDS)
    folder = data_root / options.path
    if not folder.exists():
        raise AbsentData(f"{folder}: no such folder; expected one with {HOLDS}")
    if not (folder / "images").is_dir():
        raise WrongRequest(f"{folder}: `path` of the dataset leads here, but there is no images/; expected {HOLDS}")
    images = _by_stem(folder, "images")
    if not images:
        raise AbsentData(f"{folder / 'images'}: no picture in it; expected {', '.join(PICTURE_EXTENSIONS)}")
    masks = _by_stem(folder, "masks") if (folder / "masks").is_dir() else {}
    numbers = {stem: number for number, stem in enumerate(images)}
    unlabelled = _part(folder, "unlabelled", numbers) or ()
    train, evaluation, pool, notes = _parts(folder, numbers, set(unlabelled), bool(masks))
    if extra := sorted(set(masks) - set(images)):
        notes += (f"folder: {len(extra)} masks have no image, {masks[extra[0]]} the first",)
    labels, label_names = _labels(options, list(images))
    held_out = set(evaluation) if options.pretrain == "no-evaluation" else set()
    meaning = _meaning(folder, options) if masks else _Meaning({}, (), "object")
    return Listing(
        reader="folder",
        folder=folder,
        images=tuple(images.values()),
        masks=tuple(masks.get(stem) for stem in images),
        labels=labels,
        mask_values=meaning.values,
        pretrain=tuple(number for number in range(len(images)) if number not in held_out),
        pool=pool,
        train=train,
        evaluation=evaluation,
        notes=notes,
        target=meaning.target,
        exclusive=meaning.exclusive,
        classes=meaning.classes,
        label_names=label_names,
    )


def _labels(options: FolderOptions, stems: list[str]) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """(label of each image, names of the labels)."""
    if options.labels == "none":
        return (None,) * len(stems), ()
    separator = "_" if options.labels == "prefix" else "/"
    names = [(stem.rpartition("/")[2] if separator == "_" else stem).partition(separator) for stem in stems]
    for stem, (_, found, _) in zip(stems, names, strict=True):
        if not found:
            raise DataError(
                f"options of folder: labels is {options.labels!r}, but the image {stem!r} has no {separator!r}"
            )
    classes = tuple(sorted({name for name, _, _ in names}))
    return tuple(classes.index(name) for name, _, _ in names), classes


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


@dataclass(frozen=True)
class _Meaning:
    """What pixel values mean (see `Listing`)."""

    values: dict[int, int]
    classes: tuple[str, ...]
    target: str
    exclusive: tuple[int, ...] = ()


def _meaning(folder: Path, options: FolderOptions) -> _Meaning:
    if any(not isinstance(value, int) for value in options.ignore):
        raise WrongRequest(f"options of folder: ignore must be pixel values, but got {options.ignore!r}")
    ignored = dict.fromkeys(options.ignore, IGNORE)
    classes = _classes(folder, options.classes)
    if not classes:
        if options.target:
            raise WrongRequest(
                f"{folder}: target {options.target!r}, but no classes; expected classes.yaml with {CLASSES}"
            )
        binary = {0: BACKGROUND, 1: OBJECT, 255: OBJECT} | ignored
        exclusive = tuple(v for v, meaning in binary.items() if meaning == OBJECT)
        return _Meaning(binary, ("background", "object"), "object", exclusive)
    if options.target == EVERY_CLASS:
        return _every_class(folder, classes, ignored)
    ground = {value for value, name in classes.items() if name == "background"} or {0}
    named = sorted({name for value, name in classes.items() if value not in ground and value not in ignored})
    target = options.target or (named[0] if len(named) == 1 else "")
    if target not in classes.values():
        allowed = ", ".join(sorted(set(classes.values())))
        raise WrongRequest(
            f"options of folder: target must be one of {allowed}, or *, but got {options.target!r} ({folder})"
        )
    meaning = {value: OBJECT if name == target else BACKGROUND for value, name in classes.items()}
    return _Meaning(meaning | ignored, ("background", target), target)


def _every_class(folder: Path, classes: Mapping[int, str], ignored: Mapping[int, int]) -> _Meaning:
    counted = {value: name for value, name in sorted(classes.items()) if value not in ignored}
    names = tuple(dict.fromkeys(counted.values()))
    if not 2 <= len(names) < IGNORE:
        raise WrongRequest(f"options of folder: target '*' needs 2 to 254 classes, but got {len(names)} ({folder})")
    return _Meaning({value: names.index(name) for value, name in counted.items()} | dict(ignored), names, EVERY_CLASS)


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
    except RecursionError:
        raise DataError(f"{path}: cannot be read (nested too deeply); expected {CLASSES}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: what only looks like a date
        raise DataError(f"{path}: cannot be read ({error}); expected {CLASSES}") from None
