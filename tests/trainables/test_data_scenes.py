"""Sets of street and other scenes: Cityscapes against torchvision, SceneParse150, several classes by `folder`."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.contracts.dataset_contract import DatasetContract
from tests.trainables import data_trees as trees
from trainables.data import AbsentData, DataError, WrongRequest, open_dataset, split, survey
from trainables.data.cityscapes import IDS
from trainables.data.stack import load_stack

MSRC = ["building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face", "car"]
MSRC += ["bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat"]


class TestBus(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.cityscapes(tmp_path / "cityscapes")
        return open_dataset("cityscapes-bus", tmp_path)

    def test_the_task_is_the_images_with_a_bus(self, listing):
        chosen = [[listing.images[n].split("/")[-1][:13] for n in p] for p in (listing.train, listing.evaluation)]
        assert chosen == [["aachen_000000", "bremen_000000"], ["lindau_000000"]]
        assert len(listing.pretrain) == len(listing.images) == 6

    @pytest.mark.parametrize(("void", "value"), [("ignore", 255), ("background", 0)])
    def test_masks_equal_torchvision(self, listing, tmp_path, void, value):
        listing = open_dataset("cityscapes-bus", tmp_path, {"void": void})
        masks = load_stack(listing, listing.annotated, 30, masks=True).masks[:, 5:25].numpy()
        ours = dict(zip([listing.images[n] for n in listing.annotated], masks, strict=True))
        for part in ("train", "val"):
            theirs = torchvision.datasets.Cityscapes(
                tmp_path / "cityscapes", split=part, mode="fine", target_type="semantic"
            )
            for (_, target), path in zip(theirs, theirs.images, strict=True):
                ids = np.asarray(target)
                mask = ours.pop(str(path)[len(str(listing.folder)) + 1 :], None)
                assert (mask is not None) == bool((ids == 28).any())
                if mask is not None:
                    assert np.array_equal(mask, np.where(ids < 4, value, ids == 28))
        assert not ours

    def test_ids_equal_torchvision(self):
        official = {c.name: c.id for c in torchvision.datasets.Cityscapes.classes}
        assert {name: official[name] for name in IDS} == IDS

    @pytest.mark.parametrize(("pretrain", "count"), [("all", 6), ("train-val", 5), ("train", 3)])
    def test_what_pretraining_sees(self, listing, tmp_path, pretrain, count):
        assert len(open_dataset("cityscapes-bus", tmp_path, {"pretrain": pretrain}).pretrain) == count


class TestCarsOfAllImages(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.cityscapes(tmp_path / "Cityscapes")
        return open_dataset("cityscapes-car", tmp_path)

    def test_images_without_a_car_belong_to_the_task(self, listing):
        assert (len(listing.train), len(listing.evaluation)) == (3, 2)
        stack = load_stack(listing, listing.train, 30, masks=True)
        assert [(mask == 1).any().item() for mask in stack.masks] == [True, True, False]


def test_cityscapes_without_annotations_serves_for_pretraining(tmp_path):
    import shutil

    shutil.rmtree(trees.cityscapes(tmp_path / "cityscapes") / "gtFine")
    listing = open_dataset("cityscapes-bus", tmp_path)
    assert (len(listing.pretrain), listing.annotated) == (6, ())
    assert "serve for pretraining only" in listing.notes[-1]
    with pytest.raises(AbsentData, match=r"no folder cityscapes; expected one with leftImg8bit"):
        open_dataset("cityscapes-bus", tmp_path / "cityscapes")


class TestSceneParse150(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.sceneparse150(tmp_path / "ADEChallengeData2016")
        return open_dataset("sceneparse150", tmp_path)

    def test_label_0_is_not_counted_and_the_others_begin_at_0(self, listing):
        masks = load_stack(listing, listing.annotated, 30, masks=True).masks
        assert set(masks[:, 5:25].unique().tolist()) == {0, 1, 149, 255}
        assert (listing.classes[0], listing.classes[21], listing.classes[149]) == ("thing 1", "thing 22", "thing 150")

    def test_parts(self, listing):
        assert listing.train == listing.pretrain == (0, 1, 2)
        assert listing.evaluation == (3, 4)

    def test_a_label_above_150_is_a_fault(self, listing):
        trees.save_mask(listing.folder / listing.masks[0], [0, 151, 2, 3])
        (problem,) = survey(listing).problems
        assert "holds the value 151; allowed are 0, 1, 2" in problem


def test_the_three_official_samples(shared_data):
    listing = open_dataset("sceneparse150", shared_data)
    assert survey(listing).problems == ()
    assert listing.classes[:4] == ("wall", "building", "sky", "floor")
    assert listing.classes[21] == "water"  # its number has a blank behind it in the official table
    for number in listing.evaluation:
        official = np.asarray(Image.open(listing.folder / listing.masks[number])).astype(int)
        height, width = official.shape
        ours = load_stack(listing, [number], max(height, width), masks=True)
        top, left, h, w = ours.boxes[0].tolist()
        assert (h, w) == (height, width)
        inside = ours.masks[0, top : top + h, left : left + w].numpy()
        assert np.array_equal(np.where(inside == 255, 0, inside.astype(int) + 1), official)


class TestFolderOfSeveralClasses(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        root = trees.folder_set(tmp_path / "scenes", values=[4, 9, 2, 0])
        trees.write(root / "classes.yaml", "2: road\n4: car\n5: road\n9: sky\n0: void\n")
        return open_dataset("folder", tmp_path, {"path": "scenes", "target": "*", "ignore": [0]})

    def test_classes_are_numbered_by_their_values_and_equal_names_are_one(self, listing):
        assert listing.classes == ("road", "car", "sky")
        assert listing.mask_values == {2: 0, 4: 1, 5: 0, 9: 2, 0: 255}
        mask = load_stack(listing, [0], 30, masks=True).masks[0, 5:25].numpy()
        expected = np.array([1, 2, 0, 255])[trees.regions()]
        assert np.array_equal(mask, expected)

    def test_its_fingerprint_is_not_that_of_one_class(self, listing, tmp_path):
        binary = open_dataset("folder", tmp_path, {"path": "scenes", "target": "car", "ignore": [0]})
        assert survey(binary).fingerprint != survey(listing).fingerprint

    def test_masks_without_any_class_are_a_fault(self, listing):
        for number in range(6):
            trees.save_mask(listing.folder / f"masks/p{number}.png", [0, 0, 0, 0])
        (problem,) = survey(listing).problems
        assert "no mask has a pixel of any class; expected the value 2 or 4 or 5 or 9" in problem

    def test_one_class_is_too_few(self, listing, tmp_path):
        with pytest.raises(WrongRequest, match="target '\\*' needs 2 to 254 classes, but got 1"):
            open_dataset("folder", tmp_path, {"path": "scenes", "target": "*", "classes": {"4": "car"}})


class TestFolderWithLabels(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        for place, name in enumerate(["s2_00", "s2_01", "isbi_7", "hela_3_y1", "sub/hela_4"]):
            trees.save_image(tmp_path / "em" / "images" / f"{name}.png", seed=place)
        return open_dataset("folder", tmp_path, {"path": "em", "labels": "prefix"})

    def test_labels_are_the_words_before_the_first_underscore(self, listing):
        assert listing.label_names == ("hela", "isbi", "s2")
        named = {name: listing.label_names[label] for name, label in zip(listing.images, listing.labels, strict=True)}
        assert named["images/hela_3_y1.png"] == named["images/sub/hela_4.png"] == "hela"
        assert named["images/s2_01.png"] == "s2"

    def test_labels_by_folder_need_one(self, listing, tmp_path):
        with pytest.raises(DataError, match="labels is 'folder', but the image 'hela_3_y1' has no '/'"):
            open_dataset("folder", tmp_path, {"path": "em", "labels": "folder"})


def test_pretraining_can_leave_out_the_evaluation_part(tmp_path):
    trees.folder_set(tmp_path / "set", splits={"train": ["p0", "p1"], "test": ["p2", "p3"]})
    listing = open_dataset("folder", tmp_path, {"path": "set", "pretrain": "no-evaluation"})
    assert listing.pretrain == (0, 1, 4, 5)
    assert listing.evaluation == (2, 3)


def test_msrc_stands_in_for_sceneparse150(shared_data):
    classes = {str(number + 1): name for number, name in enumerate(MSRC)}
    listing = open_dataset("folder", shared_data, {"path": "msrc_v2", "classes": classes, "target": "*", "ignore": [0]})
    found = survey(listing)
    assert found.problems == ()
    assert (len(listing.train), len(listing.evaluation), len(listing.classes)) == (434, 155, 23)
    stack = load_stack(listing, listing.annotated, 64, masks=True, fingerprint=found.fingerprint)
    assert set(stack.masks.unique().tolist()) == {*range(23), 255}
    height, width = stack.boxes[:, 2], stack.boxes[:, 3]
    void = (stack.masks == 255).sum() - (64 * 64 - height * width).sum()
    assert 0.18 < void / (height * width).sum() < 0.20  # README: 19 % of pixels
    horses = {n for n in range(len(listing.images)) if 5 in found.files[listing.masks[n]]["values"]}
    assert len(horses) == 3


def test_dogs_of_the_pets(tmp_path):
    trees.pets(tmp_path / "oxford-iiit-pet")
    listing = open_dataset("pets-dogs", tmp_path)
    assert listing.images == ("images/beagle_3.jpg", "images/beagle_10.jpg")
    assert (listing.labels, listing.label_names) == ((0, 0), ("beagle",))
    every = open_dataset("pets-dogs", tmp_path, {"species": "all"})
    assert every.labels == (0, 0, 1, 1, 2)  # official class numbers 1, 5 and 34
    assert every.label_names == ("Abyssinian", "beagle", "Sphynx")
    whole = load_stack(open_dataset("pets", tmp_path), [2, 3], 16, masks=True)
    assert torch.equal(load_stack(listing, [0, 1], 16, masks=True).masks, whole.masks)


def test_three_breeds_stand_in_for_25(shared_data):
    listing = open_dataset("pets-dogs", shared_data, {"species": "all"})
    assert survey(listing).problems == ()
    assert listing.label_names == ("Abyssinian", "american_bulldog", "Bengal")
    assert len(open_dataset("pets-dogs", shared_data).images) == listing.labels.count(1) == 167
    assert len(split(listing, 0.1, None, 0).train) == 50
