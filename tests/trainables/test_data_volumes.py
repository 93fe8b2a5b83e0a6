"""Volumes: cube files, CT scans against SimpleITK, cutting cubes, and the synthetic nodules."""

import re

import numpy as np
import pytest
import torch

from tests.contracts.dataset_contract import VolumeContract
from tests.trainables import data_trees as trees
from trainables.context import Context, StageError
from trainables.data import AbsentData, DataError, WrongRequest, open_dataset, split, survey
from trainables.data.cube_cutting import cut_cubes, prepare_cubes
from trainables.data.cube_stack import load_cubes
from trainables.data.scans import read_scan
from trainables.randomness import generator
from trainables.settings.datasets import CubeSettings

SMALL = {"kind": "cubes", "cubes": 3, "width": 8, "depth": 8, "border": 4, "border_z": 3}


class TestLIDC(VolumeContract):
    @pytest.fixture
    def listing(self, tmp_path):
        trees.lidc(tmp_path / "lidc-nodules")
        return open_dataset("lidc-nodules", tmp_path)

    def test_parts(self, listing):
        assert [len(part) for part in (listing.train, listing.validation, listing.evaluation)] == [6, 4, 3]
        assert len(split(listing, None, None, 0).train) == 6
        assert "lidc-nodules: train cubes: 6, the published set has 4082" in listing.notes

    def test_cubes_equal_the_files(self, listing):
        stack = load_cubes(listing, listing.evaluation, masks=True)
        cubes, masks = (np.load(listing.folder / f"{kind}_test_64x64x32.npy")[:, 0] for kind in "xm")
        assert np.array_equal(stack.cubes.numpy(), cubes.astype(np.float16))
        assert np.array_equal(stack.masks.numpy(), masks)

    @pytest.mark.parametrize(
        ("file", "change", "message"),
        [
            ("m_train", lambda m: m * 77, "this mask holds the value 77; allowed are 0, 1"),
            ("m_train", lambda m: m * 0.5, "this mask holds the value 0.5; expected a mask of whole numbers"),
            ("m_valid", lambda m: m[..., :-1], "this mask has 4 x 16 x 16 x 7 voxels; expected 4 x 16 x 16 x 8"),
            (
                "x_test",
                lambda x: x - 0.5,
                r"this image holds values from -0.\d+ to 0.\d+; expected numbers in \[0, 1\]",
            ),
            ("x_test", lambda x: x * np.nan, "this image holds values from nan to nan"),
        ],
    )
    def test_faults(self, listing, tmp_path, file, change, message):
        path = listing.folder / f"{file}_64x64x32.npy"
        np.save(path, change(np.load(path)))
        with pytest.raises(DataError, match=rf"{file}_64x64x32.npy: {message}"):
            survey(open_dataset("lidc-nodules", tmp_path)).check()

    def test_files_that_are_no_cubes(self, listing, tmp_path):
        path = listing.folder / "x_train_64x64x32.npy"
        content = path.read_bytes()
        for broken, message in [
            (content[:500], "cannot be read"),
            (b"", "cannot be read"),
            (b"garbage", "cannot be read"),
        ]:
            path.write_bytes(broken)
            with pytest.raises(DataError, match=f"x_train_64x64x32.npy: this file {message}"):
                open_dataset("lidc-nodules", tmp_path)
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match=r"x_train_64x64x32.npy: this file cannot be read"):
            open_dataset("lidc-nodules", tmp_path)
        np.save(path, np.zeros((3, 4)))
        with pytest.raises(DataError, match=r"has shape \[3, 4\]; expected a .npy array \[n, X, Y, Z\]"):
            open_dataset("lidc-nodules", tmp_path)
        path.unlink()
        with pytest.raises(AbsentData, match=r"expected one file x_train_64x64x32.npy, but there is none"):
            open_dataset("lidc-nodules", tmp_path)

    def test_every_cube_needs_its_mask(self, listing, tmp_path):
        path = listing.folder / "m_valid_64x64x32.npy"
        np.save(path, np.load(path)[:-1])
        with pytest.raises(DataError, match=r"m_valid_64x64x32.npy: 3 masks, but x_valid_64x64x32.npy has 4 cubes"):
            open_dataset("lidc-nodules", tmp_path)


