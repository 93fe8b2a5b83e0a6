"""`python -m trainables.data check` on official layouts: each planted fault is found alone, and its file is named."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainables import data_trees as trees
from trainables.data import open_dataset, survey
from trainables.data.__main__ import main

PALETTE = [value % 256 for value in range(768)]  # of fewer colours Pillow stores 4 bits a pixel, and 77 becomes 13
VOC, PETS, CITY, SCENES = "VOCdevkit/VOC2012", "oxford-iiit-pet", "cityscapes", "ADEChallengeData2016"
BREMEN, LINDAU = "train/bremen/bremen_000000_000019", "val/lindau/lindau_000000_000019"


def fill(path: Path, values: list[int]) -> None:
    """A mask of 30 x 20 pixels whose pixels run through `values`."""
    mask = Image.fromarray(np.resize(np.array(values, np.uint8), (20, 30)))
    mask.putpalette(PALETTE)
    mask.save(path)


def refill(root: Path, patterns: tuple[str, ...], values: list[int]) -> None:
    paths = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    assert len(paths) >= len(patterns) > 0
    for path in paths:
        fill(path, values)


def every_class(root: Path, make: Callable[[Path], object], pattern: str, count: int) -> None:
    """A set whose masks hold each of its classes."""
    make(root)
    refill(root, (pattern,), list(range(count)))


@dataclass(frozen=True)
class Official:
    """Where a fault can be planted in a data set; names are relative to the data root.

    Attributes:
        make: makes a sound set below the data root.
        image, mask: of one image that trains.
        twin: an image that evaluates, or of the same pool; "" where nothing evaluates.
        text: a list of the set, "" where it has none.
        masks: a pattern of all masks; `without` is what they hold once the class is gone, `gone` the message then.
        evaluation: patterns of the masks that evaluate, none where the set has no official parts.
        lists_images: whether the set lists its images, so that a missing one is known.
        unknown: a value that no mask may have.
    """

    make: Callable[[Path], object]
    image: str
    mask: str
    twin: str
    text: str
    masks: str
    without: list[int]
    gone: str
    evaluation: tuple[str, ...] = ()
    lists_images: bool = True
    unknown: int = 77


def voc(make, without, gone, parts=True):
    image, mask, masks = (f"{VOC}/{name}" for name in ("JPEGImages/a1.jpg", "SegmentationClass/a1.png", "*Class/*.png"))
    twin = f"{VOC}/JPEGImages/a3.jpg" if parts else ""
    evaluation = tuple(f"{VOC}/SegmentationClass/{name}.png" for name in trees.VOC_VAL if parts)
    text = f"{VOC}/ImageSets/Segmentation/train.txt"
    return Official(make, image, mask, twin, text, masks, without, gone, evaluation)


def pets(gone):
    image, mask = f"{PETS}/images/beagle_3.jpg", f"{PETS}/annotations/trimaps/beagle_3.png"
    twin, text, masks = (
        f"{PETS}/images/beagle_10.jpg",
        f"{PETS}/annotations/list.txt",
        f"{PETS}/annotations/trimaps/*.png",
    )
    return Official(lambda root: trees.pets(root / PETS), image, mask, twin, text, masks, [2], gone)


SETS = {
    "voc": voc(
        lambda root: every_class(root, trees.voc, f"{VOC}/SegmentationClass/*.png", 21),
        list(range(20)),
        "1 of 21 classes have no pixel in any mask: tvmonitor",
    ),
    "voc-aeroplane": voc(trees.voc, [0], "no image of the lists has a pixel of aeroplane"),
    "voc-four": voc(trees.voc, [0, 7], "no image has the label motorbike, cat, aeroplane", parts=False),
    "pets": pets("no mask has a pixel of the class pet"),
    "pets-dogs": pets("no mask has a pixel of the class pet"),
    "cityscapes-bus": Official(
        lambda root: trees.cityscapes(root / CITY),
        f"{CITY}/leftImg8bit/{BREMEN}_leftImg8bit.png",
        f"{CITY}/gtFine/{BREMEN}_gtFine_labelIds.png",
        f"{CITY}/leftImg8bit/{LINDAU}_leftImg8bit.png",
        "",
        f"{CITY}/gtFine/*/*/*_labelIds.png",
        [7, 26],
        "no image of train and val has a pixel of bus",
        evaluation=(f"{CITY}/gtFine/val/*/*_labelIds.png",),
        lists_images=False,
    ),
    "sceneparse150": Official(
        lambda root: every_class(
            root, lambda data: trees.sceneparse150(data / SCENES), f"{SCENES}/annotations/*/*.png", 151
        ),
        f"{SCENES}/images/training/ADE_train_00000001.jpg",
        f"{SCENES}/annotations/training/ADE_train_00000001.png",
        f"{SCENES}/images/validation/ADE_val_00000004.jpg",
        f"{SCENES}/objectInfo150.txt",
        f"{SCENES}/annotations/*/*.png",
        list(range(150)),
        "1 of 150 classes have no pixel in any mask: thing 150",
        evaluation=(f"{SCENES}/annotations/validation/*.png",),
        lists_images=False,
        unknown=177,
    ),
    "flowers17": Official(
        lambda root: trees.flowers17(root / "17flowers", colour=False, mat=False),
        "17flowers/jpg/image_0081.jpg",
        "17flowers/trimaps/image_0081.png",
        "17flowers/jpg/image_0100.jpg",
        "17flowers/trimaps/imlist.txt",
        "17flowers/trimaps/*.png",
        [3],
        "no mask has a pixel of the class flower",
    ),
}


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def shorten(path: Path) -> None:
    """One row less."""
    Image.open(path).crop((0, 0, 30, 19)).save(path)


# Fault: (what plants it, given root and set; the message, given the set; whether it makes sense in the set)
FAULTS = {
    "missing mask": (
        lambda root, of: (root / of.mask).unlink(),
        lambda of: f"{of.mask}: this mask is missing",
        lambda of: True,
    ),
    "missing image": (
        lambda root, of: (root / of.image).unlink(),
        lambda of: f"{of.image}: this image is missing",
        lambda of: of.lists_images,
    ),
    "unknown class": (
        lambda root, of: fill(root / of.mask, [of.unknown]),
        lambda of: f"{of.mask}: this mask holds the value {of.unknown}; allowed are",
        lambda of: True,
    ),
    "truncated mask": (
        lambda root, of: cut(root / of.mask),
        lambda of: f"{of.mask}: this mask cannot be decoded",
        lambda of: True,
    ),
    "truncated image": (
        lambda root, of: cut(root / of.image),
        lambda of: f"{of.image}: this image cannot be decoded",
        lambda of: True,
    ),
    "mask of another size": (
        lambda root, of: shorten(root / of.mask),
        lambda of: f"{of.mask}: this mask has 30 x 19 pixels; expected 30 x 20, the size of {within(of.image)}",
        lambda of: True,
    ),
    "equal images": (
        lambda root, of: shutil.copy(root / of.image, root / of.twin),
        lambda of: f"{within(of.image)} and {within(of.twin)} have equal content and lie in the p",
        lambda of: bool(of.twin),
    ),
    "class without a pixel": (
        lambda root, of: refill(root, (of.masks,), of.without),
        lambda of: of.gone,
        lambda of: True,
    ),
    "class without a pixel to evaluate": (
        lambda root, of: refill(root, of.evaluation, of.without),
        lambda of: "no mask of the part evaluation (",
        lambda of: bool(of.evaluation),
    ),
    "list in another coding": (
        lambda root, of: (root / of.text).write_bytes(b"\xff\xfe\x00p0"),
        lambda of: f"{of.text}: this list is no UTF-8 text; expected ",
        lambda of: bool(of.text),
    ),
    "list with NUL bytes": (
        lambda root, of: (root / of.text).write_bytes(b"\0p0/\0\n"),
        lambda of: f"{of.text}: this list holds NUL bytes, so it is no text; expected ",
        lambda of: bool(of.text),
    ),
}


def within(name: str) -> str:
    """A name relative to the data set's folder."""
    for folder in (VOC, PETS, CITY, SCENES, "17flowers"):
        name = name.removeprefix(f"{folder}/")
    return name


