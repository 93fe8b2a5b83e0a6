"""Images and masks as uint8 tensors of one size: decoded once per node, kept as files that all workers map."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainables.data import decode
from trainables.data.cache import cache_folder, turn
from trainables.data.listing import IGNORE, DataError, Listing
from trainables.data.survey import survey
from trainables.data.threads import in_threads

VERSION = 1  # raise it when a pixel changes

Arrays = dict[str, NDArray[Any]]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ImageStack:
    """Pictures of one size, in memory.

    Attributes:
        images: uint8 [N, 3, S, S], zero in the padding.
        masks: uint8 [N, S, S], class numbers (of a binary task 0 background, 1 object), 255 not counted (the padding
            too); None when not asked for.
        boxes: int64 [N, 4], top, left, height and width of the picture inside the padded square.
        labels: int64 [N], classes of the images as wholes, -1 where an image has none; None when none has one.
    """

    images: Tensor
    masks: Tensor | None
    boxes: Tensor
    labels: Tensor | None = None


def load_stack(
    listing: Listing,
    numbers: Sequence[int],
    size: int,
    *,
    masks: bool,
    fingerprint: str | None = None,
    cache_dir: Path | str | None = None,
) -> ImageStack:
    """The pictures `numbers` of `listing`, long side brought to `size`, centred in a zero-padded square [P1 §2.3].

    Images are resized bilinearly with antialias, masks by the nearest pixel. Consecutive images of one use are mapped
    (their memory is shared by all processes, what one writes stays its own), others are copied.

    Args:
        numbers: image numbers; row i of the result is `numbers[i]`.
        fingerprint: of `survey(listing)`; when None, the survey is made here.

    Raises:
        DataError: the survey found problems (when it is made here); a file cannot be decoded; a mask is missing.
    """
    if listing.kind != "pictures":
        raise DataError(f"{listing.reader} ({listing.folder}): holds volumes; expected a dataset of pictures here")
    if masks and (lacking := [n for n in numbers if listing.masks[n] is None]):
        raise DataError(f"{listing.folder / listing.images[lacking[0]]}: image without a mask; expected one")
    if fingerprint is None:
        found = survey(listing, cache_dir=cache_dir)
        found.check()
        fingerprint = found.fingerprint
    parts = [_images_part(listing, size)] + ([_masks_part(listing, size)] if masks else [])
    use, together = _decoded_together(listing, numbers, masks)
    arrays: Arrays = {}
    for part in parts:
        part = replace(part, name=part.name + use)
        arrays |= _stored(part, together, numbers, fingerprint, cache_folder(cache_dir) / "stacks")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return ImageStack(tensors["images"], tensors.get("masks"), tensors["boxes"], _labels(listing, numbers))


def _labels(listing: Listing, numbers: Sequence[int]) -> Tensor | None:
    labels = [listing.labels[number] for number in numbers]
    if all(label is None for label in labels):
        return None
    return torch.tensor([-1 if label is None else label for label in labels], dtype=torch.int64)


def _decoded_together(listing: Listing, numbers: Sequence[int], masks: bool) -> tuple[str, Sequence[int]]:
    """What is decoded along with `numbers`: all images of one use, so that every draw of them finds them ready.

    A segmentation task may be a few images of a set whose others only serve for pretraining.
    """
    asked, everything = set(numbers), range(len(listing.images))
    masked = [number for number in everything if listing.masks[number] is not None]
    uses = {"-masked": masked} if masks else {"-pretrain": sorted(listing.pretrain), "-labelled": listing.labelled}
    for name, use in uses.items():
        if asked.issubset(use):
            return ("", everything) if len(use) == len(everything) else (name, use)
    return "", everything


@dataclass(frozen=True)
class _Part:
    """Arrays that are decoded together: their row shapes and types, and what fills row `row` from picture `number`."""

    name: str
    rows: Mapping[str, tuple[tuple[int, ...], str]]
    fill: Callable[[Mapping[str, NDArray[Any]], int, int], None]


def _images_part(listing: Listing, size: int) -> _Part:
    def fill(arrays: Mapping[str, NDArray[Any]], row: int, number: int) -> None:
        picture = decode.read_image(listing, number)
        top, left, height, width = box = fit(picture.height, picture.width, size)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        arrays["images"][row, :, top : top + height, left : left + width] = np.asarray(resized).transpose(2, 0, 1)
        arrays["boxes"][row] = box

    return _Part(f"images-{size}", {"images": ((3, size, size), "u1"), "boxes": ((4,), "i8")}, fill)


def _masks_part(listing: Listing, size: int) -> _Part:
    def fill(arrays: Mapping[str, NDArray[Any]], row: int, number: int) -> None:
        arrays["masks"][row] = IGNORE
        if listing.masks[number] is not None:
            mask = Image.fromarray(decode.read_mask(listing, number))
            top, left, height, width = fit(mask.height, mask.width, size)
            resized = mask.resize((width, height), Image.Resampling.NEAREST)
            arrays["masks"][row, top : top + height, left : left + width] = np.asarray(resized)

    return _Part(f"masks-{size}", {"masks": ((size, size), "u1")}, fill)


def fit(height: int, width: int, size: int) -> Box:
    """Top, left, height and width of a picture whose long side becomes `size`, centred in the square."""
    long = max(height, width)
    new_height, new_width = (max(1, (2 * side * size + long) // (2 * long)) for side in (height, width))
    return (size - new_height) // 2, (size - new_width) // 2, new_height, new_width


def _stored(part: _Part, rows: Sequence[int], numbers: Sequence[int], fingerprint: str, stacks: Path) -> Arrays:
    """Pictures `numbers` of a part whose rows are the pictures `rows`, from its folder in the cache or made there."""
    key = hashlib.sha256(f"{VERSION}/{decode.VERSION}/{fingerprint}".encode()).hexdigest()[:24]
    folder = stacks / f"{key}-{part.name}"
    arrays = _mapped(part, folder, len(rows))
    if arrays is None:
        try:
            with turn(stacks / f"{folder.name}.lock") as alone:
                if alone:
                    _clear(folder)
                arrays = _mapped(part, folder, len(rows)) or _make(part, folder, rows)
        except OSError:  # the cache cannot be written or is full: decode just these rows, in memory
            return _decoded(part, numbers)
    row_of = {number: row for row, number in enumerate(rows)}
    return {name: _rows(array, [row_of[number] for number in numbers]) for name, array in arrays.items()}


def _rows(array: NDArray[Any], rows: list[int]) -> NDArray[Any]:
    first = rows[0] if rows else 0
    if rows == list(range(first, first + len(rows))):
        return np.asarray(array[first : first + len(rows)])
    return np.asarray(array[np.asarray(rows)])


def _mapped(part: _Part, folder: Path, count: int) -> Arrays | None:
    """The arrays in `folder`, mapped copy-on-write; None when they are not there or not as expected."""
    arrays: Arrays = {}
    for name, (shape, kind) in part.rows.items():
        try:
            array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="c")  # refuses pickled objects
        except (OSError, ValueError, EOFError):
            return None
        if array.shape != (count, *shape) or array.dtype != np.dtype(kind):
            return None
        arrays[name] = array
    return arrays


def _make(part: _Part, folder: Path, rows: Sequence[int]) -> Arrays:
    """Decode the pictures into files below a temporary name, then rename: others see all of it or nothing."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        files = {
            name: _reserve(temporary / f"{name}.npy", (len(rows), *shape), kind)
            for name, (shape, kind) in part.rows.items()
        }
        _fill(part, files, rows)
        for array in files.values():
            array.flush()
        del files
        try:
            temporary.rename(folder)
        except OSError:
            if _mapped(part, folder, len(rows)) is None:  # what lies there is broken
                shutil.rmtree(folder)
                temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    arrays = _mapped(part, folder, len(rows))
    if arrays is None:
        raise OSError(f"{folder} went away")
    return arrays


def _reserve(path: Path, shape: tuple[int, ...], kind: str) -> np.memmap[Any, Any]:
    """A new .npy file of zeros whose room on the disk is taken: writing to a mapped file on a full disk kills."""
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _decoded(part: _Part, numbers: Sequence[int]) -> Arrays:
    arrays: Arrays = {name: np.zeros((len(numbers), *shape), kind) for name, (shape, kind) in part.rows.items()}
    _fill(part, arrays, numbers)
    return arrays


def _fill(part: _Part, arrays: Mapping[str, NDArray[Any]], numbers: Sequence[int]) -> None:
    for _ in in_threads(lambda row: part.fill(arrays, row, numbers[row]), range(len(numbers))):
        pass


def _clear(folder: Path) -> None:
    """Remove what a killed process left half made."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
