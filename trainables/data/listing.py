"""What a dataset holds, as plain data: names, numbers, and what mask values mean. No torch, no decoding."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

BACKGROUND, OBJECT, IGNORE = 0, 1, 255
PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
COLOUR = 1 << 24  # tells the value of a colour from that of a grey level

Draw = Callable[[int], tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]
Kind = Literal["pictures", "cubes", "scans"]


class DataError(Exception):
    """A fault of the data or of the request for it. The message is for the user."""


class AbsentData(DataError):
    """The data are not there, or nothing of them. What needs them waits for them; it is no wrong request."""


class WrongRequest(DataError):
    """No such dataset or option: the data have not been looked at."""


@dataclass(frozen=True)
class Listing:
    """A dataset as a segmentation task, an image classification task and a source of images for pretraining.

    Attributes:
        reader: name in `READERS`.
        folder: where the dataset lies; `images` and `masks` are relative to it, with forward slashes.
        images: one name per image; an image's place in this tuple is its *number*.
        masks: name of the mask of each image, None where it has none.
        labels: class number (from 0) of each image as a whole, None where it has none.
        mask_values: pixel value in the file -> class number 0..C-1, or 255: not counted. A value that is not in it is
            an error. The value of a colour mask's pixel is `colour_value(r, g, b)`.
        pretrain: numbers that pretraining may see. Supervised pretraining uses those of them with a mask (or a label).
        pool: annotated images that a fraction is drawn from; the others of the pool evaluate.
        train, evaluation: the official parts, where the task has them; then `pool` is empty.
        notes: what was counted otherwise than expected; for the user, no error.
        target: name of the object, for messages.
        exclusive: pixel values of which only one may occur in the whole set, else their meaning is unclear.
        draw: makes image and mask of a number, where nothing lies on the disk: uint8 [H, W, 3] and [H, W]; of volumes
            uint8 [X, Y, Z] both.
        identity: what stands for the file contents in the fingerprint then.
        classes: names of the mask classes by number; default `("background", target)`. Two classes are a binary task,
            class 1 its object. Empty where no image has a mask.
        label_names: names of the image classes by number; empty where the set does not name them.
        validation: the official part that chooses among weights; it neither trains nor evaluates.
        kind: `pictures`; `cubes`: volumes of one shape, many in a file, named `FILE#INDEX` (see `cubes`); `scans`:
            whole volumes of any shape, from which a `prepare` stage cuts cubes (see `scans`).
        groups: what each image shows as a whole, by name, None where that is not known; also of images without a
            label. It only describes: nothing trains on it, so it is no part of the fingerprint. See `group_names`.
        label_source: of a set whose labels were read from masks those masks with their images, and the masks that
            could not be read. The survey judges them too; the fingerprint holds the labels themselves instead.
    """

    reader: str
    folder: Path
    images: tuple[str, ...]
    masks: tuple[str | None, ...]
    labels: tuple[int | None, ...]
    mask_values: Mapping[int, int]
    pretrain: tuple[int, ...]
    pool: tuple[int, ...] = ()
    train: tuple[int, ...] = ()
    evaluation: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    target: str = "object"
    exclusive: tuple[int, ...] = ()
    draw: Draw | None = field(default=None, compare=False)
    identity: str = ""
    classes: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    validation: tuple[int, ...] = ()
    kind: Kind = "pictures"
    groups: tuple[str | None, ...] = ()
    label_source: Listing | None = None

    def __post_init__(self) -> None:
        if not self.classes and self.mask_values:
            object.__setattr__(self, "classes", ("background", self.target))

    @property
    def annotated(self) -> tuple[int, ...]:
        """Numbers of the images that the segmentation task uses."""
        return self.pool + self.train + (self.validation if self.train else ()) + self.evaluation

    @property
    def labelled(self) -> tuple[int, ...]:
        """Numbers of the images that have a label."""
        return tuple(number for number, label in enumerate(self.labels) if label is not None)

    @property
    def group_names(self) -> tuple[str | None, ...]:
        """For each image its group; of a set that tells none, the name of its label."""
        names = self.label_names
        return self.groups or tuple(
            None if label is None else names[label] if names else f"class {label}" for label in self.labels
        )

    @property
    def group_digest(self) -> str:
        """What stands for `group_names` in the key of a stage that counts them."""
        return hashlib.sha256(json.dumps(self.group_names).encode()).hexdigest()

    def file(self, name: str) -> str:
        """The file that holds the image or mask `name`."""
        return name.partition("#")[0] if self.kind == "cubes" else name


def colour_value(red: int, green: int, blue: int) -> int:
    """The pixel value that stands for a colour in `mask_values`; a grey is its grey level."""
    return red if red == green == blue else COLOUR | red << 16 | green << 8 | blue


def show_value(value: int) -> str:
    """A pixel value as people write it: `7`, or `(128, 0, 0)` for a colour."""
    if value < COLOUR:
        return str(value)
    return f"({value >> 16 & 255}, {value >> 8 & 255}, {value & 255})"


def find_folder(data_root: Path, names: Sequence[str], holds: str) -> Path:
    """The dataset's folder below `data_root`, by any of `names` in any spelling (case, `-`, `_`, spaces).

    Args:
        names: accepted names, the preferred first.
        holds: what is expected in the folder, for the message.

    Raises:
        AbsentData: there is none; names all accepted names.
        DataError: the data root is no folder, or not readable.
    """
    try:
        present = sorted(entry.name for entry in os.scandir(data_root) if entry.is_dir())
    except OSError as error:
        raise _unreadable(
            error, f"{data_root}: cannot read the data root ({error.strerror}); it holds the datasets"
        ) from None
    by_spelling = {_spelling(name): name for name in reversed(present)}
    for name in names:
        if name in present:
            return data_root / name
    for name in names:
        if found := by_spelling.get(_spelling(name)):
            return data_root / found
    raise AbsentData(f"{data_root}: no folder {' or '.join(names)}; expected one with {holds}")


def _unreadable(error: OSError, text: str) -> DataError:
    """What is not there is absent; what is there and cannot be read is a fault."""
    return AbsentData(text) if isinstance(error, FileNotFoundError) else DataError(text)


def _spelling(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def pictures(folder: Path, extensions: Iterable[str] = PICTURE_EXTENSIONS, *, below: bool = False) -> list[str]:
    """Sorted names of the pictures in `folder`, relative to it; hidden files (`._*`, `.DS_Store`) are left out.

    Args:
        below: look into subfolders too.

    Raises:
        AbsentData: there is no such folder.
        DataError: the folder cannot be read.
    """
    found: list[str] = []
    wanted = tuple(extensions)

    def look(path: Path, prefix: str) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(wanted):
                    found.append(prefix + entry.name)
                elif below and entry.is_dir():
                    look(Path(entry.path), f"{prefix}{entry.name}/")

    try:
        look(folder, "")
    except OSError as error:
        raise _unreadable(
            error, f"{folder}: cannot read this folder ({error.strerror}); expected one with pictures"
        ) from None
    return sorted(found)


def read_lines(path: Path, expected: str) -> list[str]:
    """The lines of a text list, stripped, without empty ones and `#` comments.

    Raises:
        AbsentData: there is no such file.
        DataError: the file is unreadable, or no UTF-8 text; a NUL is none, as no file name can hold it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unreadable(error, f"{path}: cannot read this list ({error.strerror}); expected {expected}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: this list is no UTF-8 text; expected {expected}") from None
    if "\0" in text:
        raise DataError(f"{path}: this list holds NUL bytes, so it is no text; expected {expected}")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_mat(path: Path, variable: str) -> list[int]:
    """The numbers of a one-dimensional variable of a MATLAB file.

    Raises:
        AbsentData: there is no such file.
        DataError: the file is unreadable or has no such variable.
    """
    from scipy.io import loadmat

    expected = f"a MATLAB file with the numbers {variable!r}"
    try:
        content = loadmat(path, variable_names=[variable])
        return [int(number) for number in np.asarray(content[variable]).ravel()]
    except FileNotFoundError:
        raise AbsentData(f"{path}: no such file; expected {expected}") from None
    except KeyError:
        raise DataError(f"{path}: no variable {variable!r} in it; expected {expected}") from None
    except Exception as error:  # scipy raises many kinds for a broken file
        raise DataError(f"{path}: cannot read this list ({error}); expected {expected}") from None


def count_note(what: str, found: int, expected: int) -> tuple[str, ...]:
    """A note where a count is not the published one, else nothing."""
    return () if found == expected else (f"{what}: {found}, the published set has {expected}",)