def check(capsys, root, name):
    """(exit code, faults, notes)."""
    code = main(["check", name, "--data-root", str(root)])
    lines = capsys.readouterr().out.splitlines()
    return code, *([line for line in lines if line.startswith(kind)] for kind in ("FAULT: ", "note: "))


@pytest.mark.parametrize("name", SETS)
def test_sound_sets_have_no_fault(tmp_path, capsys, name):
    SETS[name].make(tmp_path)
    assert check(capsys, tmp_path, name)[:2] == (0, [])


@pytest.mark.parametrize(
    ("name", "fault"), [(name, fault) for name, of in SETS.items() for fault in FAULTS if FAULTS[fault][2](of)]
)
def test_each_planted_fault_is_found_alone(tmp_path, capsys, name, fault):
    plant, message, _ = FAULTS[fault]
    SETS[name].make(tmp_path)
    plant(tmp_path, SETS[name])
    code, faults, _ = check(capsys, tmp_path, name)
    assert (code, len(faults)) == (1, 1), faults
    assert message(SETS[name]) in faults[0]


@pytest.mark.parametrize("name", ["pets", "pets-dogs"])
def test_pets_cut_down_are_sound_and_noted(tmp_path, capsys, name):
    of = SETS[name]
    of.make(tmp_path)
    (tmp_path / of.image).unlink()
    (tmp_path / of.mask).unlink()
    code, faults, notes = check(capsys, tmp_path, name)
    assert (code, faults) == (0, [])
    assert "note: pets: 1 listed names have neither picture nor trimap and are left out" in notes


