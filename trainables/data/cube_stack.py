"""Volumes of one shape as tensors in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.cubes import open_cubes, unit_scale
from trainables.data.decode import translate
from trainables.data.listing import DataError, Listing
from trainables.data.survey import survey
from trainables.data.threads import in_threads


@dataclass(frozen=True)
class CubeStack:
    """Volumes of one shape.

    Attributes:
        cubes: uint8 [N, X, Y, Z] where the set stores bytes (255 is 1), else float16 in [0, 1].
        masks: uint8 [N, X, Y, Z], class numbers, 255 not counted; None when not asked for.
        labels: int64 [N] (of LUNA16 the fold), -1 where a volume has none; None when none has one.
    """

    cubes: Tensor
    masks: Tensor | None
    labels: Tensor | None = None

    def images(self, rows: Tensor | slice) -> Tensor:
        """Some of the cubes as float32 in [0, 1], [n, 1, X, Y, Z], on the device that they are on."""
        return as_images(self.cubes[rows])


def as_images(cubes: Tensor) -> Tensor:
    """Stored cubes [n, X, Y, Z], bytes or halves, as float32 in [0, 1], [n, 1, X, Y, Z]."""
    scale = 255.0 if cubes.dtype == torch.uint8 else 1.0
    return cubes.float().unsqueeze(1) / scale


def load_cubes(
    listing: Listing,
    numbers: Sequence[int],
    *,
    masks: bool,
    fingerprint: str | None = None,
    cache_dir: Path | str | None = None,
) -> CubeStack:
    """The volumes `numbers` of a listing of kind `cubes`, row i being `numbers[i]`.

    Args:
        fingerprint: of `survey(listing)`; when None, the survey is made here.

    Raises:
        DataError: the listing holds no cubes, or none of one shape; the survey found problems (when it is made here); a
            mask is missing or has an unknown value.
    """
    if listing.kind != "cubes":
        what = "whole scans; cut cubes from them by a `prepare` stage" if listing.kind == "scans" else "pictures"
        raise DataError(f"{listing.reader} ({listing.folder}): expected a dataset of cubes, but it holds {what}")
    if masks and (lacking := [n for n in numbers if listing.masks[n] is None]):
        raise DataError(f"{listing.folder / listing.images[lacking[0]]}: volume without a mask; expected one")
    if fingerprint is None:
        survey(listing, cache_dir=cache_dir).check()
    cubes, truth = _painted(listing, numbers) if listing.draw is not None else _stored(listing, numbers, masks)
    found = [listing.labels[number] for number in numbers]
    labels = None if all(v is None for v in found) else torch.tensor([-1 if v is None else v for v in found])
    return CubeStack(torch.from_numpy(cubes), torch.from_numpy(truth) if masks else None, labels)


def _painted(listing: Listing, numbers: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    draw = listing.draw
    assert draw is not None
    drawn = list(in_threads(draw, numbers))
    return np.stack([cube for cube, _ in drawn]), np.stack([mask for _, mask in drawn])


def _stored(listing: Listing, numbers: Sequence[int], masks: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    cubes = _rows(listing, [listing.images[number] for number in numbers])
    if not masks:
        return cubes, np.zeros(0, np.uint8)
    truth = _rows(listing, [str(listing.masks[number]) for number in numbers], whole=True)
    if truth.shape != cubes.shape:
        raise DataError(f"{listing.folder}: masks of shape {truth.shape[1:]} for cubes of shape {cubes.shape[1:]}")
    return cubes, translate(truth.astype(np.int32), listing.mask_values)


def _rows(listing: Listing, names: Sequence[str], whole: bool = False) -> NDArray[Any]:
    """The named volumes: uint8 where they are stored so or are masks of `whole` numbers, else float16."""
    files: dict[str, NDArray[Any]] = {}
    for file in dict.fromkeys(map(listing.file, names)):
        try:
            files[file] = open_cubes(listing.folder / file)
        except DataError as error:
            raise DataError(f"{listing.folder / file}: this file {error}") from None
    shapes = {array.shape[1:] for array in files.values()}
    if len(shapes) != 1:
        raise DataError(f"{listing.folder}: volumes of the shapes {sorted(shapes)}; expected one shape")
    as_bytes = whole or all(array.dtype == np.uint8 for array in files.values())
    rows = np.empty((len(names), *shapes.pop()), np.uint8 if as_bytes else np.float16)
    for row, name in enumerate(names):
        cube = files[listing.file(name)][int(name.rpartition("#")[2])]
        rows[row] = cube if as_bytes else cube / unit_scale(cube)
    return rows
