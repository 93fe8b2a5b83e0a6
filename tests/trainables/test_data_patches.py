"""Car and no-car patches: the rule on every patch, drops, the split, and what leaks where."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables import data_trees as trees
from trainables.context import Context, StageError
from trainables.data import open_dataset
from trainables.data.patches import prepare_patches

CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
CARS = {
    "reader": "folder",
    "options": {
        "path": "camvid",
        "classes": {str(value): name for value, name in enumerate(CAMVID)},
        "target": "car",
        "ignore": [11],
    },
}


def street(root, count=24):
    """Pictures of 60 x 80 with a car of 30 x 40 in a corner that depends on the number; every sixth has none.

    The red channel is 250 on the car, so that a patch shows what it was cut from.
    """
    for number in range(count):
        image, mask = np.full((60, 80, 3), 40, np.uint8), np.zeros((60, 80), np.uint8)
        image[..., 1] = 5 * number
        top, left = 30 * (number % 2), 40 * (number // 2 % 2)
        if number % 6:
            image[top : top + 30, left : left + 40, 0] = 250
            mask[top : top + 30, left : left + 40] = 1
        for kind, array in (("images", image), ("masks", mask)):
            path = root / kind / f"s{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    trees.write(root / "splits" / "train.txt", "\n".join(f"s{n:02d}" for n in range(count * 2 // 3)))
    trees.write(root / "splits" / "val.txt", "\n".join(f"s{n:02d}" for n in range(count * 2 // 3, count)))


@pytest.fixture
def root(tmp_path):
    street(tmp_path / "street")
    return tmp_path


def prepared(root, seed=0, data=None, **dials):
    spec = {"data": data or {"reader": "folder", "options": {"path": "street"}}, "seed": seed}
    return prepare_patches({**spec, "prepare": {"kind": "car-patches", "size": 32, **dials}}, Context(root, root / "w"))


def check_rule(result, share=0.2):
    for label, mask in zip(result.weights["labels"].tolist(), result.weights["masks"], strict=True):
        cars = (mask == 1).float().mean()
        assert cars >= share if label == 1 else cars == 0


def test_the_rule_holds_on_every_patch_and_in_the_picture(root):
    result = prepared(root)
    check_rule(result)
    listing = open_dataset("folder", root, {"path": "street"})
    weights = result.weights
    for row, (number, (top, left, side)) in enumerate(
        zip(weights["sources"].tolist(), weights["crops"].tolist(), strict=True)
    ):
        mask = Image.open(listing.folder / listing.masks[number])
        image = Image.open(listing.folder / listing.images[number])
        assert 15 <= side <= 60  # a quarter of the short side to all of it
        assert 0 <= top <= 60 - side
        assert 0 <= left <= 80 - side
        box = (left, top, left + side, top + side)
        share = np.asarray(mask.crop(box)).mean()
        assert share >= 0.2 if weights["labels"][row] else share == 0
        resized = image.crop(box).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(weights["images"][row].permute(1, 2, 0), np.asarray(resized))
        resized = mask.crop(box).resize((32, 32), Image.Resampling.NEAREST)
        assert np.array_equal(weights["masks"][row], np.asarray(resized))


def test_one_patch_of_a_picture_and_drops_are_counted(root):
    for seed in range(4):
        result = prepared(root, seed=seed)
        facts, sources = result.facts, result.weights["sources"].tolist()
        assert len(set(sources)) == len(sources) == facts["patches"]
        assert facts["pictures"] == 24 == facts["patches"] + facts["dropped"]
        assert facts["dropped"] == facts["dropped_with_target"] + facts["dropped_without_target"]
        assert facts["with_target"] == result.weights["labels"].sum()
        missing = set(range(24)) - set(sources)
        assert all(number % 6 == 0 for number in missing)  # only where a car was wanted and none is there
        assert facts["dropped_with_target"] == len(missing)


def test_the_coin_is_fair_and_each_pictures_own(root):
    labels = [dict(zip(r.weights["sources"].tolist(), r.weights["labels"].tolist(), strict=True)) for r in
              (prepared(root, seed=seed) for seed in range(30))]  # fmt: skip
    tosses = [by_picture[number] for by_picture in labels for number in range(24) if number % 6]
    assert 0.42 < sum(tosses) / len(tosses) < 0.58  # 600 tosses: 0.5 +- 0.02
    (root / "street" / "images" / "s07.png").unlink()
    (root / "street" / "masks" / "s07.png").unlink()
    trees.write(root / "street" / "splits" / "train.txt", "\n".join(f"s{n:02d}" for n in range(16) if n != 7))
    fewer = prepared(root, seed=0)
    listing = open_dataset("folder", root, {"path": "street"})
    names = [int(listing.images[n][-6:-4]) for n in fewer.weights["sources"]]
    assert dict(zip(names, fewer.weights["labels"].tolist(), strict=True)) == {
        n: label for n, label in labels[0].items() if n != 7
    }


def test_the_split_is_by_patch_and_seeded(root):
    first, again, other = prepared(root), prepared(root), prepared(root, seed=1)
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert not torch.equal(first.weights["part"], other.weights["part"][: len(first.weights["part"])])
    count = first.facts["patches"]
    assert (first.facts["training"], first.facts["validation"]) == (round(0.7 * count), count - round(0.7 * count))
    assert (first.weights["part"] == 0).sum() == first.facts["training"]
    assert first.facts["from_evaluation_part"] > 0  # as in the paper: train and val give patches


def test_exclude_val_takes_no_picture_of_the_evaluation_part(root):
    listing = open_dataset("folder", root, {"path": "street"})
    result = prepared(root, exclude_val=True)
    assert set(result.weights["sources"].tolist()) <= set(listing.train)
    assert result.facts["from_evaluation_part"] == 0
    assert result.facts["pictures"] == 16
    with pytest.raises(StageError, match=r"exclude_val is set, but .* has no official parts"):
        prepared(root, exclude_val=True, data={"reader": "shapes"})


def test_requests_that_cannot_be_met(root):
    trees.folder_set(root / "half", values=[0, 1, 0, 0])
    with pytest.raises(StageError, match=r"0 of 6 pictures .* gave a patch; .* lower prepare.target_share"):
        prepared(root, data={"reader": "folder", "options": {"path": "half"}}, target_share=1.0, smallest=1.0)
    trees.voc(root)
    with pytest.raises(
        StageError, match="car-patches: voc is no task of one class; expected one, such as cityscapes-car"
    ):
        prepared(root, data={"reader": "voc"})


def test_pixels_that_are_not_counted_are_no_cars(tmp_path):
    trees.cityscapes(tmp_path / "cityscapes")
    result = prepared(tmp_path, data={"reader": "cityscapes-car"}, size=16)
    check_rule(result)
    assert (result.weights["masks"] == 255).any()
    assert result.facts["pictures"] == 5


def test_camvid_stands_in_for_cityscapes(shared_data):
    result = prepared(shared_data, data=CARS)
    check_rule(result)
    facts = result.facts
    assert facts["pictures"] == 468
    assert facts["with_target"] > 100
    assert facts["without_target"] > 200
    assert result.weights["images"].float().flatten(1).std(1).median() > 20
