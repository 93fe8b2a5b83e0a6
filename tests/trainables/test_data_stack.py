"""Decoded stacks: resizing against Pillow, the cache and several processes, and memory that stays one's own."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables import data_trees as trees
from trainables.data import open_dataset, survey
from trainables.data.stack import fit, load_stack

REPO = Path(__file__).parents[2]


@pytest.fixture
def listing(tmp_path):
    root = trees.folder_set(tmp_path / "set", count=7)
    for number, (height, width) in enumerate([(40, 20), (33, 100), (16, 16), (1, 50), (64, 64)]):
        trees.save_image(root / "images" / f"p{number}.png", height, width, seed=number)
        trees.save_mask(root / "masks" / f"p{number}.png", [0, 1, 0, 0], height, width)
    for number in (5, 6):
        trees.save_mask(root / "masks" / f"p{number}.png", [0, 1, 0, 0])
    return open_dataset("folder", tmp_path, {"path": "set"})


@pytest.mark.parametrize(
    ("height", "width", "size", "box"),
    [
        (40, 20, 32, (0, 8, 32, 16)),
        (33, 100, 32, (10, 0, 11, 32)),  # 10.56 rows
        (1, 50, 32, (15, 0, 1, 32)),  # never less than one row
        (480, 640, 128, (16, 0, 96, 128)),
        (3, 4, 6, (0, 0, 5, 6)),  # 4.5 rows: half up
    ],
)
def test_the_box_keeps_the_aspect_ratio(height, width, size, box):
    assert fit(height, width, size) == box


def test_pixels_equal_pillows_resize(listing, tmp_path):
    stack = load_stack(listing, range(7), 32, masks=True, cache_dir=tmp_path)
    for number, (top, left, height, width) in enumerate(stack.boxes.tolist()):
        image = Image.open(listing.folder / listing.images[number]).resize((width, height), Image.Resampling.BILINEAR)
        mask = Image.open(listing.folder / listing.masks[number]).resize((width, height), Image.Resampling.NEAREST)
        inside = (slice(top, top + height), slice(left, left + width))
        assert np.array_equal(stack.images[number].permute(1, 2, 0).numpy()[inside], np.asarray(image))
        assert np.array_equal(stack.masks[number].numpy()[inside], np.asarray(mask))


@pytest.mark.parametrize("reader", ["folder", "shapes"])
def test_with_and_without_a_cache_the_digits_are_equal(listing, tmp_path, reader):
    if reader == "shapes":
        listing = open_dataset("shapes", tmp_path, {"count": 7, "size": 24})
    (tmp_path / "file").write_text("")
    numbers = [4, 0, 3]
    direct = load_stack(listing, numbers, 16, masks=True, cache_dir=tmp_path / "file")
    for _ in range(2):
        stored = load_stack(listing, numbers, 16, masks=True, cache_dir=tmp_path / "cache")
        assert torch.equal(direct.images, stored.images)
        assert torch.equal(direct.masks, stored.masks)
        assert torch.equal(direct.boxes, stored.boxes)


def test_the_second_load_reads_no_picture(listing, tmp_path):
    fingerprint = survey(listing).fingerprint
    first = load_stack(listing, range(7), 16, masks=True, fingerprint=fingerprint, cache_dir=tmp_path / "cache")
    for name in listing.images:
        (listing.folder / name).unlink()
    second = load_stack(listing, range(7), 16, masks=True, fingerprint=fingerprint, cache_dir=tmp_path / "cache")
    assert torch.equal(first.images, second.images)


def test_other_content_size_or_meaning_is_another_stack(listing, tmp_path):
    cache = tmp_path / "cache"
    first = load_stack(listing, range(7), 16, masks=True, cache_dir=cache)
    assert load_stack(listing, range(7), 8, masks=True, cache_dir=cache).images.shape == (7, 3, 8, 8)
    trees.save_image(listing.folder / "images" / "p6.png", seed=77)
    changed = load_stack(listing, range(7), 16, masks=True, cache_dir=cache)
    assert not torch.equal(first.images[6], changed.images[6])
    ignoring = open_dataset("folder", tmp_path, {"path": "set", "ignore": [0]})
    masks = load_stack(ignoring, range(7), 16, masks=True, cache_dir=cache).masks
    assert set(masks.unique().tolist()) == {1, 255}


@pytest.mark.parametrize("numbers", [range(7), range(2, 5), [5, 1, 3]])
def test_what_is_written_into_a_stack_stays_ones_own(listing, tmp_path, numbers):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack = load_stack(listing, numbers, 16, masks=True, cache_dir=tmp_path / "cache")
    kept = stack.images.clone(), stack.masks.clone()
    stack.images.zero_()
    stack.masks.fill_(9)
    again = load_stack(listing, numbers, 16, masks=True, cache_dir=tmp_path / "cache")
    assert torch.equal(again.images, kept[0])
    assert torch.equal(again.masks, kept[1])


def test_broken_cache_files_are_made_anew(listing, tmp_path):
    reference = load_stack(listing, range(7), 16, masks=True, cache_dir=tmp_path / "cache")
    kept = reference.images.clone()
    files = sorted((tmp_path / "cache" / "stacks").glob("*/*.npy"))
    assert [path.name for path in files] == ["boxes.npy", "images.npy", "masks.npy"]
    for content in (b"", b"garbage", files[1].read_bytes()[:500]):
        files[1].unlink()
        files[1].write_bytes(content)
        assert torch.equal(load_stack(listing, range(7), 16, masks=True, cache_dir=tmp_path / "cache").images, kept)


def test_a_pickle_in_the_cache_is_not_run(listing, tmp_path):
    load_stack(listing, range(7), 16, masks=False, cache_dir=tmp_path / "cache")
    (path,) = (tmp_path / "cache" / "stacks").glob("*/images.npy")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert load_stack(listing, range(7), 16, masks=False, cache_dir=tmp_path / "cache").images.shape == (7, 3, 16, 16)


def test_what_a_killed_process_left_is_removed(listing, tmp_path):
    load_stack(listing, range(7), 16, masks=False, cache_dir=tmp_path / "cache")
    stacks = tmp_path / "cache" / "stacks"
    (made,) = (path for path in stacks.iterdir() if path.is_dir())
    made.rename(stacks / f".{made.name}.left")
    load_stack(listing, range(7), 16, masks=False, cache_dir=tmp_path / "cache")
    assert [path for path in stacks.iterdir() if path.is_dir()] == [made]


def test_processes_at_once_get_the_same_and_leave_one_stack(listing, tmp_path):
    code = (
        "import hashlib, sys; from trainables.data import open_dataset; from trainables.data.stack import load_stack\n"
        f"listing = open_dataset('shapes', '', {{'count': 300}})\n"
        "sys.stdin.readline()\n"
        f"stack = load_stack(listing, range(300), 48, masks=True, cache_dir={str(tmp_path / 'cache')!r})\n"
        "print(hashlib.sha256(stack.images.numpy().tobytes() + stack.masks.numpy().tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPO}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        digests = [out for out, _ in pool.map(lambda process: process.communicate("go\n", timeout=100), processes)]
    assert [process.returncode for process in processes] == [0, 0]
    assert digests[0] == digests[1] != ""
    folders = [path.name for path in (tmp_path / "cache" / "stacks").iterdir() if path.is_dir()]
    assert len(folders) == 2  # images and masks, nothing half made
    assert not any(name.startswith(".") for name in folders)


def test_a_full_disk_is_no_error(tmp_path):
    """A limit on file sizes stands in for the full disk: both make writing fail."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from trainables.data import open_dataset; from trainables.data.stack import load_stack\n"
        "stack = load_stack(open_dataset('shapes', '', {'count': 50}), [7, 3], 48, masks=True,"
        f" cache_dir={str(tmp_path)!r})\n"
        "print(stack.images.shape, int(stack.masks.max()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "torch.Size([2, 3, 48, 48]) 1\n"
    assert not list((tmp_path / "stacks").glob("*/images.npy"))
    assert not list((tmp_path / "stacks").glob(".*"))


def test_grey_pictures_get_three_equal_channels(listing, tmp_path):
    Image.open(listing.folder / "images" / "p0.png").convert("L").save(listing.folder / "images" / "p0.png")
    image = load_stack(listing, [0], 32, masks=False, cache_dir=tmp_path).images[0]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert image.any()