def test_flowers_cut_down_are_sound_and_noted(tmp_path, capsys):
    of = SETS["flowers17"]
    of.make(tmp_path)
    (tmp_path / of.image).unlink()
    (tmp_path / of.mask).unlink()
    code, faults, notes = check(capsys, tmp_path, "flowers17")
    assert (code, faults) == (0, [])
    assert "lists 1 images without picture and trimap and lacks 0 with a trimap" in notes[-1]


@pytest.mark.parametrize("name", ["cityscapes-bus", "cityscapes-car"])
def test_cityscapes_without_masks_is_no_task_but_serves_for_pretraining(tmp_path, capsys, name):
    shutil.rmtree(trees.cityscapes(tmp_path / CITY) / "gtFine")
    code, (fault,), _ = check(capsys, tmp_path, name)
    assert code == 1
    assert "pretraining only" in fault and "expected gtFine/{train,val}/CITY/*_gtFine_labelIds.png" in fault
    listing = open_dataset(name, tmp_path)
    assert (survey(listing).problems, len(listing.pretrain)) == ((), 6)


def test_patches_may_come_from_one_part_alone(tmp_path, capsys):
    trees.cityscapes(tmp_path / CITY)
    refill(tmp_path, SETS["cityscapes-bus"].evaluation, [7])
    code, faults, notes = check(capsys, tmp_path, "cityscapes-car")
    assert (code, faults) == (0, [])
    assert "no mask of the part evaluation (2 images) has a pixel of car; expected some in each part" in notes[-1]


def test_the_labels_of_four_classes_are_in_the_fingerprint_and_their_masks_are_not(tmp_path):
    trees.voc(tmp_path)
    before = survey(open_dataset("voc-four", tmp_path))
    fill(tmp_path / VOC / "SegmentationClass" / "a1.png", [1, 0, 20])  # an aeroplane as before
    after = survey(open_dataset("voc-four", tmp_path))
    assert (after.problems, after.fingerprint) == ((), before.fingerprint)
    fill(tmp_path / VOC / "SegmentationClass" / "a1.png", [8])
    assert survey(open_dataset("voc-four", tmp_path)).fingerprint != before.fingerprint


def test_four_classes_of_which_no_mask_can_be_read(tmp_path, capsys):
    trees.voc(tmp_path)
    for path in (tmp_path / VOC / "SegmentationClass").iterdir():
        cut(path)
    code, (fault,), _ = check(capsys, tmp_path, "voc-four")
    assert code == 1
    assert "and 10 masks are missing or broken, SegmentationClass/a1.png the first" in fault
