"""The small real datasets beside the repository: counts and values as their READMEs state them."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from trainables.data import open_dataset, split, survey
from trainables.data.stack import load_stack

CAMVID = dict(
    enumerate(
        ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    )
)
CAMVID_CLASSES = {str(value): name for value, name in CAMVID.items()}


def folder(path, **options):
    return "folder", {"path": path, **options}


# reader and options, (images, pool, train, evaluation), share of object among the counted pixels of the task
SETS = {
    "flowers17": (("flowers17", {}), (1147, 693, 0, 0), (0.25, 0.40)),
    "pets": (("pets", {}), (499, 499, 0, 0), (0.30, 0.55)),
    "mitochondria": (folder("em_mito_vnc"), (180, 0, 126, 54), (0.0535, 0.0545)),  # README: 5.4 % of pixels
    "cars": (folder("camvid", classes=CAMVID_CLASSES, target="car", ignore=[11]), (468, 0, 367, 101), (0.02, 0.10)),
    "nodules": (folder("lidc_nodule_patches"), (29, 0, 16, 13), (0.01, 0.15)),
    "unlabelled": (folder("em_unlabelled"), (312, 0, 0, 0), None),
}


@pytest.mark.parametrize("name", SETS)
def test_counts_and_shares(shared_data, name):
    (reader, options), counts, share = SETS[name]
    listing = open_dataset(reader, shared_data, options)
    found = survey(listing)
    assert found.problems == ()
    assert (len(listing.images), len(listing.pool), len(listing.train), len(listing.evaluation)) == counts
    assert listing.pretrain == tuple(range(counts[0]))
    if share is not None:
        stack = load_stack(listing, listing.annotated, 64, masks=True, fingerprint=found.fingerprint)
        objects, counted = (stack.masks == 1).sum(), (stack.masks != 255).sum()
        assert share[0] < objects / counted < share[1]
        assert stack.images.float().flatten(1).std(1).min() > 5  # no picture is one flat colour


def test_a_class_without_any_pixel_is_found(shared_data):
    options = {"path": "camvid", "classes": {**CAMVID_CLASSES, "11": "void", "12": "bus"}, "target": "bus"}
    (problem,) = survey(open_dataset("folder", shared_data, options)).problems
    assert "no mask has a pixel of the class bus; expected the value 12" in problem


def test_parts_are_those_of_the_lists(shared_data):
    listing = open_dataset("folder", shared_data, {"path": "em_mito_vnc"})
    assert {listing.images[n][:12] for n in listing.train} == {f"images/s1_{n:02d}" for n in range(14)}
    assert {listing.images[n][:12] for n in listing.evaluation} == {f"images/s1_{n}" for n in range(14, 20)}


def test_pets_follow_the_list_and_know_their_breed(shared_data):
    listing = open_dataset("pets", shared_data)
    names = {
        name.removeprefix("images/").removesuffix(".jpg"): label
        for name, label in zip(listing.images, listing.labels, strict=True)
    }
    assert not {"Abyssinian_34", "Abyssinian_82"} & names.keys()
    breeds = {(name.rpartition("_")[0], label) for name, label in names.items()}
    assert breeds == {("Abyssinian", 0), ("american_bulldog", 1), ("Bengal", 5)}


def test_pets_equal_torchvision(shared_data, tmp_path):
    (tmp_path / "oxford-iiit-pet").symlink_to(shared_data / "oxford_pets")
    listing = open_dataset("pets", tmp_path)
    stack = load_stack(listing, range(len(listing.images)), 64, masks=True)
    options = {"target_types": ["category", "segmentation"], "download": False}
    for part, count in (("trainval", 245), ("test", 254)):
        theirs = torchvision.datasets.OxfordIIITPet(tmp_path, split=part, **options)
        assert len(theirs) == count
        for item in range(0, count, 25):
            image, (label, trimap) = theirs[item]
            number = listing.images.index(f"images/{theirs._images[item].name}")
            top, left, height, width = stack.boxes[number].tolist()
            inside = (slice(top, top + height), slice(left, left + width))
            small = image.resize((width, height), Image.Resampling.BILINEAR)
            assert np.array_equal(stack.images[number].permute(1, 2, 0).numpy()[inside], np.asarray(small))
            small = np.asarray(trimap.resize((width, height), Image.Resampling.NEAREST))
            assert np.array_equal(stack.masks[number].numpy()[inside] == 1, np.isin(small, (1, 3)))
            assert listing.labels[number] == label


def test_fractions_of_what_is_there(shared_data):
    listing = open_dataset("flowers17", shared_data)
    assert [len(split(listing, fraction, None, 0).train) for fraction in (0.01, 0.05, 0.2)] == [7, 35, 139]
    assert listing.labels[listing.images.index("jpg/image_0081.jpg")] == 1
    assert max(listing.labels) == 16


def test_unlabelled_rims_do_not_count(shared_data):
    """Flowers 17 pictures fill the square, so all that is not counted is rim."""
    numbers = open_dataset("flowers17", shared_data).pool[:20]
    ignore, ground = (
        load_stack(open_dataset("flowers17", shared_data, {"rim": rim}), numbers, 64, masks=True).masks
        for rim in ("ignore", "background")
    )
    assert set(ground.unique().tolist()) == {0, 1}
    assert torch.equal(ignore == 1, ground == 1)
    assert 0.02 < (ignore == 255).float().mean() < 0.3
