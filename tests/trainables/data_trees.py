"""Small datasets in their official layouts, made of numbers, for the tests of the readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

FLOWER, GROUND, HARD, NOTHING = (128, 0, 0), (128, 128, 0), (128, 128, 128), (0, 0, 0)
VOC_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128, 128, 128, 128]


def save_image(path: Path, height: int = 20, width: int = 30, seed: int = 0) -> None:
    """A smooth colour picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)


def regions(height: int = 20, width: int = 30) -> np.ndarray:
    """Place of a pixel: 0 left third, 1 middle third, 2 right third, 3 the last row."""
    places = np.repeat(np.arange(width)[None] * 3 // width, height, axis=0)
    places[-1] = 3
    return places


def save_mask(path: Path, values: list, height: int = 20, width: int = 30, palette: list[int] | None = None) -> None:
    """A mask whose four regions have `values` (numbers, or colours)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.array(values, dtype=np.uint8)[regions(height, width)])
    if palette is not None:
        mask.putpalette(palette)
    mask.save(path)


def folder_set(root: Path, count: int = 6, values: list | None = None, splits: dict | None = None) -> Path:
    """`root` with images/ and masks/, stems p0, p1, ..."""
    for number in range(count):
        save_image(root / "images" / f"p{number}.png", seed=number)
        save_mask(root / "masks" / f"p{number}.png", values or [0, 255, 0, 0])
    for name, stems in (splits or {}).items():
        write(root / "splits" / f"{name}.txt", "\n".join(stems) + "\n")
    return root


def flowers17(root: Path, colour: bool, mat: bool) -> Path:
    """Images 1, 2, 81 and 100; all but 2 with a trimap: nothing | flower | ground, last row hard to tell."""
    numbers = [1, 81, 100]
    for number in [*numbers, 2]:
        save_image(root / "jpg" / f"image_{number:04d}.jpg", seed=number)
    for number in numbers:
        path = root / "trimaps" / f"image_{number:04d}.png"
        if colour:
            save_mask(path, [NOTHING, FLOWER, GROUND, HARD])
        else:
            save_mask(path, [0, 1, 3, 7], palette=VOC_PALETTE)
    if mat:
        savemat(root / "trimaps" / "imlist.mat", {"imlist": np.array([numbers])})
    else:
        write(root / "trimaps" / "imlist.txt", "\n".join(map(str, numbers)))
    return root


def flowers102(root: Path, count: int = 9) -> Path:
    """Images 1 to `count`, classes 1 to 3, a third of the images in each part."""
    for number in range(1, count + 1):
        save_image(root / "jpg" / f"image_{number:05d}.jpg", seed=number)
    numbers = np.arange(1, count + 1)
    savemat(root / "imagelabels.mat", {"labels": (numbers[None] * 7) % 3 + 1})
    savemat(
        root / "setid.mat", {"trnid": numbers[None, 0::3], "valid": numbers[None, 1::3], "tstid": numbers[None, 2::3]}
    )
    return root


def pets(root: Path) -> Path:
    """Five listed pets of three breeds, an unlisted one without a pet pixel, and files of another system."""
    listed = {
        "Abyssinian_1": (1, 1),
        "Abyssinian_2": (1, 1),
        "beagle_3": (5, 2),
        "beagle_10": (5, 2),
        "Sphynx_4": (34, 1),
    }
    for seed, name in enumerate([*listed, "Abyssinian_34"]):
        save_image(root / "images" / f"{name}.jpg", seed=seed)
        save_mask(root / "annotations" / "trimaps" / f"{name}.png", [1, 3, 2, 2] if name in listed else [2, 2, 2, 2])
    write(root / "annotations" / "trimaps" / "._Abyssinian_1.png", "not a picture")
    write(root / "images" / "._Abyssinian_1.jpg", "not a picture")
    lines = [f"{name} {breed} {species} 1" for name, (breed, species) in listed.items()]
    write(root / "annotations" / "list.txt", "\n".join(["#Image CLASS-ID SPECIES BREED ID", *lines]))
    write(root / "annotations" / "trainval.txt", "\n".join(lines[:3]))
    write(root / "annotations" / "test.txt", "\n".join(lines[3:]))
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
