"""Pascal VOC 2012: tasks by mask pixels, official lists, labels for four classes; against torchvision."""

import numpy as np
import pytest
import torchvision
from PIL import Image

from tests.contracts.dataset_contract import DatasetContract
from tests.trainables import data_trees as trees
from trainables.data import AbsentData, DataError, open_dataset, survey
from trainables.data.stack import load_stack
from trainables.data.voc import CLASSES

TARGETS = ("aeroplane", "cat", "horse", "bus", "car", "person", "motorbike")


def names(listing, numbers):
    return [listing.images[n].removeprefix("JPEGImages/").removesuffix(".jpg") for n in numbers]


class TestAeroplane(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.voc(tmp_path)
        return open_dataset("voc-aeroplane", tmp_path)

    def test_the_task_is_the_images_with_a_pixel_of_it(self, listing):
        assert names(listing, listing.train) == ["a1", "a2"]
        assert names(listing, listing.evaluation) == ["a3"]
        assert len(listing.pretrain) == 12

    def test_masks_equal_torchvision(self, listing, tmp_path):
        stack = load_stack(listing, listing.annotated, 30, masks=True)
        ours = dict(zip(names(listing, listing.annotated), stack.masks[:, 5:25].numpy(), strict=True))
        for part in ("train", "val"):
            theirs = torchvision.datasets.VOCSegmentation(tmp_path, image_set=part, download=False)
            for (_, mask), path in zip(theirs, theirs.masks, strict=True):
                name, pixels = path.split("/")[-1].removesuffix(".png"), np.asarray(mask)
                assert (name in ours) == bool((pixels == 1).any())
                if name in ours:
                    assert np.array_equal(ours.pop(name), np.where(pixels == 255, 255, pixels == 1))
        assert not ours


class TestEveryClass(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.voc(tmp_path / "pascal_voc", main=False)
        return open_dataset("voc", tmp_path)

    def test_class_numbers_are_the_official_ones(self, listing):
        stack = load_stack(listing, listing.train, 30, masks=True)
        assert listing.classes == CLASSES
        for name, mask in zip(names(listing, listing.train), stack.masks[:, 5:25].numpy(), strict=True):
            official = np.asarray(Image.open(listing.folder / "SegmentationClass" / f"{name}.png"))
            assert np.array_equal(mask, official)

    def test_without_the_main_list_it_says_so(self, listing):
        assert listing.notes[-1] == "voc: no ImageSets/Main/trainval.txt; pretraining sees the 10 with masks"


class TestFour(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.voc(tmp_path)
        return open_dataset("voc-four", tmp_path)

    def test_images_of_exactly_one_class(self, listing):
        labels = dict(zip(names(listing, range(len(listing.images))), listing.labels, strict=True))
        assert labels == {"a1": 3, "a2": 3, "a3": 3, "c1": 2, "c2": 2, "k": 1, "m": 0}  # b holds car and motorbike
        assert listing.label_names == ("motorbike", "car", "cat", "aeroplane")
        assert any(note.startswith("voc-four: 1 images hold two or more") for note in listing.notes)


@pytest.mark.parametrize(("pretrain", "count"), [("main", 12), ("segmentation", 10), ("train", 5)])
def test_what_pretraining_sees(tmp_path, pretrain, count):
    trees.voc(tmp_path)
    listing = open_dataset("voc-cat", tmp_path, {"pretrain": pretrain})
    assert len(listing.pretrain) == count
    assert bool(set(listing.pretrain) & set(listing.evaluation)) == (pretrain != "train")
    assert names(listing, listing.train) == ["c1"]


@pytest.mark.parametrize("target", ["aeroplane", "*"])
def test_void_pixels_are_not_counted_or_background(tmp_path, target):
    """Of a1, one of whose regions is 255, against the file itself."""
    mask = trees.voc(tmp_path) / "SegmentationClass" / "a1.png"
    trees.save_mask(mask, [0, 1, 255, 15])
    masks, fingerprints = {}, set()
    for void in ("ignore", "background"):
        listing = open_dataset("voc", tmp_path, {"target": target, "void": void})
        (number,) = [n for n in listing.annotated if names(listing, [n]) == ["a1"]]
        masks[void] = load_stack(listing, [number], 30, masks=True).masks[0, 5:25].numpy()
        fingerprints.add(survey(listing).fingerprint)
    official = np.asarray(Image.open(mask))
    assert set(np.unique(official)) == {0, 1, 15, 255}
    classes = official if target == "*" else np.where(official == 255, 255, official == 1)
    assert np.array_equal(masks["ignore"], classes)
    assert np.array_equal(masks["background"], np.where(official == 255, 0, classes))
    assert len(fingerprints) == 2
    usual, said = (open_dataset("voc-cat", tmp_path, given).mask_values for given in ({}, {"void": "ignore"}))
    assert usual == said


def test_a_class_that_nobody_holds(tmp_path):
    trees.voc(tmp_path)
    with pytest.raises(AbsentData, match="no image of the lists has a pixel of sheep"):
        open_dataset("voc", tmp_path, {"target": "sheep"})


def test_masks_are_decoded_once_for_all_tasks(tmp_path):
    trees.voc(tmp_path)
    cache = tmp_path / "cache"
    survey(open_dataset("voc", tmp_path, cache_dir=cache), cache_dir=cache)
    calls = []
    for target in ("aeroplane", "cat", "car", "person", "motorbike"):
        listing = open_dataset(f"voc-{target}", tmp_path, cache_dir=cache)
        survey(listing, cache_dir=cache, on_progress=lambda *done: calls.append(done))
    assert calls == []
    assert [path.name.split("-")[0] for path in (cache / "manifests").iterdir()] == ["voc"]


@pytest.mark.parametrize("fault", ["missing", "broken", "class 77"])
def test_a_mask_that_cannot_be_judged_stays_in_the_task_and_is_named(tmp_path, fault):
    mask = trees.voc(tmp_path) / "SegmentationClass" / "p.png"  # without an aeroplane
    if fault == "missing":
        mask.unlink()
    elif fault == "broken":
        mask.write_bytes(mask.read_bytes()[:60])
    else:
        trees.save_mask(mask, [0, 77, 0, 0])
    (problem,) = survey(open_dataset("voc-aeroplane", tmp_path)).problems
    assert problem.startswith(f"{mask}: this mask")


def test_broken_lists(tmp_path):
    lists = trees.voc(tmp_path) / "ImageSets" / "Segmentation"
    trees.write(lists / "val.txt", "a1\nc2\n")
    with pytest.raises(DataError, match="Segmentation: 1 images train and evaluate, a1 the first"):
        open_dataset("voc-cat", tmp_path)
    (lists / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val.txt: this list is no UTF-8 text; expected image names"):
        open_dataset("voc-cat", tmp_path)
    (lists / "val.txt").unlink()
    with pytest.raises(AbsentData, match=r"val.txt: cannot read this list"):
        open_dataset("voc-cat", tmp_path)


def test_a_stack_of_a_task_decodes_the_task_only(tmp_path):
    """Seven tasks on 11,540 pretraining images must not decode all of them seven times."""
    trees.voc(tmp_path)
    listing = open_dataset("voc-cat", tmp_path)
    load_stack(listing, listing.evaluation, 16, masks=True, cache_dir=tmp_path / "cache")
    shapes = {path.name: np.load(path, mmap_mode="r").shape for path in (tmp_path / "cache").rglob("*.npy")}
    assert shapes == {"images.npy": (2, 3, 16, 16), "boxes.npy": (2, 4), "masks.npy": (2, 16, 16)}


def test_the_shared_part_of_voc(shared_data):
    """Counts of its README: images that hold the classes of the papers."""
    expected = {"aeroplane": 35, "cat": 63, "horse": 37, "car": 61, "bus": 31}
    for target in TARGETS:
        listing = open_dataset(f"voc-{target}", shared_data)
        assert survey(listing).problems == ()
        if target in expected:
            assert len(listing.annotated) == expected[target]
    four = open_dataset("voc-four", shared_data)
    assert (len(four.images), set(four.labels)) == (201, {0, 1, 2, 3})
