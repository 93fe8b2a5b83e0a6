"""The manifest: what makes a file be looked at again, what changes the fingerprint, caches that cannot be trusted."""

import hashlib
import json
import os
import shutil

import pytest

from tests.trainables import data_trees as trees
from trainables.data import open_dataset, survey


@pytest.fixture
def folder(tmp_path):
    return trees.folder_set(tmp_path / "set", values=[0, 1, 2, 2])


def listing_of(folder, target="car", **options):
    classes = {"0": "ground", "1": "car", "2": "bus"}
    return open_dataset("folder", folder.parent, {"path": folder.name, "classes": classes, "target": target, **options})


def decoded(listing, cache):
    """(survey, number of files it decoded)."""
    calls = []
    found = survey(listing, cache_dir=cache, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, len(calls)) for n in range(1, len(calls) + 1)]
    return found, len(calls)


def test_a_record_says_what_the_file_is(folder, tmp_path):
    record = survey(listing_of(folder), cache_dir=tmp_path / "cache").files["masks/p3.png"]
    status = (folder / "masks" / "p3.png").stat()
    assert record == {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": hashlib.sha256((folder / "masks" / "p3.png").read_bytes()).hexdigest(),
        "width": 30,
        "height": 20,
        "values": [0, 1, 2],
        "pixels": None,
        "problem": None,
    }


def test_only_changed_files_are_decoded_again(folder, tmp_path):
    first, count = decoded(listing_of(folder), tmp_path / "cache")
    assert count == 12
    trees.save_image(folder / "images" / "p1.png", seed=99)
    second, count = decoded(listing_of(folder), tmp_path / "cache")
    assert count == 1
    assert second.fingerprint != first.fingerprint
    os.utime(folder / "images" / "p2.png", ns=(1, 1))
    third, count = decoded(listing_of(folder), tmp_path / "cache")
    assert count == 1
    assert third.fingerprint == second.fingerprint


def test_tasks_on_one_folder_share_its_manifest(folder, tmp_path):
    car, _ = decoded(listing_of(folder), tmp_path / "cache")
    bus, count = decoded(listing_of(folder, target="bus"), tmp_path / "cache")
    assert count == 0
    assert car.fingerprint != bus.fingerprint


def test_the_fingerprint_is_that_of_the_content_not_of_the_place(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    assert survey(listing_of(folder)).fingerprint == survey(listing_of(tmp_path / "elsewhere" / "copy")).fingerprint


def test_the_fingerprint_tells_parts_names_and_meanings_apart(folder):
    seen = {survey(listing_of(folder)).fingerprint, survey(listing_of(folder, ignore=[2])).fingerprint}
    for name, stems in (("train", "p0 p1"), ("test", "p2 p3 p4")):
        trees.write(folder / "splits" / f"{name}.txt", stems.replace(" ", "\n"))
    seen.add(survey(listing_of(folder)).fingerprint)
    trees.write(folder / "splits" / "test.txt", "p2\np3")
    seen.add(survey(listing_of(folder)).fingerprint)
    (folder / "images" / "p5.png").rename(folder / "images" / "p6.png")
    seen.add(survey(listing_of(folder)).fingerprint)
    assert len(seen) == 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xff",
        b'{"version": [0, 0], "files": {}}',
        b'{"version": [2, 1], "files": []}',
        b"[" * 5000,
    ],
)
def test_a_broken_manifest_is_made_anew(folder, tmp_path, content):
    reference, _ = decoded(listing_of(folder), tmp_path / "cache")
    (manifest,) = (tmp_path / "cache" / "manifests").iterdir()
    manifest.write_bytes(content)
    shutil.rmtree(tmp_path / "cache" / "verdicts")
    assert decoded(listing_of(folder), tmp_path / "cache") == (reference, 12)
    assert decoded(listing_of(folder), tmp_path / "cache") == (reference, 0)


@pytest.mark.parametrize("record", [None, 3, {}, {"size": 1}, "text"])
def test_a_broken_record_is_made_anew(folder, tmp_path, record):
    reference, _ = decoded(listing_of(folder), tmp_path / "cache")
    (manifest,) = (tmp_path / "cache" / "manifests").iterdir()
    content = json.loads(manifest.read_bytes())
    content["files"]["images/p0.png"] = record
    manifest.write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "cache" / "verdicts")
    assert decoded(listing_of(folder), tmp_path / "cache") == (reference, 1)


def test_a_kept_verdict_needs_no_records(folder, tmp_path):
    reference, _ = decoded(listing_of(folder), tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "manifests")
    found, count = decoded(listing_of(folder), tmp_path / "cache")
    assert (found, count) == (reference, 0)
    assert found.files == reference.files  # decoded anew, as somebody asks


@pytest.mark.parametrize("content", [b"", b"[]", b'{"fingerprint": 3}', b"\xff"])
def test_a_broken_verdict_is_made_anew(folder, tmp_path, content):
    reference, _ = decoded(listing_of(folder), tmp_path / "cache")
    (verdict,) = (tmp_path / "cache" / "verdicts").iterdir()
    verdict.write_bytes(content)
    assert decoded(listing_of(folder), tmp_path / "cache") == (reference, 0)
    assert json.loads(verdict.read_bytes()) == {"fingerprint": reference.fingerprint}


def test_a_faulty_set_has_no_verdict(folder, tmp_path):
    (folder / "masks" / "p0.png").write_bytes(b"no picture")
    for _ in range(2):
        assert survey(listing_of(folder), cache_dir=tmp_path / "cache").problems
    assert not (tmp_path / "cache" / "verdicts").exists()


def test_a_cache_that_cannot_be_written_is_no_error(folder, tmp_path):
    (tmp_path / "file").write_text("")
    reference = survey(listing_of(folder), cache_dir=tmp_path / "cache")
    assert survey(listing_of(folder), cache_dir=tmp_path / "file" / "cache") == reference


def test_the_environment_names_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path / "by name"))
    survey(listing_of(folder))
    assert len(list((tmp_path / "by name" / "manifests").iterdir())) == 1
