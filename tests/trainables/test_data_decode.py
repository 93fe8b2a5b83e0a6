"""Decoding: how often each file is decoded, by a count around Pillow, and mask values against NumPy's plain way."""

import fcntl
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from tests.trainables import data_trees as trees
from trainables.data import DataError, cache, decode, open_dataset, survey
from trainables.data.stack import load_stack

REPO = Path(__file__).parents[2]
FILES = 12  # six images with their masks


@pytest.fixture
def listing(tmp_path):
    trees.folder_set(tmp_path / "set")
    return open_dataset("folder", tmp_path, {"path": "set"})


@pytest.fixture
def decoded(monkeypatch):
    """How many pictures Pillow has decoded."""
    count = Counter()
    load = ImageFile.ImageFile.load

    def counted(picture):
        count["pictures"] += bool(picture.tile)  # what is loaded already has none
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return count


def stack_of(listing, fingerprint, cache):
    return load_stack(listing, range(6), 16, masks=True, fingerprint=fingerprint, cache_dir=cache)


def test_whoever_plans_decodes_each_file_once_and_so_does_each_node(listing, tmp_path, decoded):
    plan = survey(listing, cache_dir=tmp_path / "plan")
    assert decoded.pop("pictures") == FILES
    found = survey(listing, cache_dir=tmp_path / "node", planned=plan.fingerprint)
    assert (found, decoded["pictures"]) == (plan, 0)
    planned = stack_of(listing, found.fingerprint, tmp_path / "node")
    assert decoded.pop("pictures") == FILES
    again = survey(listing, cache_dir=tmp_path / "node")  # as its verdict is kept
    stack_of(listing, again.fingerprint, tmp_path / "node")
    assert (again, decoded["pictures"]) == (plan, 0)
    plain = stack_of(listing, plan.fingerprint, tmp_path / "plan")
    assert torch.equal(planned.images, plain.images)
    assert torch.equal(planned.masks, plain.masks)
    assert found.files == plan.files  # decoded now that somebody asks
    assert decoded["pictures"] == 2 * FILES


def test_pictures_that_are_not_those_of_the_plan_are_surveyed(listing, tmp_path, decoded):
    plan = survey(listing, cache_dir=tmp_path / "plan").fingerprint
    trees.save_image(listing.folder / "images" / "p1.png", seed=99)
    decoded.clear()
    found = survey(listing, cache_dir=tmp_path / "node", planned=plan)
    assert decoded["pictures"] == FILES
    assert found == survey(listing, cache_dir=tmp_path / "other")
    assert found.fingerprint != plan


def test_a_faulty_file_is_refused_though_a_plan_was_made(listing, tmp_path):
    plan = survey(listing, cache_dir=tmp_path / "plan").fingerprint
    (listing.folder / "masks" / "p2.png").write_bytes(b"no picture")
    (listing.folder / "images" / "p3.png").unlink()
    messages = []
    for planned in (plan, None):
        with pytest.raises(DataError) as caught:
            survey(listing, cache_dir=tmp_path / f"node {planned}", planned=planned).check()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "p2.png: this mask cannot be decoded" in messages[0]
    assert "p3.png: this image is missing" in messages[0]


def test_drawn_pictures_need_no_hash(tmp_path):
    listing = open_dataset("shapes", tmp_path, {"count": 5})
    assert survey(listing, planned="another") == survey(listing)


def test_nobody_waits_for_ever_for_a_process_that_hangs(listing, tmp_path, monkeypatch):
    """Another process has the locks and does nothing, as one that is stopped, or on a disk that went away."""
    monkeypatch.setattr(cache, "PATIENCE", 0.2)
    expected = stack_of(listing, survey(listing, cache_dir=tmp_path / "free").fingerprint, tmp_path / "free")
    places = [path.relative_to(tmp_path / "free") for path in (tmp_path / "free").rglob("*.lock")]
    assert len(places) > 1
    with ExitStack() as stack:
        for place in places:
            (tmp_path / "held" / place).parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context((tmp_path / "held" / place).open("w"))
            fcntl.flock(held, fcntl.LOCK_EX)
        found = survey(listing, cache_dir=tmp_path / "held")
        ours = stack_of(listing, found.fingerprint, tmp_path / "held")
    assert torch.equal(ours.images, expected.images) and torch.equal(ours.masks, expected.masks)


def test_processes_at_once_decode_each_file_once(tmp_path):
    for number in range(40):
        trees.save_image(tmp_path / "set" / "images" / f"p{number}.png", 400, 400, seed=number)
        trees.save_mask(tmp_path / "set" / "masks" / f"p{number}.png", [0, 255, 0, 0], 400, 400)
    code = (
        "import os, sys; from PIL import ImageFile; from trainables.data import open_dataset, survey\n"
        f"log = os.open({str(tmp_path / 'log')!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "load = ImageFile.ImageFile.load\n"
        "def counted(picture):\n"
        "    os.write(log, b'x' * bool(picture.tile))\n"
        "    return load(picture)\n"
        "ImageFile.ImageFile.load = counted\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"listing = open_dataset('folder', {str(tmp_path)!r}, {{'path': 'set'}})\n"
        f"print(survey(listing, cache_dir={str(tmp_path / 'cache')!r}).fingerprint)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPO}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    with ThreadPoolExecutor(3) as pool:
        said = [out for out, _ in pool.map(lambda process: process.communicate("go\n", timeout=300), processes)]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(said)) == 1
    assert (tmp_path / "log").stat().st_size == 80


MEANING = {0: 0, 1: 3, 7: 255, 200: 1, 255: 2, 4000: 4, 65535: 5, 70000: 6}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (np.uint8, [0, 1, 7, 200, 255]),
        (np.uint8, [255]),
        (np.int32, [0, 1, 255]),
        (np.int32, [0, 4000, 65535]),
        (np.int32, [7, 70000]),  # too large to be counted
    ],
)
@pytest.mark.parametrize("shape", [(1, 1), (37, 53), (2, 5, 7)])
def test_values_are_counted_and_translated_as_numpy_does(kind, values, shape):
    pixels = np.random.RandomState(0).choice(values, shape).astype(kind)
    assert decode.distinct(pixels).tolist() == np.unique(pixels).tolist()
    translated = decode.translate(pixels, MEANING)
    assert translated.dtype == np.uint8
    assert np.array_equal(translated, np.vectorize(MEANING.get, otypes=[np.uint8])(pixels))


@pytest.mark.parametrize(("kind", "unknown"), [(np.uint8, 9), (np.int32, 9), (np.int32, 66000), (np.int32, -1)])
def test_an_unknown_value_is_refused(kind, unknown):
    pixels = np.zeros((4, 4), kind)
    pixels[3, 3] = unknown
    with pytest.raises(DataError, match=f"holds the value {unknown}; allowed are 0, 1"):
        decode.translate(pixels, {0: 0, 1: 1})


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "LA", "RGBA"])
def test_every_kind_of_mask_file_keeps_its_values(tmp_path, mode):
    number = np.array([[0, 1], [1, 0]], np.uint8)
    if mode == "P":
        picture = Image.fromarray(number)
        picture.putpalette([0, 0, 0, 255, 255, 255])
    elif mode == "I;16":
        picture = Image.fromarray(number.astype(np.uint16))
    else:
        picture = Image.fromarray(number * (255 if mode == "1" else 1)).convert(mode)
    picture.save(tmp_path / "mask.png")
    values = decode.as_mask(decode.open_picture((tmp_path / "mask.png").read_bytes()))
    assert values.tolist() == number.tolist()
    assert values.dtype == (np.uint8 if mode in ("L", "P", "LA") else np.int32)
