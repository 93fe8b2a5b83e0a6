"""Picture files to arrays. Whatever cannot be read whole and without guessing is refused with a message."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainables.data.listing import COLOUR, DataError, Listing, show_value

VERSION = 1  # raise it when a pixel changes
Values = NDArray[np.uint8] | NDArray[np.int32]
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def read_image(listing: Listing, number: int) -> Image.Image:
    """An image at its own size, RGB.

    Raises:
        DataError: it cannot be decoded.
    """
    if listing.draw is not None:
        return Image.fromarray(listing.draw(number)[0])
    path = listing.folder / listing.images[number]
    try:
        return as_image(open_picture(read(path)))
    except DataError as error:
        raise DataError(f"{path}: this image {error}") from None


def read_mask(listing: Listing, number: int) -> NDArray[np.uint8]:
    """A mask at its own size: class numbers, uint8 [H, W].

    Raises:
        DataError: it cannot be decoded, or holds a value that `mask_values` does not know.
    """
    if listing.draw is not None:
        return listing.draw(number)[1]
    path = listing.folder / str(listing.masks[number])
    try:
        return translate(as_mask(open_picture(read(path))), listing.mask_values)
    except DataError as error:
        raise DataError(f"{path}: this mask {error}") from None


def open_picture(content: bytes) -> Image.Image:
    """Decode a whole picture file.

    Raises:
        DataError: unreadable, truncated, or too large to be meant; the message names no file.
    """
    try:
        picture = Image.open(io.BytesIO(content))
        if Image.MAX_IMAGE_PIXELS is not None and picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{picture.width} x {picture.height} pixels, more than Pillow's limit")
        picture.load()
    except Exception as error:  # the decoders raise many kinds for broken files
        raise DataError(f"cannot be decoded ({_reason(error)}); expected a whole picture") from None
    return picture


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture format that Pillow knows"
    return str(error) or type(error).__name__


def as_image(picture: Image.Image) -> Image.Image:
    """A picture as RGB, 8 bits; grey becomes three equal channels, an alpha channel is dropped.

    Raises:
        DataError: more than 8 bits a channel; how to scale them is not ours to guess.
    """
    if picture.mode in _DEEP:
        raise DataError(f"has more than 8 bits a channel (mode {picture.mode}); expected 8-bit grey or colour")
    return picture.convert("RGB")


def digest(picture: Image.Image) -> str:
    """A digest of the pixels, equal for copies of a picture however they were compressed without loss."""
    found = hashlib.blake2b(f"{picture.size}".encode(), digest_size=16)
    found.update(picture.tobytes())
    return found.hexdigest()


def as_mask(picture: Image.Image) -> Values:
    """The pixel values of a mask, [H, W]: grey level, palette number, or `colour_value` of a colour.

    They are uint8 where the picture has no others, which is much faster to count and to translate, else int32.

    Raises:
        DataError: a mode that holds no class numbers, or a mask that is partly transparent.
    """
    if picture.mode in ("L", "P"):
        return np.asarray(picture)
    if picture.mode in ("1", "I", "I;16", "I;16B", "I;16L", "I;16N"):
        return np.asarray(picture).astype(np.int32)
    if picture.mode in ("LA", "RGBA"):
        if np.asarray(picture.getchannel("A")).min(initial=255) < 255:
            raise DataError("is partly transparent; expected class numbers without transparency")
        return as_mask(picture.convert("L" if picture.mode == "LA" else "RGB"))
    if picture.mode == "RGB":
        red, green, blue = np.moveaxis(np.asarray(picture).astype(np.int32), 2, 0)
        grey = (red == green) & (green == blue)
        values: NDArray[np.int32] = np.where(grey, red, COLOUR | red << 16 | green << 8 | blue)
        return values
    raise DataError(f"has mode {picture.mode}; expected a mask in grey, palette or RGB colours")


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: it cannot be read; the message names no file.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); expected a picture") from None


def distinct(values: Values) -> NDArray[np.int64]:
    """The values that occur, sorted; by counting where they are small, which is much faster than by sorting."""
    if values.dtype == np.uint8 and values.ndim == 2:
        return np.flatnonzero(Image.fromarray(values).histogram())
    if _countable(values):
        return np.flatnonzero(np.bincount(values.ravel()))
    return np.unique(values).astype(np.int64)


def translate(values: Values, meaning: Mapping[int, int]) -> NDArray[np.uint8]:
    """Pixel values to class numbers and 255 by `mask_values`.

    Raises:
        DataError: a value without a meaning; the message names no file.
    """
    found = distinct(values)
    if unknown := [value for value in found.tolist() if value not in meaning]:
        raise DataError(unknown_values(unknown, meaning))
    classes = np.array([meaning[value] for value in found.tolist()], dtype=np.uint8)
    if not _countable(values):
        return classes[np.searchsorted(found, values)]
    table = np.zeros(int(found[-1]) + 1, np.uint8)
    table[found] = classes
    return table.take(values)


def _countable(values: Values) -> bool:
    return bool(values.size and values.min() >= 0 and values.max() < 1 << 16)


def unknown_values(unknown: Sequence[int], meaning: Mapping[int, int]) -> str:
    """The message about values that `mask_values` does not know."""
    shown = ", ".join(show_value(value) for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    allowed = ", ".join(show_value(value) for value in sorted(meaning))
    return f"holds the value{'s' if len(unknown) > 1 else ''} {shown}; allowed are {allowed}"
