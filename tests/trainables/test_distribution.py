"""The distribution of groups over the parts of a dataset [P2 Fig. 7] against counts by hand and from file names."""

import csv
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.trainables import data_trees as trees
from trainables.analyses import analyse
from trainables.context import Context, StageError
from trainables.data import open_dataset

ORGANISM = {"mouse1": "Mouse", "mouse2": "Mouse", "human": "Human", "worm": "C. elegans", "fly": "Drosophila"}


def spec(reader="cem500k", options=None, **more):
    options = {"classification": 60, "pretraining": 15} if options is None else options
    return {"analysis": {"kind": "distribution"}, "data": {"reader": reader, "options": options}, **more}


@pytest.fixture
def context(tmp_path):
    return lambda root=tmp_path: Context(root, tmp_path / "work", cache_dir=tmp_path / "cache")


@pytest.fixture
def cem(tmp_path):
    return trees.cem500k(tmp_path / "cem500k")


def rows_of(result):
    return list(csv.DictReader(io.StringIO(result.files["distribution.csv"].decode())))


def counts_of(result):
    return {(row["part"], row["group"]): int(row["images"]) for row in rows_of(result)}


def assert_fit_to_print(result):
    picture = np.asarray(Image.open(io.BytesIO(result.files["distribution.png"])).convert("RGB"))
    rim = [picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]]
    assert all((side == 255).all() for side in rim) and picture.std() > 10


def test_organisms_of_both_parts_counted_by_hand(cem, context):
    """30 of mouse, 20 of human, 10 of worm are all wanted for classification, so that the 15 of fly are left."""
    result = analyse(spec(), context())
    found = {place: n for place, n in counts_of(result).items() if n}
    wanted = {"Mouse": 30, "Human": 20, "C. elegans": 10}
    assert found == {("labelled", name): n for name, n in wanted.items()} | {("pretrain", "Drosophila"): 15}
    rows = rows_of(result)
    assert [row["group"] for row in rows] == 2 * ["Mouse", "Human", "Drosophila", "C. elegans"]  # by their numbers
    assert [float(row["share"]) for row in rows] == pytest.approx([0.5, 1 / 3, 0, 1 / 6, 0, 0, 1, 0])
    assert result.metrics["images/labelled/mouse"] == 30 and result.metrics["images/pretrain/c.-elegans"] == 0
    assert_fit_to_print(result)
    assert analyse(spec(), context()).files == result.files


def test_organisms_of_a_draw_counted_from_the_names_of_its_files(cem, context, tmp_path):
    options = {"classification": 25, "pretraining": 30, "seed": 3}
    listing = open_dataset("cem500k", tmp_path, options)
    counts = counts_of(analyse(spec(options=options), context()))
    for part in ("labelled", "pretrain"):
        sources = (listing.images[n].split("/")[-1].split("-LOC-")[0] for n in getattr(listing, part))
        expected = Counter(ORGANISM[source] for source in sources)
        assert {name: n for (where, name), n in counts.items() if where == part and n} == expected


def test_sources_that_no_table_names_are_not_known_and_stand_last(cem, context):
    trees.write(cem / "organisms.csv", "source,organism\nhuman,Human\nworm,C. elegans\n")
    result = analyse(spec(options={"classification": 5, "pretraining": 70}), context())
    assert [row["group"] for row in rows_of(result)][:3] == ["Human", "C. elegans", "not known"]
    assert counts_of(result)["pretrain", "not known"] == 45
    assert_fit_to_print(result)


def test_one_part_and_its_own_title(cem, context):
    one = {**spec(), "analysis": {"kind": "distribution", "parts": ["pretrain"]}}
    result = analyse(one, context())
    assert {part for part, _ in counts_of(result)} == {"pretrain"}
    named = analyse({**one, "names": {"pretrain": "(b) second part"}}, context())
    assert named.files["distribution.png"] != result.files["distribution.png"]
    assert named.metrics == result.metrics


def test_labels_stand_for_groups_where_a_set_tells_none(context, shared_data):
    """The numbers of tiles that the README of the set names."""
    options = {"path": "em_unlabelled", "labels": "prefix"}
    counts = counts_of(analyse(spec("folder", options), context(shared_data)))
    tiles = {"s2": 180, "hela": 72, "isbi": 60}
    assert counts == {(part, name): n for part in ("labelled", "pretrain") for name, n in tiles.items()}


def test_what_cannot_be_counted_is_told(cem, context, tmp_path):
    with pytest.raises(StageError, match="shapes does not tell what its images show; expected labels"):
        analyse(
            {**spec("shapes", {"count": 12, "size": 32}), "analysis": {"kind": "distribution", "parts": ["pretrain"]}},
            context(),
        )
    planned = open_dataset("cem500k", tmp_path, spec()["data"]["options"]).group_digest
    analyse(spec(groups=planned), context())
    trees.write(cem / "organisms.csv", "source,organism\nmouse,Mouse\nhuman,Human\nworm,C. elegans\nfly,Fly\n")
    with pytest.raises(StageError, match="show changed since the plan"):
        analyse(spec(groups=planned), context())
