"""Each reader against its official layout, and against torchvision's readers, item by item."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.contracts.dataset_contract import DatasetContract
from tests.trainables import data_trees as trees
from trainables.data import READERS, DataError, open_dataset, shapes, survey
from trainables.data.stack import load_stack
from trainables.settings import DATASET_OPTIONS

PLACES = trees.regions()  # 0 left, 1 middle, 2 right, 3 last row, in pictures of 20 x 30


def masks_in_full(listing):
    """The masks of pictures of 20 x 30 at their own size."""
    stack = load_stack(listing, listing.annotated, 30, masks=True)
    assert stack.boxes.tolist() == [[5, 0, 20, 30]] * len(listing.annotated)
    return stack.masks[:, 5:25].numpy()


def by_region(mask):
    """The one value that each region of a mask has."""
    values = [np.unique(mask[place == PLACES]) for place in range(4)]
    assert all(len(found) == 1 for found in values)
    return [int(found[0]) for found in values]


class TestShapes(DatasetContract):
    @pytest.fixture
    def listing(self):
        return open_dataset("shapes", "nowhere", {"count": 12, "size": 24, "seed": 3})


class TestTextures(DatasetContract):
    @pytest.fixture
    def listing(self):
        return open_dataset("textures", "nowhere", {"count": 12, "size": 24, "seed": 3})

    def test_they_are_the_shapes_with_the_texture_that_is_painted(self, listing, monkeypatch):
        """Of the choices that painting makes, the one between three that belongs to no shape is the texture's."""
        drawn = []

        class Noting(np.random.RandomState):
            def randint(self, *limits):
                drawn.append((limits, value := super().randint(*limits)))
                return value

        monkeypatch.setattr(shapes, "Random", Noting)
        paint = open_dataset("shapes", "nowhere", {"count": 12, "size": 24, "seed": 3}).draw
        for number, label in enumerate(listing.labels):
            drawn.clear()
            image, mask = paint(number)
            textures = [
                value for (before, _), (limits, value) in pairwise(drawn) if limits == (3,) and before != (3, 7)
            ]
            assert textures == [label]  # of a shape the kind follows its number of corners
            assert np.array_equal(listing.draw(number)[0], image) and np.array_equal(listing.draw(number)[1], mask)

    def test_official_parts(self, listing):
        assert (listing.train, listing.evaluation, listing.pool) == (tuple(range(9)), (9, 10, 11), ())
        assert listing.pretrain == listing.train and len(listing.labelled) == 12


