"""Electron microscopy: pairs by number in Lucchi++ and Kasthuri++, organisms and disjoint parts in CEM500K."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.contracts.dataset_contract import DatasetContract
from tests.trainables import data_trees as trees
from trainables.data import AbsentData, DataError, Listing, WrongRequest, open_dataset, split, survey
from trainables.data.split import split_labels
from trainables.data.stack import load_stack

CEM = {"classification": 40, "pretraining": 30}


class TestLucchi(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.plusplus(tmp_path / "Lucchi++")
        return open_dataset("lucchi", tmp_path)

    def test_image_and_mask_have_one_number(self, listing):
        """The bright columns of each image are those of its mask; sorted names would pair 10 with 2."""
        stack = load_stack(listing, listing.annotated, 30, masks=True)
        inside = slice(5, 25)
        assert np.array_equal(stack.masks[:, inside].numpy() == 1, stack.images[:, 0, inside].numpy() > 128)
        images = sorted(path.name for path in (listing.folder / "Train_In").iterdir())
        masks = sorted(path.name for path in (listing.folder / "Train_Out").iterdir())
        by_name = [
            np.array_equal(
                np.asarray(Image.open(listing.folder / "Train_In" / image)) > 128,
                np.asarray(Image.open(listing.folder / "Train_Out" / mask))[..., 0] > 128,
            )
            for image, mask in zip(images, masks, strict=True)
        ]
        assert not all(by_name)

    def test_official_parts(self, listing):
        assert (len(listing.train), len(listing.evaluation)) == (12, 11)
        assert listing.pretrain == listing.train
        assert listing.classes == ("background", "mitochondrion")


class TestKasthuri(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.plusplus(tmp_path / "kasthuri-plusplus", values=2)
        return open_dataset("kasthuri", tmp_path)

    @pytest.mark.parametrize(("outside", "value"), [("background", 0), ("ignore", 255)])
    def test_what_lies_outside_the_tissue(self, listing, tmp_path, outside, value):
        listing = open_dataset("kasthuri", tmp_path, {"outside": outside})
        masks = load_stack(listing, [0], 30, masks=True).masks
        assert set(masks[0, 24].tolist()) == {value}


def test_values_between_are_a_fault_unless_a_threshold_is_asked_for(tmp_path):
    trees.plusplus(tmp_path / "lucchi", values=130)
    assert len(survey(open_dataset("lucchi", tmp_path)).problems) == 23
    listing = open_dataset("lucchi", tmp_path, {"values": "threshold"})
    assert survey(listing).problems == ()
    assert set(load_stack(listing, [0], 30, masks=True).masks[0, 24].tolist()) == {1}


def test_numbers_that_do_not_pair(tmp_path):
    folder = trees.plusplus(tmp_path / "lucchi")
    (folder / "Train_Out" / "3.png").unlink()
    (problem,) = survey(open_dataset("lucchi", tmp_path)).problems
    assert problem.startswith(f"{folder}/Train_In/mask0003.png: image without a mask")
    (folder / "Train_Out" / "04.png").write_bytes((folder / "Train_Out" / "4.png").read_bytes())
    with pytest.raises(DataError, match=r"4.png: Train_Out/04.png has the number 4 too"):
        open_dataset("lucchi", tmp_path)
    (folder / "Train_Out" / "04.png").rename(folder / "Train_Out" / "x.png")
    with pytest.raises(DataError, match=r"x.png: no number in its name"):
        open_dataset("lucchi", tmp_path)


class TestCEM500K(DatasetContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.cem500k(tmp_path / "cem500k")
        return open_dataset("cem500k", tmp_path, CEM)

    def test_the_parts_share_no_image(self, listing):
        assert not set(listing.pretrain) & set(listing.labelled)
        assert (len(listing.pretrain), len(listing.labelled), len(listing.images)) == (30, 40, 70)

    def test_organisms_follow_the_table_by_the_beginning_of_the_source(self, listing):
        organisms = {"mouse1": "Mouse", "mouse2": "Mouse", "human": "Human", "worm": "C. elegans"}
        for number in listing.labelled:
            source = listing.images[number].split("/")[-1].split("-LOC-")[0]
            assert listing.label_names[listing.labels[number]] == organisms[source]

    def test_other_organisms_pretrain_and_proportions_are_natural(self, listing, tmp_path):
        assert any("fly" in listing.images[number] for number in listing.pretrain)
        whole = open_dataset("cem500k", tmp_path, {"classification": 60, "pretraining": 15})
        assert [whole.labels.count(label) for label in range(3)] == [30, 20, 10]

    def test_the_draw_depends_on_the_seed_and_on_no_folder(self, listing, tmp_path):
        again = open_dataset("cem500k", tmp_path, {**CEM, "seed": 1})
        assert {again.images[n] for n in again.labelled} != {listing.images[n] for n in listing.labelled}
        for path in list((tmp_path / "cem500k").glob("*/*.tiff")):
            path.rename(tmp_path / "cem500k" / path.name)
        flat = open_dataset("cem500k", tmp_path, CEM)
        names = [{listing_.images[n].split("/")[-1] for n in listing_.labelled} for listing_ in (flat, listing)]
        assert names[0] == names[1]


def test_cem500k_says_what_it_lacks(tmp_path):
    folder = trees.cem500k(tmp_path / "CEM500K", table=False)
    with pytest.raises(AbsentData, match=r"organisms.csv: the organisms of the sources are missing; expected a CSV"):
        open_dataset("cem500k", tmp_path, CEM)
    trees.write(tmp_path / "organisms.csv", "name, organism\nmouse, Mouse\n")
    with pytest.raises(DataError, match=r"organisms.csv: cannot read this table \('source'\); expected lines `source"):
        open_dataset("cem500k", tmp_path, CEM)
    trees.write(folder / "organisms.csv", "source,organism\nmouse,Mouse\nhuman,Human\n")
    notes = open_dataset("cem500k", tmp_path, CEM).notes
    assert "cem500k: 2 sources stand in no table, fly the first" in notes
    with pytest.raises(DataError, match="of 75 patches none is left for pretraining; lower `classification`"):
        trees.write(folder / "organisms.csv", "source,organism\nmouse,Mouse\nhuman,Human\nworm,Human\nfly,Mouse\n")
        open_dataset("cem500k", tmp_path)
    with pytest.raises(WrongRequest, match="classes must be two or more organisms"):
        open_dataset("cem500k", tmp_path, {"classes": ["Mouse"]})


@pytest.mark.parametrize(("counts", "sizes"), [((70, 20, 10), (70, 10, 20)), ((45_003, 30_001, 24_996), None)])
def test_labels_are_split_in_the_papers_proportions(counts, sizes):
    """P2: 100,000 images become 70,000 / 10,000 / 20,000, each class in proportion."""
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    names = tuple(f"{n}.tiff" for n in range(len(labels)))
    listing = Listing("cem500k", Path("here"), names, (None,) * len(names), labels, {}, ())
    parts = split_labels(listing, seed=3)
    assert sorted(n for part in parts for n in part) == list(range(len(labels)))
    assert tuple(map(len, parts)) == (sizes or (70_000, 10_000, 20_000))
    for label, count in enumerate(counts):
        found = [sum(labels[n] == label for n in part) for part in parts]
        assert found == pytest.approx([0.7 * count, 0.1 * count, 0.2 * count], abs=1)
    assert set(split_labels(listing, seed=4)[0]) != set(parts[0])
    with pytest.raises(DataError, match="shares must be above 0 and sum to 1"):
        split_labels(listing, 0, (0.5, 0.4))


def test_stand_ins(shared_data):
    """README: 180, 60 and 72 tiles of three sources; sections 0 to 13 train, 14 to 19 evaluate."""
    listing = open_dataset("folder", shared_data, {"path": "em_unlabelled", "labels": "prefix"})
    assert survey(listing).problems == ()
    counts = {name: listing.labels.count(label) for label, name in enumerate(listing.label_names)}
    assert counts == {"hela": 72, "isbi": 60, "s2": 180}
    assert [len(part) for part in split_labels(listing, 0)] == [218, 32, 62]
    mitochondria = open_dataset("folder", shared_data, {"path": "em_mito_vnc", "pretrain": "no-evaluation"})
    assert set(mitochondria.pretrain) == set(mitochondria.train)
    assert len(split(mitochondria, None, None, 0).train) == 126
