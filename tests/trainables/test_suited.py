"""What is enough to pretrain on: counted by hand, and the same for planning as for the stage itself."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.context import Context, StageError
from trainables.data import Listing, open_dataset
from trainables.data.suited import LEAST_IMAGES, class_count, suited, why_not_prepared, why_not_pretrained
from trainables.pretexts.samples import load_samples

MASKS, LABELS = frozenset({"masks"}), frozenset({"labels"})
PLACE = Path("/sets/mine")


def listing(masks=(), labels=(), seen=None, **given):
    """Images with masks where there is a 1, labels as given; pretraining sees all or the numbers `seen`."""
    count = max(len(masks), len(labels))
    names = tuple(f"{n}.png" for n in range(count))
    having = tuple(name if has else None for name, has in zip(names, masks or (0,) * count, strict=True))
    values = {0: 0, 1: 1} if any(masks) else {}
    everyone = tuple(range(count)) if seen is None else seen
    return Listing("mine", PLACE, names, having, tuple(labels) or (None,) * count, values, everyone, **given)


@pytest.mark.parametrize(
    ("found", "needs", "numbers", "classes"),
    [
        (listing([1, 0, 1, 1]), frozenset(), (0, 1, 2, 3), 0),
        (listing([1, 0, 1, 1]), MASKS, (0, 2, 3), 2),
        (listing([1, 0, 1, 1], seen=(1, 2)), MASKS, (2,), 2),
        (listing([1, 0, 1, 1]), LABELS, (), 0),
        (listing(labels=[0, None, 2, 0]), LABELS, (0, 2, 3), 3),
        (listing(labels=[0, 0, 0, 0], label_names=("cat", "dog")), LABELS, (0, 1, 2, 3), 2),
        (listing([1, 1, 0], [0, None, 1]), MASKS | LABELS, (0,), 2),
    ],
)
def test_images_and_classes_are_those_with_the_targets(found, needs, numbers, classes):
    assert (suited(found, needs), class_count(found, needs)) == (numbers, classes)


FEW = "mine: pretraining needs at least 4 images{}, 2 of them for validation, but /sets/mine has {}"


@pytest.mark.parametrize(
    ("found", "needs", "says"),
    [
        (listing([1] * 4), MASKS, None),
        (listing([1] * 3 + [0]), MASKS, FEW.format(" with masks", 3)),
        (listing([0] * 3), frozenset(), FEW.format("", 3)),
        (listing([0] * 4), frozenset(), None),
        (listing([1] * 9), LABELS, FEW.format(" with image labels", 0)),
        (listing(labels=[0] * 4), LABELS, "mine: expected at least 2 classes, but /sets/mine has 1"),
        (listing(labels=[0, 0, 0, 1]), LABELS, None),
    ],
)
def test_four_images_of_two_classes_are_enough(found, needs, says):
    assert why_not_pretrained("mine", found, needs) == says


PATCHES, COLOURS = {"kind": "car-patches", "exclude_val": False}, {"kind": "colorize"}
CUBES = {"kind": "cubes", "cubes": 8}
VOLUMES = "mine: pretraining needs at least 2 cubes for training and 2 for validation, but /sets/mine has {}"


def volumes(training, validation, kind):
    numbers = tuple(range(training + validation))
    return listing([0] * len(numbers), seen=numbers[:training], validation=numbers[training:], kind=kind)


@pytest.mark.parametrize(
    ("found", "dials", "says"),
    [
        (listing([1] * 4, pool=(0, 1, 2, 3)), PATCHES, None),
        (listing([1] * 4, pool=(0, 1, 2)), PATCHES, FEW.format(" with masks", 3)),
        (listing([1] * 6, train=(0, 1), evaluation=(2, 3, 4, 5)), PATCHES, None),
        (listing([1] * 6, train=(0, 1), evaluation=(2, 3, 4, 5)), PATCHES | {"exclude_val": True},
         FEW.format(" with masks", 2)),
        (listing([0] * 4), COLOURS, None),
        (listing([0] * 4, seen=(3,)), COLOURS, FEW.format("", 1)),
        (volumes(2, 2, "cubes"), CUBES, None),
        (volumes(9, 1, "cubes"), CUBES, VOLUMES.format("9 and 1 volumes")),
        (volumes(9, 1, "scans"), CUBES, None),
        (volumes(9, 0, "scans"), CUBES, VOLUMES.format("9 and 0 scans")),
        (volumes(1, 1, "scans"), CUBES | {"cubes": 1}, VOLUMES.format("1 and 1 scans")),
    ],
)  # fmt: skip
def test_what_is_to_be_prepared_must_give_enough(found, dials, says):
    assert why_not_prepared("mine", found, dials) == says


def folder(root, labels, masks):
    """A `folder` data set: pictures named by their label, all with masks or none."""
    for place in ("images", "masks") if masks else ("images",):
        (root / "mine" / place).mkdir(parents=True)
        for number, label in enumerate(labels):
            pixels = np.zeros((16, 16), np.uint8)
            pixels[4:8, 4 : 6 + number] = 255
            Image.fromarray(pixels).save(root / "mine" / place / f"{label}_{number}.png")


@pytest.mark.parametrize("needs", [frozenset(), MASKS, LABELS])
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("labels", ["aab", "aabb", "aaaa"])
def test_planning_and_the_stage_say_the_same(tmp_path, labels, masks, needs):
    folder(tmp_path, labels, masks)
    data = {"reader": "folder", "options": {"path": "mine", "labels": "prefix"}}
    found = open_dataset("folder", tmp_path, data["options"], cache_dir=tmp_path / "cache")
    context = Context(tmp_path, tmp_path / "work", cache_dir=tmp_path / "cache")
    try:
        assert len(load_samples(data, needs, 16, 2 * LEAST_IMAGES, context)) == 4
        said = None
    except StageError as error:
        said = str(error)
    assert why_not_pretrained("folder", found, needs) == said
    enough = len(labels) == 4 and (masks or needs != MASKS) and (needs != LABELS or set(labels) == {"a", "b"})
    assert (said is None) is enough