class TestLUNA16Cubes(VolumeContract):
    @pytest.fixture(params=["bat_32_s_64x64x32_{}.npy", "bat_32_64x64x32_{}.npy"])
    def listing(self, tmp_path, request):
        trees.luna16_cubes(tmp_path / "LUNA16", request.param)
        return open_dataset("luna16", tmp_path)

    def test_folds(self, listing):
        assert (len(listing.pretrain), len(listing.validation), len(listing.images)) == (10, 4, 14)
        assert [listing.labels[n] for n in listing.validation] == [5, 5, 6, 6]

    def test_a_prepare_stage_gives_them_as_they_are(self, listing, tmp_path):
        spec = {"data": {"reader": "luna16"}, "prepare": SMALL, "seed": 0}
        result = prepare_cubes(spec, Context(tmp_path, tmp_path / "work"))
        stored = load_cubes(listing, range(14), masks=False).cubes
        assert torch.equal(result.weights["cubes"], stored)
        assert result.weights["part"].tolist() == [0] * 10 + [1] * 4
        assert result.facts == {"volumes": 14, "cubes": 14, "training": 10, "validation": 4, "without_cubes": 0}


class TestNodules(VolumeContract):
    @pytest.fixture
    def listing(self):
        return open_dataset("nodules", "nowhere", {"count": 20, "width": 32, "depth": 16})

    def test_they_are_a_function_of_seed_and_number(self, listing):
        other = open_dataset("nodules", "", {"count": 30, "width": 32, "depth": 16})
        seeded = open_dataset("nodules", "", {"count": 20, "width": 32, "depth": 16, "seed": 1})
        a, b, c = (load_cubes(each, [7, 3], masks=True) for each in (listing, other, seeded))
        assert torch.equal(a.cubes, b.cubes)
        assert not torch.equal(a.cubes, c.cubes)

    def test_every_cube_has_a_nodule_that_no_threshold_finds(self):
        stack = load_cubes(open_dataset("nodules", "", {"count": 12}), range(12), masks=True)
        assert stack.cubes.shape == (12, 64, 64, 32)
        shares = stack.masks.float().flatten(1).mean(1)
        assert shares.min() > 0.001
        assert shares.max() < 0.15
        dense = stack.cubes > 90  # vessels and walls are as dense as nodules
        inside = stack.masks == 1
        dice = 2 * (dense & inside).sum() / (dense.sum() + inside.sum())
        assert (dense & inside).sum() / inside.sum() > 0.9
        assert dice < 0.75

    def test_too_small(self):
        with pytest.raises(WrongRequest, match="count must be at least 8, width 16 and depth 8, but got 4, 64, 32"):
            open_dataset("nodules", "", {"count": 4})


@pytest.mark.parametrize("compressed", [False, True])
def test_scans_equal_simpleitk(tmp_path, compressed):
    sitk = pytest.importorskip("SimpleITK")
    hu = np.random.RandomState(0).randint(-1200, 3000, (7, 5, 4)).astype(np.int16)
    trees.save_scan(tmp_path / "ours.mhd", hu, compressed)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ours.mhd"))).transpose(2, 1, 0)
    assert np.array_equal(read_scan(tmp_path / "ours.mhd"), theirs)
    for kind in (np.int16, np.float32, np.uint8):
        image = sitk.GetImageFromArray(hu.astype(kind).transpose(2, 1, 0))
        sitk.WriteImage(image, str(tmp_path / "theirs.mhd"), useCompression=compressed)
        assert np.array_equal(read_scan(tmp_path / "theirs.mhd"), hu.astype(kind))


def test_cubes_are_cut_from_scans(tmp_path):
    trees.luna16_scans(tmp_path / "luna16")
    listing = open_dataset("luna16", tmp_path)
    assert (listing.kind, listing.pretrain, listing.validation) == ("scans", (0, 1), (2,))
    found = survey(listing)
    assert found.problems == ()
    spec = {"data": {"reader": "luna16"}, "prepare": SMALL, "seed": 0}
    result = prepare_cubes(spec, Context(tmp_path, tmp_path / "work", fingerprint=found.fingerprint))
    cubes = result.weights["cubes"]
    assert (cubes.shape, cubes.dtype) == ((9, 8, 8, 8), torch.float16)
    assert result.weights["part"].tolist() == [0] * 6 + [1] * 3
    assert result.facts["without_cubes"] == 0
    assert ((cubes >= 0.425).float().flatten(1).mean(1) <= 0.15).all()
    assert torch.equal(prepare_cubes(spec, Context(tmp_path, tmp_path)).weights["cubes"], cubes)
    other = prepare_cubes({**spec, "seed": 1}, Context(tmp_path, tmp_path)).weights["cubes"]
    assert not torch.equal(other, cubes)
    with pytest.raises(DataError, match="holds whole scans; cut cubes from them by a `prepare` stage"):
        load_cubes(listing, [0], masks=False)


