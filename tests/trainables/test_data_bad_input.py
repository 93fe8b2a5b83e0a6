"""Bad data: one clear message each, that names the file and what was expected, before anything trains."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.trainables import data_trees as trees
from trainables.data import DataError, open_dataset, survey
from trainables.data.stack import load_stack


@pytest.fixture
def folder(tmp_path):
    """A sound set; the path has spaces and letters of other alphabets."""
    return trees.folder_set(tmp_path / "données 花 it's" / "set")


def listing_of(folder, **options):
    return open_dataset("folder", folder.parent, {"path": folder.name, **options})


def only_problem(folder, **options):
    problems = survey(listing_of(folder, **options)).problems
    assert len(problems) == 1, problems
    return problems[0]


def truncate(path, keep=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("reader", ["flowers17", "flowers102", "pets"])
def test_a_missing_data_root_and_folder(tmp_path, reader):
    with pytest.raises(DataError, match="nowhere: cannot read the data root"):
        open_dataset(reader, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no folder .* or .*; expected one with .*jpg"):
        open_dataset(reader, tmp_path)


def test_a_missing_folder_names_all_names_it_could_have(tmp_path):
    with pytest.raises(DataError, match="no folder oxford-iiit-pet or oxford_pets or pets; expected one with images"):
        open_dataset("pets", tmp_path)


def test_empty_folders(tmp_path):
    for name in ("17flowers/jpg", "flowers-102/jpg", "pets/annotations", "pets/images", "set/images"):
        (tmp_path / name).mkdir(parents=True)
    for reader, options, message in [
        ("flowers17", {}, r"jpg: no image_NNNN.jpg in it"),
        ("flowers102", {}, r"jpg: no image_NNNNN.jpg in it"),
        ("pets", {}, r"annotations: no list.txt, trainval.txt or test.txt"),
        ("folder", {"path": "set"}, r"images: no picture in it; expected .png, .jpg"),
        ("folder", {"path": "elsewhere"}, r"elsewhere: no such folder; expected one with images/, and masks/"),
        ("folder", {}, "`path` is missing"),
    ]:
        with pytest.raises(DataError, match=message):
            open_dataset(reader, tmp_path, options)


@pytest.mark.parametrize(
    ("reader", "options", "message"),
    [
        ("cats", {}, "no dataset reader 'cats'; there are shapes, "),
        ("pets", {"boarder": "ignore"}, "options of pets: PetsOptions has no boarder; it has border"),
        ("pets", {"border": "maybe"}, "border must be foreground or background or ignore, but got 'maybe'"),
        ("shapes", {"count": "many"}, "count must be a whole number, but got 'many'"),
        ("shapes", {"count": 0}, "count must be at least 1"),
    ],
)
def test_wrong_requests(tmp_path, reader, options, message):
    with pytest.raises(DataError, match=message):
        open_dataset(reader, tmp_path, options)


@pytest.mark.parametrize("name", ["p2.png", "p2.jpg", "p2.bmp", "p2.tif"])
def test_a_truncated_image(folder, name):
    (folder / "images" / "p2.png").unlink()
    trees.save_image(folder / "images" / name, height=60, width=90)
    trees.save_mask(folder / "masks" / "p2.png", [0, 255, 0, 0], height=60, width=90)
    assert survey(listing_of(folder)).problems == ()
    truncate(folder / "images" / name)
    message = only_problem(folder)
    assert message.startswith(f"{folder / 'images' / name}: this image cannot be decoded")
    assert message.endswith("expected a whole picture")


def test_a_file_that_is_no_picture_or_empty(folder):
    for content in (b"<html>not found</html>", b""):
        (folder / "masks" / "p1.png").write_bytes(content)
        assert only_problem(folder).startswith(
            f"{folder / 'masks' / 'p1.png'}: this mask cannot be decoded (no picture"
        )


def test_the_stack_names_a_broken_file_too(folder):
    listing = listing_of(folder)
    fingerprint = survey(listing).fingerprint
    truncate(folder / "images" / "p3.png")
    with pytest.raises(DataError, match=r"p3.png: this image cannot be decoded"):
        load_stack(listing, [0], 16, masks=True, fingerprint=fingerprint)
    with pytest.raises(DataError, match=r"p3.png: this image cannot be decoded"):
        load_stack(listing, [0], 16, masks=True)


def test_a_mask_of_another_size(folder):
    trees.save_mask(folder / "masks" / "p4.png", [0, 255, 0, 0], height=30, width=20)
    assert only_problem(folder) == (
        f"{folder / 'masks' / 'p4.png'}: this mask has 20 x 30 pixels; expected 30 x 20, the size of images/p4.png"
    )


def test_an_unknown_mask_value(folder):
    trees.save_mask(folder / "masks" / "p0.png", [0, 7, 9, 0])
    message = f"{folder / 'masks' / 'p0.png'}: this mask holds the values 7, 9; allowed are 0, 1, 255"
    assert only_problem(folder) == message
    with pytest.raises(DataError, match="holds the values 7, 9; allowed are 0, 1, 255"):
        load_stack(listing_of(folder), [0], 16, masks=True, fingerprint="given")


def test_an_unknown_mask_colour(folder):
    trees.save_mask(folder / "masks" / "p0.png", [(0, 0, 0), (1, 2, 3), (0, 0, 0), (0, 0, 0)])
    assert "holds the value (1, 2, 3); allowed are" in only_problem(folder)


def test_a_missing_mask(folder):
    (folder / "masks" / "p5.png").unlink()
    assert only_problem(folder).startswith(f"{folder / 'images' / 'p5.png'}: image without a mask")
    with pytest.raises(DataError, match=r"p5.png: image without a mask"):
        load_stack(listing_of(folder), [0, 5], 16, masks=True)
    trees.write(folder / "splits" / "unlabelled.txt", "p5\n")
    listing = listing_of(folder)
    assert survey(listing).problems == ()
    assert (listing.pool, listing.pretrain) == ((0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5))


def test_a_file_that_goes_after_listing(folder):
    listing = listing_of(folder)
    (folder / "images" / "p1.png").unlink()
    (folder / "images" / "p1.png").symlink_to("nowhere")
    assert [p.split(": ", 1)[1] for p in survey(listing).problems] == [
        "this image cannot be read (No such file or directory); expected a picture"
    ]
    (folder / "images" / "p1.png").unlink()
    assert "p1.png: this image is missing" in survey(listing).problems[0]


def test_a_file_that_could_not_be_read_is_looked_at_again(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # root may read every file, so the refusal is made here
        patch.setattr("pathlib.Path.read_bytes", refuse)
        problems = survey(listing_of(folder)).problems
    assert len(problems) == 12
    assert "cannot be read (Permission denied)" in problems[0]
    assert survey(listing_of(folder)).problems == ()


def test_a_mask_without_an_image_is_noted(folder):
    (folder / "images" / "p5.png").unlink()
    assert listing_of(folder).notes == ("folder: 1 masks have no image, masks/p5.png the first",)


def test_a_class_without_a_pixel(folder):
    classes = {"0": "ground", "255": "cell", "3": "nucleus"}
    message = f"{folder}: no mask has a pixel of the class nucleus; expected the value 3"
    assert only_problem(folder, classes=classes, target="nucleus") == message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("splits/train.txt", b"\xff\xfe\x00p0", "train.txt: this list is no UTF-8 text; expected image names"),
        ("splits/train.txt", b"p0\0/p1\n", "train.txt: this list holds NUL bytes, .*; expected image names"),
        ("splits/train.txt", b"p0\np77\n", r"train.txt: no image of the name 'p77' in .*images"),
        ("splits/train.txt", b"p0\n", "splits: expected train.txt with test.txt or val.txt"),
        ("splits/test.txt", b"p0\n", "splits: expected train.txt with test.txt or val.txt"),
        ("classes.yaml", b"{: [", "classes.yaml: cannot be read"),
        ("classes.yaml", b"1: 2024-13-45\n", r"classes.yaml: cannot be read \(month must be .*; expected"),
        ("classes.yaml", b"1: " + b"[" * 3000, r"classes.yaml: cannot be read \(nested too deeply\); expected"),
        ("classes.yaml", b"- car\n", r"classes.yaml: .*; expected `value: name`"),
        ("classes.yaml", b"car: 8\n", r"classes.yaml: invalid literal .*; expected `value: name`"),
        ("classes.yaml", b"!!python/object/apply:os.system ['true']\n", "classes.yaml: cannot be read"),
        ("images/p0.jpg", b"", "p0.png: images/p0.jpg has the same stem"),
    ],
)
def test_unreadable_lists(folder, name, content, message):
    (folder / "splits").mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        listing_of(folder)


def test_a_list_that_is_a_folder(folder):
    (folder / "splits" / "train.txt").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train.txt: cannot read this list \(Is a directory\)"):
        listing_of(folder)


def test_images_in_both_parts(folder):
    trees.write(folder / "splits" / "train.txt", "p0\np1\n")
    trees.write(folder / "splits" / "val.txt", "p1\np2\n")
    with pytest.raises(DataError, match="1 images train and evaluate, p1 the first"):
        listing_of(folder)


def test_a_target_without_classes(folder):
    with pytest.raises(DataError, match=r"target 'car', but no classes; expected classes.yaml"):
        listing_of(folder, target="car")


def test_unreadable_lists_of_the_oxford_sets(tmp_path):
    pets = trees.pets(tmp_path / "pets")
    trees.write(pets / "annotations" / "list.txt", "Abyssinian_1 one 1 1\n")
    with pytest.raises(DataError, match=r"list.txt: cannot read the line 'Abyssinian_1 one 1 1'; expected lines `NAME"):
        open_dataset("pets", tmp_path)
    trees.write(pets / "annotations" / "list.txt", "Abyssinian_99 1 1 1\n")
    with pytest.raises(DataError, match="none of the 1 listed names has picture and trimap"):
        open_dataset("pets", tmp_path)
    flowers = trees.flowers102(tmp_path / "flowers-102")
    (flowers / "imagelabels.mat").write_bytes(b"MATLAB 5.0 but not really")
    with pytest.raises(DataError, match=r"imagelabels.mat: cannot read this list"):
        open_dataset("flowers102", tmp_path)
    savemat(flowers / "imagelabels.mat", {"other": np.ones(9)})
    with pytest.raises(DataError, match=r"imagelabels.mat: no variable 'labels' in it"):
        open_dataset("flowers102", tmp_path)
    savemat(flowers / "imagelabels.mat", {"labels": np.ones(4)})
    with pytest.raises(DataError, match=r"imagelabels.mat: 4 labels, but there is an image 9"):
        open_dataset("flowers102", tmp_path)
    trees.flowers17(tmp_path / "flowers17", colour=False, mat=False)
    trees.write(tmp_path / "flowers17" / "trimaps" / "imlist.txt", "1\n81\n99\n")
    note = open_dataset("flowers17", tmp_path).notes[-1]
    assert "lists 1 images without picture and trimap and lacks 1 with a trimap" in note
    trees.write(tmp_path / "flowers17" / "trimaps" / "imlist.txt", "one\n")
    with pytest.raises(DataError, match=r"imlist.txt: .*; expected one image number a line"):
        open_dataset("flowers17", tmp_path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_images_of_other_modes_are_read_as_rgb(folder, mode):
    picture = Image.open(folder / "images" / "p0.png").convert(mode)
    (folder / "images" / "p0.png").unlink()
    name = "p0.tif" if mode == "CMYK" else "p0.png"
    picture.save(folder / "images" / name)
    listing = listing_of(folder)
    assert survey(listing).problems == ()
    image = load_stack(listing, [0], 30, masks=False).images[0, :, 5:25].numpy()
    assert np.array_equal(image.transpose(1, 2, 0), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_images_are_refused(folder, dtype):
    (folder / "images" / "p0.png").unlink()
    Image.fromarray((np.ones((20, 30)) * 1000).astype(dtype)).save(folder / "images" / "p0.tif")
    assert "p0.tif: this image has more than 8 bits a channel" in only_problem(folder)


def test_deep_and_two_valued_masks_are_read(folder):
    values = np.array([0, 1, 0, 0])[trees.regions()]
    Image.fromarray(values.astype(np.uint16)).save(folder / "masks" / "p0.png")
    Image.fromarray(values.astype(bool)).save(folder / "masks" / "p1.png")
    Image.fromarray((values * 255).astype(np.uint8)).convert("RGBA").save(folder / "masks" / "p2.png")
    stack = load_stack(listing_of(folder, ignore=[255]), [0, 1], 30, masks=True, fingerprint="deep")
    assert all(np.array_equal(mask[5:25], values) for mask in stack.masks.numpy())
    assert "hold 1 and 255" in only_problem(folder)


def test_transparent_and_cmyk_masks_are_refused(folder):
    Image.new("RGBA", (30, 20), (255, 255, 255, 90)).save(folder / "masks" / "p0.png")
    assert "p0.png: this mask is partly transparent" in only_problem(folder)
    (folder / "masks" / "p0.png").unlink()
    Image.new("CMYK", (30, 20)).save(folder / "masks" / "p0.tif")
    assert "p0.tif: this mask has mode CMYK" in only_problem(folder)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_gives_a_message(folder, side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (folder / "images" / "p0.png").write_bytes(content)
    assert "p0.png: this image cannot be decoded" in only_problem(folder)
    assert "pixels" in only_problem(folder)


def test_many_problems_are_cut_in_the_error_but_all_kept(folder):
    for number in range(6):
        truncate(folder / "images" / f"p{number}.png")
    (folder / "masks" / "p0.png").write_bytes(b"")
    found = survey(listing_of(folder))
    assert len(found.problems) == 7
    with pytest.raises(DataError) as error:
        found.check()
    assert str(error.value).count("cannot be decoded") == 5
    assert str(error.value).endswith("... and 2 more problems")
