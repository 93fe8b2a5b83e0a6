"""The synthetic volumes: lung-like cubes with vessels and a nodule, each a function of (seed, number); nothing on disk.

A nodule and a vessel have the same range of densities; what tells them apart is the shape, a ball against a tube.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.listing import BACKGROUND, OBJECT, Listing, WrongRequest
from trainables.settings.datasets import NodulesOptions

VERSION = 1  # raise it when a voxel changes

Field = NDArray[np.float64]
Random = np.random.RandomState  # its stream is frozen for good, unlike that of numpy's newer generators


@dataclass(frozen=True)
class Painter:
    """Makes cube and mask of a number: uint8 [width, width, depth], 255 the densest, and 1 the nodule."""

    options: NodulesOptions

    def __call__(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        digest = hashlib.sha256(f"nodules/{VERSION}/{self.options.seed}/{number}".encode()).digest()
        return _paint(Random(np.frombuffer(digest, dtype=">u4").astype(np.uint32)), self.options)


def open_listing(data_root: Path, options: NodulesOptions) -> Listing:
    """Half of the cubes train, a fifth validates, the rest evaluates; pretraining sees those that train.

    Raises:
        WrongRequest: fewer than 8 cubes, or sides too small to hold a nodule.
    """
    if options.count < 8 or options.width < 16 or options.depth < 8:
        raise WrongRequest(
            "nodules: count must be at least 8, width 16 and depth 8, "
            f"but got {options.count}, {options.width}, {options.depth}"
        )
    names = tuple(f"{number:06d}" for number in range(options.count))
    first, second = options.count // 2, options.count // 2 + options.count // 5
    return Listing(
        reader="nodules",
        folder=Path("(synthetic)"),
        images=names,
        masks=names,
        labels=(None,) * options.count,
        mask_values={0: BACKGROUND, 1: OBJECT},
        pretrain=tuple(range(first)),
        train=tuple(range(first)),
        validation=tuple(range(first, second)),
        evaluation=tuple(range(second, options.count)),
        target="nodule",
        draw=Painter(options),
        identity=f"nodules {VERSION} {asdict(options)}",
        kind="cubes",
    )


def _paint(random: Random, options: NodulesOptions) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    width, depth = options.width, options.depth
    grid = np.indices((width, width, depth), dtype=np.float64)
    unit = width / 64  # lengths below are voxels of a 64-wide cube
    tissue = 0.15 + 0.05 * _clouds(random, (width, width, depth))
    for _ in range(random.randint(3, 7)):
        tissue = np.maximum(tissue, _vessel(random, grid, unit))
    distance = _nodule(random, grid, unit)
    density = random.uniform(0.45, 0.75)
    tissue = np.maximum(tissue, density / (1 + np.exp(4 * distance)))
    if random.rand() < 0.3:
        tissue = np.maximum(tissue, _wall(random, grid))
    noisy = tissue + random.normal(0, 0.03, tissue.shape)
    return (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8), (distance < 0).astype(np.uint8)


def _nodule(random: Random, grid: Field, unit: float) -> Field:
    """Signed distance in voxels to a slightly uneven ellipsoid near the centre; negative inside."""
    sides = np.array(grid.shape[1:])
    centre = sides * random.uniform(0.35, 0.65, 3)
    radius = min(random.uniform(4, 11) * unit, 0.4 * sides[2])
    offset = [(axis - c) / stretch for axis, c, stretch in zip(grid, centre, random.uniform(0.8, 1.2, 3), strict=True)]
    far = np.sqrt(sum(o**2 for o in offset))
    uneven = 1 + 0.12 * sum(np.sin(o / radius * random.uniform(2, 4) + random.uniform(0, 6)) for o in offset)
    distance: Field = far - radius * uneven
    return distance


def _vessel(random: Random, grid: Field, unit: float) -> Field:
    """A bent tube through the cube, as dense as a nodule may be."""
    sides = np.array(grid.shape[1:])
    point, along = sides * random.rand(3), random.normal(size=3)
    along /= np.linalg.norm(along)
    way = [axis - p for axis, p in zip(grid, point, strict=True)]
    run = sum(w * a for w, a in zip(way, along, strict=True))
    bend, wave = random.uniform(0, 3 * unit, 3), random.uniform(0.05, 0.15) / unit
    across = [w - run * a - b * np.sin(run * wave) for w, a, b in zip(way, along, bend, strict=True)]
    far = np.sqrt(sum(a**2 for a in across)) - random.uniform(1, 3) * unit
    tube: Field = random.uniform(0.4, 0.75) / (1 + np.exp(4 * far))
    return tube


def _wall(random: Random, grid: Field) -> Field:
    """The chest wall: dense beyond a plane near a face."""
    axis, share = random.randint(2), random.uniform(0.02, 0.15)
    place = grid[axis] if random.rand() < 0.5 else grid.shape[1 + axis] - 1 - grid[axis]
    wall: Field = 0.6 / (1 + np.exp(2 * (place - share * grid.shape[1 + axis])))
    return wall


def _clouds(random: Random, shape: tuple[int, ...]) -> Field:
    """Smooth noise of mean 0 and deviation 1."""
    waves = [np.fft.fftfreq(side) * 64 for side in shape[:2]] + [np.fft.rfftfreq(shape[2]) * 64]
    square = sum(w.reshape([-1 if n == axis else 1 for n in range(3)]) ** 2 for axis, w in enumerate(waves))
    spectrum = np.fft.rfftn(random.normal(size=shape)) * np.exp(-square / (2 * 6.0**2))
    noise = np.fft.irfftn(spectrum, s=shape, axes=(0, 1, 2))
    clouds: Field = (noise - noise.mean()) / noise.std()
    return clouds