def test_the_score_of_tissue_and_the_borders():
    """By hand: in a scan that counts its own voxels, cubes lie within the borders; dense ones are refused."""
    scan = np.full((40, 36, 30), -900, np.int16)
    scan[..., 15:] = 40
    settings = CubeSettings(cubes=6, width=8, depth=8, border=4, border_z=3, tissue=0.15, tries=50)
    for seed in range(20):
        for cube in cut_cubes(scan, settings, generator(seed, "cut")):
            dense = cube >= 0.425
            below = np.concatenate([dense[:, :, 1:], np.ones_like(dense[:, :, :1])], axis=2)  # what lies below is dense
            score = np.where(dense, 1.0, 0.5 * below).mean()
            assert dense.any() is np.False_ or score <= 0.15
            assert dense.mean() <= 1 / 8  # of eight layers one, since two would score 0.25 + 0.0625
    seen = set()
    scan = np.arange(40 * 36 * 30).reshape(40, 36, 30) % 2000 - 1000.0
    index = np.stack(np.unravel_index(np.arange(40 * 36 * 30), scan.shape), 1)
    for axis, (side, border, room) in enumerate([(8, 4, 0), (8, 4, 0), (8, 3, 3)]):
        line = index[:, axis].reshape(scan.shape) * 10.0 - 1000
        wide = CubeSettings(cubes=200, width=8, depth=8, border=4, border_z=3, tissue=1.0)
        starts = [round(float(cube[0, 0, 0]) * 200) for cube in cut_cubes(line, wide, generator(0, axis))]
        seen.add((min(starts), max(starts)))
        assert min(starts) == border
        assert max(starts) == scan.shape[axis] - side - room - 1 - border  # the official generator's last place
    assert len(seen) == 3


def test_scans_that_are_too_short_or_dense_give_none(tmp_path):
    trees.luna16_scans(tmp_path / "luna16", folds=(0, 1))
    trees.save_scan(tmp_path / "luna16" / "subset2" / "flat.mhd", np.full((40, 36, 9), -900))
    trees.save_scan(tmp_path / "luna16" / "subset5" / "full.mhd", np.full((40, 36, 30), 40))
    spec = {"data": {"reader": "luna16"}, "prepare": SMALL, "seed": 0}
    result = prepare_cubes(spec, Context(tmp_path, tmp_path / "work"))
    assert result.weights["sources"].tolist() == [0, 0, 0, 1, 1, 1]
    assert result.facts["without_cubes"] == 2
    with pytest.raises(StageError, match=r"none of 4 scans .* gave a cube of 64 x 64 x 8; lower prepare.border"):
        prepare_cubes({**spec, "prepare": {**SMALL, "width": 64}}, Context(tmp_path, tmp_path / "work"))
    with pytest.raises(StageError, match="cubes: shapes holds pictures; expected volumes"):
        prepare_cubes({**spec, "data": {"reader": "shapes"}}, Context(tmp_path, tmp_path / "work"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.with_suffix(".raw").write_bytes(b"\0" * 100), r"has 100 bytes of data; expected 86400 for"),
        (lambda p: p.with_suffix(".raw").unlink(), r"cannot be read \(1.3.6.0.raw: No such file"),
        (lambda p: p.write_text("DimSize = 4 4\nElementType = MET_SHORT\n"), "has a header that cannot be used"),
        (
            lambda p: p.write_text(p.read_text().replace("1.3.6.0.raw", "../../x.raw")),
            "names the data file '../../x.raw'",
        ),
    ],
)
def test_broken_scans_are_named(tmp_path, change, message):
    trees.luna16_scans(tmp_path / "luna16")
    path = tmp_path / "luna16" / "subset0" / "1.3.6.0.mhd"
    change(path)
    (problem,) = survey(open_dataset("luna16", tmp_path)).problems
    assert problem.startswith(f"{path}: this image ")
    assert re.search(message, problem)


def test_a_scan_whose_data_changed_is_looked_at_again(tmp_path):
    trees.luna16_scans(tmp_path / "luna16")
    first = survey(open_dataset("luna16", tmp_path)).fingerprint
    path = tmp_path / "luna16" / "subset0" / "1.3.6.0.raw"
    path.write_bytes(path.read_bytes()[::-1])
    assert survey(open_dataset("luna16", tmp_path)).fingerprint != first


def test_luna16_says_what_it_lacks(tmp_path):
    (tmp_path / "luna16").mkdir()
    with pytest.raises(AbsentData, match=r"nothing of the folds 0, 1, 2, 3, 4; expected bat_32_s_64x64x32"):
        open_dataset("luna16", tmp_path)
    with pytest.raises(WrongRequest, match="fold 1 both pretrains and validates"):
        open_dataset("luna16", tmp_path, {"folds": [0, 1], "validation_folds": [1]})
