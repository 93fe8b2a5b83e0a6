"""The prepare stage of Models Genesis: cubes of 64 x 64 x 32 voxels from CT scans, or from a set of ready ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.context import Context, Result, StageError
from trainables.data import DataError, Listing, open_dataset, survey
from trainables.data.cube_stack import load_cubes
from trainables.data.scans import read_scan
from trainables.data.threads import in_threads
from trainables.randomness import generator
from trainables.settings import parse
from trainables.settings.datasets import CubeSettings

LOWEST, HIGHEST = -1000.0, 1000.0  # HU that become 0 and 1
TISSUE = (-150.0 - LOWEST) / (HIGHEST - LOWEST)  # denser than air and lung
BELOW = 3  # voxels along z that the score of tissue looks at, itself included
TRAINING, VALIDATION = 0, 1  # parts
_CHUNK = 8  # scans between two signs of progress


def prepare_cubes(spec: Mapping[str, Any], context: Context) -> Result:
    """Cubes for 3D pretraining: as they are stored, or cut from scans at random places [genesis].

    Args:
        spec: data (reader, options: volumes), prepare (`CubeSettings`; its sizes serve for scans), seed.

    Returns:
        As tensors cubes [N, X, Y, Z] (float16 in [0, 1], or uint8 where 255 is 1), part int64 [N] (0 training, 1
        validation), sources int64 [N] (number of the volume in the listing). Facts: volumes, cubes, training,
        validation, and of scans those too short or with too much tissue (`without_cubes`).

    Raises:
        StageError: no volumes, or no cube qualifies; DataError: the dataset is missing or faulty.
    """
    settings, seed = parse(CubeSettings, spec["prepare"]), int(spec["seed"])
    data = spec["data"]
    listing = open_dataset(data["reader"], context.data_root, data.get("options"), cache_dir=context.cache_dir)
    if listing.kind == "pictures":
        raise StageError(f"cubes: {data['reader']} holds pictures; expected volumes, such as luna16 or nodules")
    found = survey(listing, cache_dir=context.cache_dir)
    found.check()
    context.check_data(data["reader"], found.fingerprint)
    numbers = sorted({*listing.pretrain, *listing.validation})
    if listing.kind == "cubes":
        cubes = load_cubes(listing, numbers, masks=False, fingerprint=found.fingerprint).cubes
        sources, without = numbers, 0
    else:
        cubes, sources = _cut_all(listing, numbers, settings, seed, context)
        without = len(numbers) - len(set(sources))
    held = set(listing.validation)
    part = torch.tensor([VALIDATION if number in held else TRAINING for number in sources])
    facts = {
        "volumes": len(numbers),
        "cubes": len(cubes),
        "training": int((part == TRAINING).sum()),
        "validation": int((part == VALIDATION).sum()),
        "without_cubes": without,
    }
    return Result({}, {"cubes": cubes, "part": part, "sources": torch.tensor(sources)}, facts)


def cut_cubes(scan: NDArray[Any], settings: CubeSettings, random: torch.Generator) -> NDArray[np.float16]:
    """Cubes of one scan in HU [X, Y, Z], as float16 [n, width, width, depth] in [0, 1]; none if it is too short.

    Places are uniform within the borders. A voxel scores 1 where it is tissue, else 0.5 where the next along z is; a
    cube whose mean score exceeds `tissue` is refused.
    """
    sides = np.array([settings.width, settings.width, settings.depth])
    borders = np.array([settings.border, settings.border, settings.border_z])
    room = np.array(scan.shape) - sides - (0, 0, BELOW) - 1 - 2 * borders  # the last start, counted from the first
    cubes = np.empty((settings.cubes, *sides), np.float16)
    count = 0
    for _ in range(settings.tries * settings.cubes if room.min() >= 0 else 0):
        if count == settings.cubes:
            break
        draw = torch.rand(3, dtype=torch.float64, generator=random).numpy()
        x, y, z = (borders + (draw * (room + 1)).astype(int)).tolist()
        block = scan[x : x + sides[0], y : y + sides[1], z : z + sides[2] + BELOW].astype(np.float32)
        block = (np.clip(block, LOWEST, HIGHEST) - LOWEST) / (HIGHEST - LOWEST)
        if _tissue_score(block, settings.depth) <= settings.tissue:
            cubes[count] = block[:, :, : settings.depth]
            count += 1
    return cubes[:count]


def _tissue_score(block: NDArray[np.float32], depth: int) -> float:
    dense = block >= TISSUE
    return float(np.where(dense[:, :, :depth], 1.0, 0.5 * dense[:, :, 1 : depth + 1]).mean())


def _cut_all(
    listing: Listing, numbers: list[int], settings: CubeSettings, seed: int, context: Context
) -> tuple[torch.Tensor, list[int]]:
    def cut(number: int) -> NDArray[np.float16]:
        path = listing.folder / listing.images[number]
        try:
            scan = read_scan(path)
        except DataError as error:
            raise DataError(f"{path}: this scan {error}") from None
        return cut_cubes(scan, settings, generator(seed, "cubes", listing.images[number]))

    cubes = np.empty((len(numbers) * settings.cubes, settings.width, settings.width, settings.depth), np.float16)
    sources: list[int] = []
    for first in range(0, len(numbers), _CHUNK):
        chunk = numbers[first : first + _CHUNK]
        for number, made in zip(chunk, in_threads(cut, chunk), strict=True):
            cubes[len(sources) : len(sources) + len(made)] = made
            sources += [number] * len(made)
        context.progress(first + len(chunk), len(numbers))
    if not sources:
        raise StageError(
            f"cubes: none of {len(numbers)} scans of {listing.folder} gave a cube of {settings.width} x "
            f"{settings.width} x {settings.depth}; lower prepare.border, prepare.border_z or the sides, or raise "
            "prepare.tissue"
        )
    return torch.from_numpy(cubes[: len(sources)]), sources