class TestFlowers17Colour(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.flowers17(tmp_path / "17flowers", colour=True, mat=True)
        return open_dataset("flowers17", tmp_path)

    def test_flower_is_the_object_and_unlabelled_or_hard_pixels_do_not_count(self, listing):
        assert [by_region(mask) for mask in masks_in_full(listing)] == [[255, 1, 0, 255]] * 3


class TestFlowers17Palette(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.flowers17(tmp_path / "oxford_flowers17", colour=False, mat=False)
        return open_dataset("flowers17", tmp_path, {"rim": "background"})

    def test_the_rim_can_be_background(self, listing):
        assert [by_region(mask) for mask in masks_in_full(listing)] == [[0, 1, 0, 0]] * 3

    def test_parts_and_labels(self, listing):
        assert listing.images == tuple(f"jpg/image_{n:04d}.jpg" for n in (1, 2, 81, 100))
        assert listing.pretrain == (0, 1, 2, 3)
        assert listing.pool == (0, 2, 3)
        assert listing.labels == (0, 0, 1, 1)
        assert listing.notes == (
            "flowers17: images: 4, the published set has 1360",
            "flowers17: trimaps: 3, the published set has 849",
        )


class TestFlowers102(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.flowers102(tmp_path / "flowers-102")
        return open_dataset("flowers102", tmp_path)

    def test_equals_torchvision(self, listing, tmp_path, monkeypatch):
        # torchvision compares the lists with the digests of the published ones, which ours are not
        monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
        seen = 0
        for part in ("train", "val", "test"):
            theirs = torchvision.datasets.Flowers102(tmp_path, split=part, download=False)
            for (image, label), path in zip(theirs, theirs._image_files, strict=True):
                number = listing.images.index(f"jpg/{path.name}")
                assert listing.labels[number] == label
                assert np.array_equal(Image.open(listing.folder / listing.images[number]), image)
                seen += 1
        assert seen == len(listing.images)


class TestPets(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.pets(tmp_path / "oxford-iiit-pet")
        return open_dataset("pets", tmp_path)

    def test_only_listed_pets_count(self, listing):
        assert listing.images == tuple(
            f"images/{name}.jpg" for name in ("Abyssinian_1", "Abyssinian_2", "beagle_3", "beagle_10", "Sphynx_4")
        )
        assert listing.pool == listing.pretrain == (0, 1, 2, 3, 4)

    @pytest.mark.parametrize(("border", "value"), [("foreground", 1), ("background", 0), ("ignore", 255)])
    def test_the_border_is_what_the_option_says(self, listing, tmp_path, border, value):
        listing = open_dataset("pets", tmp_path, {"border": border})
        assert [by_region(mask) for mask in masks_in_full(listing)] == [[1, value, 0, 0]] * 5

    def test_without_list_txt_the_parts_serve(self, listing, tmp_path):
        (listing.folder / "annotations" / "list.txt").unlink()
        assert open_dataset("pets", tmp_path) == listing

    def test_equals_torchvision(self, listing, tmp_path):
        ours = masks_in_full(listing)
        seen = 0
        for part in ("trainval", "test"):
            theirs = torchvision.datasets.OxfordIIITPet(
                tmp_path, split=part, target_types=["category", "segmentation"], download=False
            )
            for (image, (label, trimap)), path in zip(theirs, theirs._images, strict=True):
                number = listing.images.index(f"images/{path.name}")
                assert listing.labels[number] == label
                assert np.array_equal(Image.open(listing.folder / listing.images[number]), image)
                assert np.array_equal(np.isin(np.asarray(trimap), (1, 3)), ours[number] == 1)
                seen += 1
        assert seen == len(listing.images)


class TestFolderWithParts(DatasetContract):
    classes = "0: sky\n1: road\n2: car\n9: void\n"

    @pytest.fixture
    def listing(self, tmp_path):
        parts = {"train": ["p0", "p1", "p2"], "test": ["p3", "p4.png"], "unlabelled": ["p6"]}
        root = trees.folder_set(tmp_path / "my set ü", values=[0, 2, 1, 9], splits=parts)
        trees.save_image(root / "images" / "p6.jpg")
        trees.write(root / "classes.yaml", self.classes)
        return open_dataset("folder", tmp_path, {"path": "my set ü", "target": "car", "ignore": [9]})

    def test_the_target_is_the_object(self, listing):
        assert [by_region(mask) for mask in masks_in_full(listing)] == [[0, 1, 0, 255]] * 5

    def test_parts(self, listing):
        assert (listing.train, listing.evaluation, listing.pool) == ((0, 1, 2), (3, 4), ())
        assert listing.pretrain == tuple(range(7))
        assert listing.notes == ("folder: 1 images stand in none of the lists used and serve for pretraining only",)

    def test_classes_in_the_options_go_before_the_file(self, listing, tmp_path):
        options = {"path": "my set ü", "classes": {"0": "background", "1": "ground", "2": "thing", "9": "rim"}}
        assert open_dataset("folder", tmp_path, {**options, "target": "thing"}).mask_values == {0: 0, 1: 0, 2: 1, 9: 0}
        with pytest.raises(DataError, match=r"target must be one of background, ground, rim, thing, or \*, but got ''"):
            open_dataset("folder", tmp_path, options)


class TestFolderBinaryPool(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.folder_set(tmp_path / "set")
        return open_dataset("folder", tmp_path, {"path": "set"})

    def test_values(self, listing):
        assert listing.pool == tuple(range(6))
        assert [by_region(mask) for mask in masks_in_full(listing)] == [[0, 1, 0, 0]] * 6


class TestFolderWithoutMasks(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        for number in range(4):
            trees.save_image(tmp_path / "set" / "images" / f"slide {number}" / "tile.png", seed=number)
        return open_dataset("folder", tmp_path, {"path": "set"})


@pytest.mark.parametrize("name", ["flowers-17", "Oxford Flowers 17", "oxford-flowers-17", "17Flowers"])
def test_folders_are_found_in_any_spelling(tmp_path, name):
    trees.flowers17(tmp_path / name, colour=False, mat=True)
    assert open_dataset("flowers17", tmp_path).folder == tmp_path / name


def test_every_reader_has_options_and_the_other_way_round():
    assert READERS.keys() == DATASET_OPTIONS.keys()


def test_listing_and_surveying_import_no_torch(tmp_path):
    trees.pets(tmp_path / "pets")
    code = (
        "import sys; from trainables.data import *\n"
        "for name in READERS: __import__(READERS[name])\n"
        f"listing = open_dataset('pets', {str(tmp_path)!r}); survey(listing).check(); split(listing, 0.4, None, 0)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_grey_masks_saved_as_colours_are_read_by_their_grey_level(tmp_path):
    trees.folder_set(tmp_path / "set", values=[(0, 0, 0), (255, 255, 255), (0, 0, 0), (0, 0, 0)])
    listing = open_dataset("folder", tmp_path, {"path": "set"})
    assert survey(listing).problems == ()
    assert by_region(masks_in_full(listing)[0]) == [0, 1, 0, 0]


def test_void_and_object_in_a_binary_set_must_be_told_apart(tmp_path):
    trees.folder_set(tmp_path / "set", values=[0, 1, 0, 255])
    problems = survey(open_dataset("folder", tmp_path, {"path": "set"})).problems
    assert len(problems) == 1
    assert "hold 1 and 255" in problems[0]
    listing = open_dataset("folder", tmp_path, {"path": "set", "ignore": [255]})
    assert survey(listing).problems == ()
    assert by_region(masks_in_full(listing)[0]) == [0, 1, 0, 255]


def test_shapes_are_a_function_of_seed_and_number():
    few = open_dataset("shapes", "", {"count": 4, "seed": 5})
    many = open_dataset("shapes", "", {"count": 9, "seed": 5})
    other = open_dataset("shapes", "", {"count": 4, "seed": 6})
    a, b, c = (load_stack(listing, [3, 1], 48, masks=True) for listing in (few, many, other))
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.masks, b.masks)
    assert not torch.equal(a.images, c.images)
    assert len({survey(listing).fingerprint for listing in (few, many, other)}) == 3


def test_colour_alone_does_not_tell_shapes_from_ground():
    """The best threshold on any colour channel, chosen with the truth in view, explains next to nothing."""
    stack = load_stack(open_dataset("shapes", ""), range(120), 48, masks=True)
    inside = stack.masks == 1
    share = inside.float().mean()
    for channel in range(3):
        values = stack.images[:, channel].float()
        spread = values.std()
        assert abs(values[inside].mean() - values[~inside].mean()) < 0.1 * spread
    assert 0.15 < share < 0.3
