"""Files of many volumes of one shape: .npy arrays [n, X, Y, Z] or [n, 1, X, Y, Z], as Models Genesis stores them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.listing import DataError

EXPECTED = "a .npy array [n, X, Y, Z] or [n, 1, X, Y, Z] of numbers"
_BLOCK = 16  # cubes looked at together
_READ = 1 << 22


def open_cubes(path: Path) -> NDArray[Any]:
    """The array [n, X, Y, Z] of a file, mapped: nothing is read yet.

    Raises:
        DataError: missing, truncated, no array of that shape, or pickled objects; the message names no file.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error}); expected {EXPECTED}") from None
    except (ValueError, EOFError) as error:
        raise DataError(f"cannot be read ({error}); expected {EXPECTED}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise DataError(f"holds no numbers; expected {EXPECTED}")
    if array.ndim == 5 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(f"has shape {list(array.shape)}; expected {EXPECTED}")
    return array


def cube_names(file: str, count: int) -> list[str]:
    """The names of the volumes in a file."""
    return [f"{file}#{index}" for index in range(count)]


def inspect_cubes(path: Path, mask: bool, record: dict[str, Any]) -> None:
    """Fill the manifest's record of a file: its shape, the values of masks, a digest of each volume.

    Raises:
        DataError: it cannot be read, has values outside [0, 1], or a mask with fractions; the message names no file.
    """
    record |= {"shape": [], "values": None, "pixels": None, "problem": None}
    array = open_cubes(path)
    record |= {"shape": list(array.shape), "sha256": _digest(path)}
    values: set[int] = set()
    digests: list[str] = []
    for block in _blocks(array):
        if mask:
            values |= {_whole(value) for value in np.unique(block).tolist()}
        else:
            _check_range(block)
            digests += [hashlib.blake2b(np.ascontiguousarray(cube).data, digest_size=16).hexdigest() for cube in block]
    if mask:
        record["values"] = sorted(values)
    else:
        record["pixels"] = digests


def unit_scale(array: NDArray[Any]) -> float:
    """What the values of a stored array are divided by to lie in [0, 1]: 255 for bytes."""
    return 255.0 if array.dtype == np.uint8 else 1.0


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for first in range(0, len(array), _BLOCK):
        yield np.asarray(array[first : first + _BLOCK])


def _check_range(block: NDArray[Any]) -> None:
    low, high = float(block.min()) / unit_scale(block), float(block.max()) / unit_scale(block)
    if not (low >= 0 and high <= 1):  # also when they are no numbers
        raise DataError(f"holds values from {low:g} to {high:g}; expected numbers in [0, 1] (HU -1000 is 0, 1000 is 1)")


def _whole(value: float) -> int:
    if not float(value).is_integer():
        raise DataError(f"holds the value {value:g}; expected a mask of whole numbers")
    return int(value)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while content := file.read(_READ):
            digest.update(content)
    return digest.hexdigest()
