"""The synthetic set: textured shapes on a textured ground, each image a function of (seed, number); nothing on disk.

Object and ground share one palette, so that no threshold on colour separates them. What tells them apart is texture:
objects carry regular patterns (stripes, checks, rings), the ground irregular ones (clouds, grain). A patch of other
colours may lie anywhere in the picture, so that an edge of colour is no sure sign of an object either.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.listing import DataError, Listing
from trainables.settings.datasets import ShapesOptions, TexturesOptions

VERSION = 1  # raise it when a pixel changes
TEXTURES, TRAIN_SHARE = ("stripes", "checks", "rings"), 0.75  # of `textures`

Field = NDArray[np.float64]
Random = np.random.RandomState  # its stream is frozen for good, unlike that of numpy's newer generators


@dataclass(frozen=True)
class Painter:
    """Makes image and mask of a number: uint8 [size, size, 3] and [size, size] (1 object, 0 ground)."""

    options: ShapesOptions

    def __call__(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return _paint(_random(self.options, number), self.options.size)


def open_listing(data_root: Path, options: ShapesOptions) -> Listing:
    """The listing of the synthetic set, or of the one with labels and parts; `data_root` is not looked at.

    Raises:
        DataError: a count below 1 or a size below 8.
    """
    if options.count < 1 or options.size < 8:
        raise DataError(
            f"shapes: count must be at least 1 and size at least 8, but got {options.count}, {options.size}"
        )
    names = tuple(f"{number:06d}" for number in range(options.count))
    numbers = tuple(range(options.count))
    labelled = isinstance(options, TexturesOptions)
    train = numbers[: max(1, round(TRAIN_SHARE * options.count))] if labelled else ()
    return Listing(
        reader="textures" if labelled else "shapes",
        folder=Path("(synthetic)"),
        images=names,
        masks=names,
        labels=tuple(texture(options, number) if labelled else None for number in numbers),
        mask_values={0: 0, 1: 1},
        pretrain=train or numbers,
        pool=() if labelled else numbers,
        train=train,
        evaluation=numbers[len(train) :] if labelled else (),
        target="shape",
        draw=Painter(options),
        identity=f"shapes {VERSION} {asdict(options)}",
        label_names=TEXTURES if labelled else (),
    )


def texture(options: ShapesOptions, number: int) -> int:
    """The texture of a picture's shapes, a place in `TEXTURES`: what `_paint` draws, in its order, without painting."""
    random, nowhere = _random(options, number), np.zeros((1, 1))
    _shape(random, nowhere, nowhere, 0.24, 0.42)
    if random.rand() < 0.3:
        _shape(random, nowhere, nowhere, 0.10, 0.16)
    random.uniform(size=2)  # direction and number of waves
    return int(random.randint(3))


def _random(options: ShapesOptions, number: int) -> Random:
    digest = hashlib.sha256(f"shapes/{VERSION}/{options.seed}/{number}".encode()).digest()
    return Random(np.frombuffer(digest, dtype=">u4").astype(np.uint32))


def _paint(random: Random, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size  # in units of the side, so that every size shows the same scene
    mask = _shape(random, x, y, 0.24, 0.42)
    if random.rand() < 0.3:
        mask |= _shape(random, x, y, 0.10, 0.16)
    texture = np.where(mask, _regular(random, x, y), _irregular(random, size))
    palette = _palette(random)
    image = _mix(texture, *palette)
    if random.rand() < 0.6:
        patch = _shape(random, x, y, 0.12, 0.30)
        image = np.where(patch[..., None], _mix(texture, *_palette(random)), image)
    angle = random.uniform(0, 2 * np.pi)
    light = 1 + random.uniform(0, 0.5) * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    image = image * light[..., None] + random.normal(0, 0.03, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask.astype(np.uint8)


def _shape(random: Random, x: Field, y: Field, smallest: float, largest: float) -> NDArray[np.bool_]:
    """An ellipse, polygon or star: the points nearer to a centre than a radius that depends on the angle."""
    centre_x, centre_y = random.uniform(0.25, 0.75, 2)
    turn = random.uniform(0, 2 * np.pi)
    stretch = random.uniform(0.7, 1.0)
    u = (x - centre_x) * np.cos(turn) + (y - centre_y) * np.sin(turn)
    v = ((y - centre_y) * np.cos(turn) - (x - centre_x) * np.sin(turn)) / stretch
    angle = np.arctan2(v, u)
    corners = random.randint(3, 7)
    kind = random.randint(3)
    if kind == 0:
        outline = np.ones_like(angle)
    elif kind == 1:
        half = np.pi / corners
        outline = np.cos(half) / np.cos(angle % (2 * half) - half)
    else:
        outline = 0.75 + 0.25 * np.cos(corners * angle)
    inside: NDArray[np.bool_] = np.hypot(u, v) < random.uniform(smallest, largest) * outline
    return inside


def _regular(random: Random, x: Field, y: Field) -> Field:
    """Stripes, checks or rings with values in [0, 1]."""
    angle = random.uniform(0, np.pi)
    waves = 2 * np.pi * random.uniform(5, 9)
    across = x * np.cos(angle) + y * np.sin(angle)
    along = y * np.cos(angle) - x * np.sin(angle)
    kind = random.randint(3)
    if kind == 0:
        wave = np.sin(waves * across)
    elif kind == 1:
        wave = np.sin(waves * across) * np.sin(waves * along)
    else:
        wave = np.sin(waves * np.hypot(x - random.rand(), y - random.rand()))
    regular: Field = 0.5 + 0.5 * np.tanh(3 * wave)
    return regular


def _irregular(random: Random, size: int) -> Field:
    """Clouds or grain: noise without frequencies above a limit, with values in [0, 1]."""
    limit = random.uniform(2, 7)  # waves per side
    fy = np.fft.fftfreq(size)[:, None] * size
    fx = np.fft.rfftfreq(size)[None, :] * size
    spectrum = np.fft.rfft2(random.normal(size=(size, size))) * np.exp(-(fx**2 + fy**2) / (2 * limit**2))
    noise = np.fft.irfft2(spectrum, s=(size, size))
    irregular: Field = 0.5 + 0.5 * np.tanh(1.5 * (noise - noise.mean()) / noise.std())
    return irregular


def _palette(random: Random) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two colours that differ enough for a texture to show."""
    first = random.rand(3)
    step = np.abs(random.normal(size=3))
    step *= 0.5 / np.linalg.norm(step)
    return first, np.where(first < 0.5, first + step, first - step)


def _mix(texture: Field, first: NDArray[Any], second: NDArray[Any]) -> Field:
    mixed: Field = texture[..., None] * first + (1 - texture[..., None]) * second
    return mixed
