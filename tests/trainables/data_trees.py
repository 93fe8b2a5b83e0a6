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


VOC_TRAIN = {"a1": [0, 1, 255, 0], "a2": [1, 0, 0, 15], "b": [7, 14, 0, 255], "c1": [8, 8, 0, 0], "p": [0, 15, 0, 0]}
VOC_VAL = {"a3": [0, 1, 0, 0], "c2": [0, 0, 8, 255], "m": [0, 14, 0, 15], "k": [7, 0, 0, 0], "none": [0, 0, 20, 0]}


def voc(root: Path, main: bool = True) -> Path:
    """VOC 2012 in miniature at `root`/VOCdevkit/VOC2012: five images a part, two more in Main; numbers are classes."""
    folder = root / "VOCdevkit" / "VOC2012"
    for seed, (name, values) in enumerate({**VOC_TRAIN, **VOC_VAL}.items()):
        save_image(folder / "JPEGImages" / f"{name}.jpg", seed=seed)
        save_mask(folder / "SegmentationClass" / f"{name}.png", values, palette=VOC_PALETTE)
    lists = {"train": VOC_TRAIN, "val": VOC_VAL, "trainval": {**VOC_TRAIN, **VOC_VAL}}
    for name, names in lists.items():
        write(folder / "ImageSets" / "Segmentation" / f"{name}.txt", "\n".join(names))
    if main:
        for seed, name in enumerate(["x1", "x2"]):
            save_image(folder / "JPEGImages" / f"{name}.jpg", seed=50 + seed)
        write(folder / "ImageSets" / "Main" / "trainval.txt", "\n".join([*VOC_TRAIN, *VOC_VAL, "x1", "x2"]))
    return folder


CITIES = {
    "train/aachen/aachen_000000_000019": [7, 28, 26, 1],
    "train/aachen/aachen_000001_000019": [7, 26, 26, 3],
    "train/bremen/bremen_000000_000019": [28, 7, 8, 0],
    "val/lindau/lindau_000000_000019": [28, 28, 33, 2],
    "val/lindau/lindau_000001_000019": [7, 7, 26, 1],
}


def cityscapes(root: Path) -> Path:
    """Three training and two validation images with labelIds, one test image without."""
    for seed, (name, values) in enumerate({**CITIES, "test/berlin/berlin_000000_000019": None}.items()):
        save_image(root / "leftImg8bit" / f"{name}_leftImg8bit.png", seed=seed)
        if values is not None:
            save_mask(root / "gtFine" / f"{name}_gtFine_labelIds.png", values)
            save_mask(root / "gtFine" / f"{name}_gtFine_instanceIds.png", [0, 0, 0, 0])
    return root


def sceneparse150(root: Path) -> Path:
    """Three training and two validation images; labels 0, 1, 2 and 150."""
    for seed in range(5):
        part, short = ("training", "train") if seed < 3 else ("validation", "val")
        save_image(root / "images" / part / f"ADE_{short}_{seed + 1:08d}.jpg", seed=seed)
        save_mask(root / "annotations" / part / f"ADE_{short}_{seed + 1:08d}.png", [0, 1, 2, 150])
    rows = [
        "Idx\tRatio\tTrain\tVal\tName",
        *(f"{n}{' ' * (n == 22)}\t0.1\t1\t1\tthing {n}, other" for n in range(1, 151)),
    ]
    write(root / "objectInfo150.txt", "\n".join(rows))
    return root


def plusplus(root: Path, values: list | None = None) -> Path:
    """Parts of 12 and 11 slices as Casser et al. name them: images padded with zeros, masks not.

    The mask of slice n has its object in a column that depends on n, and so has the image a bright one.
    """
    for part, count in (("Train", 12), ("Test", 11)):
        for number in range(count):
            image, mask = np.full((20, 30), 5 * count, np.uint8), np.zeros((20, 30), np.uint8)
            image[:, 2 * number : 2 * number + 2], mask[:, 2 * number : 2 * number + 2] = 200, 255
            if values:
                mask[-1] = values
            for kind, name, array in (("In", f"mask{number:04d}.png", image), ("Out", f"{number}.png", mask)):
                path = root / f"{part}_{kind}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.repeat(array[..., None], 3, 2) if kind == "Out" else array).save(path)
    return root


CEM_SOURCES = {"mouse1": 20, "mouse2": 10, "human": 20, "worm": 10, "fly": 15}


def cem500k(root: Path, table: bool = True) -> Path:
    """Patches of five sources, some in a folder of their own; one source is of no listed organism."""
    for place, (source, count) in enumerate(CEM_SOURCES.items()):
        for number in range(count):
            folder = root / source if place % 2 else root
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.RandomState(100 * place + number).randint(0, 256, (16, 16), np.uint8)
            Image.fromarray(pixels).save(folder / f"{source}-LOC-0_{number}_0-16_0-16.tiff")
    if table:
        lines = ["source, organism", "mouse, Mouse", "human, Human", "worm, C. elegans", "fly, Drosophila"]
        write(root / "organisms.csv", "\n".join(lines))
    return root


def volumes(count: int, seed: int, shape: tuple = (16, 16, 8)) -> tuple[np.ndarray, np.ndarray]:
    """Cubes [count, 1, *shape] in [0, 1] and masks of a box in them."""
    cubes = np.random.RandomState(seed).rand(count, 1, *shape).astype(np.float32)
    masks = np.zeros_like(cubes)
    masks[:, :, 4:9, 5:9, 2:5] = 1
    return cubes, masks


def lidc(root: Path) -> Path:
    """Six, four and three cubes."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate({"train": 6, "valid": 4, "test": 3}.items()):
        cubes, masks = volumes(count, seed)
        np.save(root / f"x_{part}_64x64x32.npy", cubes)
        np.save(root / f"m_{part}_64x64x32.npy", masks)
    return root


def luna16_cubes(root: Path, name: str = "bat_32_s_64x64x32_{}.npy") -> Path:
    """Two cubes for each of the ten folds."""
    root.mkdir(parents=True, exist_ok=True)
    for fold in range(10):
        np.save(root / name.format(fold), volumes(2, fold)[0][:, 0])
    return root


def save_scan(path: Path, hu: np.ndarray, compressed: bool = False) -> None:
    """A MetaImage pair; `hu` is [X, Y, Z]."""
    import zlib

    path.parent.mkdir(parents=True, exist_ok=True)
    content = np.ascontiguousarray(hu.transpose(2, 1, 0)).astype("<i2").tobytes()
    data = path.with_suffix(".zraw" if compressed else ".raw")
    data.write_bytes(zlib.compress(content) if compressed else content)
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["CompressedData = True"] if compressed else []
    lines += ["Offset = 0 0 0", "ElementSpacing = 0.7 0.7 1.25", "DimSize = " + " ".join(map(str, hu.shape))]
    lines += ["ElementType = MET_SHORT", f"ElementDataFile = {data.name}"]
    write(path, "\n".join(lines) + "\n")


def luna16_scans(root: Path, folds: tuple = (0, 1, 5), shape: tuple = (40, 36, 30)) -> Path:
    """A scan for each fold: air on the whole, tissue in the corner of high numbers."""
    for fold in folds:
        hu = np.random.RandomState(fold).randint(-1000, -800, shape)
        hu[shape[0] * 3 // 4 :] = 40
        save_scan(root / f"subset{fold}" / f"1.3.6.{fold}.mhd", hu, compressed=fold == 1)
    return root
