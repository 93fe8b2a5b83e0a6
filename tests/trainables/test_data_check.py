"""`python -m trainables.data check`: each planted fault is found, sound data pass, wrong requests are refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainables import data_trees as trees
from trainables.data import open_dataset, survey
from trainables.data.__main__ import main
from trainables.data.contact_sheet import class_colours

REPO = Path(__file__).parents[2]
PARTS = {"train": ["p0", "p1", "p2"], "test": ["p3", "p4", "p5"]}


@pytest.fixture
def root(tmp_path):
    """A sound set with official parts, three classes and a path that is hard to quote."""
    folder = trees.folder_set(tmp_path / "it's 花" / "set", values=[0, 1, 2, 9], splits=PARTS)
    trees.write(folder / "classes.yaml", "0: background\n1: car\n2: bus\n9: void\n")
    return folder


def run(capsys, root, *more, name="set"):
    """(exit code, lines of stdout)."""
    options = ["--set", "target=*", "--set", "ignore=[9]"] if name == "set" else []
    code = main(["check", name, "--data-root", str(root.parent), *options, *more])
    return code, capsys.readouterr().out.splitlines()


def faults(lines):
    return [line for line in lines if line.startswith("FAULT: ")]


def test_sound_data(root, capsys):
    code, lines = run(capsys, root)
    assert (code, faults(lines)) == (0, [])
    assert "  6 images: 6 for pretraining, 3 train, 3 evaluate" in lines
    assert "  images with a pixel of: car 6, bus 6" in lines
    assert lines[-1] == "0 faults, 0 notes"


def truncate(root):
    path = root / "images" / "p1.png"
    path.write_bytes(path.read_bytes()[:-40])


def recompress(root):
    """The same pixels in another file."""
    Image.open(root / "images" / "p0.png").save(root / "images" / "p4.png", compress_level=1)
    assert (root / "images" / "p0.png").read_bytes() != (root / "images" / "p4.png").read_bytes()


FAULTS = {
    "missing mask": (lambda r: (r / "masks" / "p2.png").unlink(), "images/p2.png: image without a mask"),
    "class 77": (
        lambda r: trees.save_mask(r / "masks" / "p3.png", [0, 77, 2, 9]),
        "masks/p3.png: this mask holds the value 77; allowed are 0, 1, 2, 9",
    ),
    "truncated file": (truncate, "images/p1.png: this image cannot be decoded"),
    "copy in train and evaluation": (
        lambda r: shutil.copy(r / "images" / "p0.png", r / "images" / "p5.png"),
        "images/p0.png and images/p5.png have equal content and lie in the parts train and evaluation",
    ),
    "equal pixels in train and evaluation": (recompress, "images/p0.png and images/p4.png have equal content"),
    "class without a pixel": (
        lambda r: [trees.save_mask(r / "masks" / f"p{n}.png", [0, 1, 1, 9]) for n in range(6)],
        "1 of 3 classes have no pixel in any mask: bus",
    ),
    "mask of another size": (
        lambda r: trees.save_mask(r / "masks" / "p4.png", [0, 1, 2, 9], height=19, width=30),
        "masks/p4.png: this mask has 30 x 19 pixels; expected 30 x 20, the size of images/p4.png",
    ),
    "unreadable list": (
        lambda r: (r / "splits" / "train.txt").write_bytes(b"\xff\xfe\x00p0"),
        "splits/train.txt: this list is no UTF-8 text; expected image names",
    ),
    "missing list": (lambda r: (r / "splits" / "test.txt").unlink(), "splits: expected train.txt with test.txt"),
    "list of nobody": (
        lambda r: trees.write(r / "splits" / "test.txt", "p99\n"),
        "test.txt: no image of the name 'p99'",
    ),
    "image in two lists": (
        lambda r: trees.write(r / "splits" / "test.txt", "p0\np3\n"),
        "splits: 1 images train and evaluate, p0 the first",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found_alone(root, capsys, fault):
    plant, message = FAULTS[fault]
    plant(root)
    code, lines = run(capsys, root)
    assert code == 1
    (found,) = faults(lines)
    assert message in found
    assert lines[-1].startswith("1 fault, ")


def test_faults_add_up(root, capsys):
    for name in ("missing mask", "class 77", "truncated file", "mask of another size"):
        FAULTS[name][0](root)
    code, lines = run(capsys, root, "--out", str(root.parent / "sheet.png"))
    assert (code, len(faults(lines))) == (1, 4)
    assert Image.open(root.parent / "sheet.png").size[0] > 1000


def test_a_binary_class_without_a_pixel(tmp_path, capsys):
    root = trees.folder_set(tmp_path / "binary", values=[0, 0, 0, 0])
    code, lines = run(capsys, root, name="binary")
    assert code == 1
    assert "no mask has a pixel of the class object; expected the value 1 or 255" in faults(lines)[0]


def test_equal_images_in_a_pool(tmp_path, capsys):
    root = trees.folder_set(tmp_path / "pool")
    shutil.copy(root / "images" / "p2.png", root / "images" / "p3.png")
    code, lines = run(capsys, root, name="pool")
    assert code == 1
    assert "images/p2.png and images/p3.png have equal content and lie in the pool" in faults(lines)[0]


def test_equal_images_of_one_part_are_no_fault(root, capsys):
    shutil.copy(root / "images" / "p1.png", root / "images" / "p0.png")
    assert run(capsys, root)[0] == 0


def test_equal_cubes_in_train_and_evaluation(tmp_path, capsys):
    folder = trees.lidc(tmp_path / "lidc-nodules")
    train, test = (np.load(folder / f"x_{part}_64x64x32.npy") for part in ("train", "test"))
    test[1] = train[4]
    np.save(folder / "x_test_64x64x32.npy", test)
    code, lines = run(capsys, folder, name="lidc-nodules")
    assert code == 1
    assert "x_train_64x64x32.npy#4 and x_test_64x64x32.npy#1 have equal content" in faults(lines)[0]


def test_official_layouts_and_their_published_figures(tmp_path, capsys):
    trees.voc(tmp_path)
    trees.cityscapes(tmp_path / "cityscapes")
    trees.sceneparse150(tmp_path / "ADEChallengeData2016")
    trees.plusplus(tmp_path / "Lucchi++")
    trees.cem500k(tmp_path / "cem500k")
    trees.luna16_scans(tmp_path / "luna16")
    expected = {
        "voc-aeroplane": (0, "note: voc: train images with aeroplane pixels: 2, the published set has 88"),
        "voc-four": (0, "note: voc: val images with a segmentation: 5, the published set has 1449"),
        "cityscapes-bus": (0, "note: cityscapes: images of 30 x 20 pixels, the published ones have 2048 x 1024"),
        "sceneparse150": (1, "note: sceneparse150: training images: 3, the published set has 20210"),
        "lucchi": (0, "note: lucchi: images of 30 x 20 pixels, the published ones have 1024 x 768"),
        "luna16": (0, "note: luna16: scans: 3, the published set has 888"),
        "nodules": (0, "  120 cubes: 60 for pretraining, 60 train, 24 validate, 36 evaluate"),
    }
    for name, (code, line) in expected.items():
        sheet = tmp_path / f"{name}.png"
        found, lines = run(capsys, tmp_path / "any", "--out", str(sheet), name=name)
        assert (found, line in lines) == (code, True), lines
        Image.open(sheet).verify()
    found, lines = run(
        capsys, tmp_path / "any", "--set", "classification=60", "--set", "pretraining=15", name="cem500k"
    )
    assert (found, "  images labelled: Mouse 30, Human 20, C. elegans 10" in lines) == (0, True), lines


@pytest.mark.parametrize(("part", "numbers"), [("train", (0, 1, 2)), ("evaluation", (3, 4, 5))])
def test_a_class_that_one_part_lacks(root, capsys, part, numbers):
    for number in numbers:
        trees.save_mask(root / "masks" / f"p{number}.png", [0, 1, 1, 9])
    code, lines = run(capsys, root)
    assert code == 1
    (found,) = faults(lines)
    assert f"no mask of the part {part} (3 images) has a pixel of bus; expected some in each part" in found


def test_absent_data_are_a_fault(tmp_path, capsys):
    code, lines = run(capsys, tmp_path / "any", name="voc-cat")
    assert code == 1
    assert "no folder VOCdevkit or pascal_voc" in faults(lines)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "voc-dog"], "no dataset 'voc-dog', and no folder .* with images/; did you mean voc-"),
        (["check", "pets", "--set", "boarder=1"], "options of pets: PetsOptions has no boarder; it has border"),
        (["check", "pets", "--set", "border"], "--set border: expected KEY=VALUE"),
        (["check", "set", "--set", "target=ship"], "target must be one of background, bus, car, void"),
        (["check", "set", "--set", "target=2024-13-45"], "but got '2024-13-45'"),
        (["check", "set", "--set", "target=" + "[" * 3000], r"but got '\[\[\["),
    ],
)
def test_wrong_requests(root, capsys, arguments, message):
    assert main([*arguments, "--data-root", str(root.parent)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err)
    assert captured.err.count("\n") == 1


def test_a_wrong_data_root_and_an_unwritable_sheet(root, capsys):
    assert main(["check", "pets", "--data-root", "/nowhere/at all"]) == 2
    assert "/nowhere/at all: no such data root" in capsys.readouterr().err
    (root / "file").write_text("")
    code, lines = run(capsys, root, "--out", str(root / "file" / "sheet.png"))
    assert code == 1
    assert "the contact sheet cannot be written" in faults(lines)[0]


def test_the_manifest_is_the_one_that_planning_uses(root, tmp_path):
    environment = {"TRANSFERGRID_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "trainables.data", "check", "set", "--data-root", str(root.parent)]
    options = ["--set", "target=*", "--set", "ignore=[9]"]
    done = subprocess.run([*command, *options], check=True, cwd=REPO, env=environment, capture_output=True, text=True)
    (manifest,) = (tmp_path / "cache" / "manifests").iterdir()
    assert f"  manifest {manifest}" in done.stdout.splitlines()
    assert len(json.loads(manifest.read_bytes())["files"]) == 12
    calls = []
    listing = open_dataset("folder", root.parent, {"path": "set", "target": "*", "ignore": [9]})
    found = survey(listing, cache_dir=tmp_path / "cache", on_progress=lambda *done: calls.append(done))
    assert calls == []
    assert f"  fingerprint {found.fingerprint}" in done.stdout.splitlines()


def test_the_sheet_outlines_each_class_in_its_colour(root, tmp_path, capsys):
    run(capsys, root, "--out", str(tmp_path / "sheet.png"))
    seen = {colour for _, colour in Image.open(tmp_path / "sheet.png").getcolors(1 << 24)}
    car, bus = (colour for colour in class_colours(("background", "car", "bus")) if colour)
    assert {car, bus} <= seen
    plain = trees.folder_set(tmp_path / "plain")
    shutil.rmtree(plain / "masks")
    run(capsys, plain, "--out", str(tmp_path / "plain.png"), name="plain")
    assert car not in {colour for _, colour in Image.open(tmp_path / "plain.png").getcolors(1 << 24)}


@pytest.mark.parametrize("count", [2, 8, 23, 150])
def test_classes_have_colours_of_their_own(count):
    colours = class_colours(("background", *map(str, range(count))))
    assert colours[0] is None
    assert len(set(colours)) == count + 1
