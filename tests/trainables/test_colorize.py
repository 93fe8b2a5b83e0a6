"""The prepare stage of colorization: grey pictures as everywhere else, colours as scikit-image computes them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color
from torch.nn import functional as F

from trainables.context import Context, StageError
from trainables.data import open_dataset
from trainables.data.stack import load_stack
from trainables.networks.colorizer import Colorizer
from trainables.stages import STAGES

SIZE = 48


@pytest.fixture
def pictures(tmp_path):
    """Three colour pictures of different sizes, and one that only evaluates."""
    random = np.random.default_rng(0)
    for number, sides in enumerate([(64, 64), (40, 80), (90, 30), (64, 64)]):
        for part in ("images", "masks"):
            folder = tmp_path / "set" / part
            folder.mkdir(parents=True, exist_ok=True)
            small = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize(sides, Image.Resampling.BICUBIC)
            picture = picture if part == "images" else Image.fromarray(np.ones(sides[::-1], np.uint8))
            picture.save(folder / f"p{number}.png")
    (tmp_path / "set" / "splits").mkdir()
    (tmp_path / "set" / "splits" / "train.txt").write_text("p0\np1\np2\n")
    (tmp_path / "set" / "splits" / "test.txt").write_text("p3\n")
    return {"path": "set", "pretrain": "no-evaluation"}


def prepared(tmp_path, options, parents=None, **dials):
    context = Context(tmp_path, tmp_path / "work", cache_dir=tmp_path / "cache", parents=parents)
    data = {"reader": "folder", "options": options}
    return STAGES["prepare"]({"data": data, "prepare": {"kind": "colorize", "size": SIZE} | dials, "seed": 0}, context)


def lightness_of(gray):
    """L of a grey picture uint8 [H, W], by scikit-image."""
    return color.rgb2lab(np.repeat(gray[..., None] / 255, 3, axis=2))[..., 0]


def test_grey_pictures_are_those_of_pretraining_and_nothing_that_evaluates(tmp_path, pictures):
    found = prepared(tmp_path, pictures, colours="pseudo").weights
    listing = open_dataset("folder", tmp_path, pictures)
    stack = load_stack(listing, listing.pretrain, SIZE, masks=False)
    assert found["images"].dtype == found["colored"].dtype == torch.uint8
    assert found["images"].shape == found["colored"].shape == (3, 3, SIZE, SIZE)
    assert torch.equal(found["boxes"], stack.boxes) and found["boxes"][1].tolist() == [0, 12, 48, 24]
    images = found["images"]
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
    luma = torch.einsum("nchw,c->nhw", stack.images.float(), torch.tensor([0.299, 0.587, 0.114]))
    assert (images[:, 0].float() - luma).abs().max() < 2  # rounded before and after the resize
    outside = (stack.images == 0).all(dim=1) & (torch.arange(3) > 0)[:, None, None]
    assert (images.movedim(1, -1)[outside] == 0).all() and (found["colored"].movedim(1, -1)[outside] == 0).all()


def test_pseudo_colours_are_the_documented_curve(tmp_path, pictures):
    result = prepared(tmp_path, pictures, colours="pseudo")
    gray = result.weights["images"][0, 0].numpy()
    lightness = lightness_of(gray)
    t = lightness / 100
    chroma, hue = 35 * np.sin(math.pi * t), 2 * math.pi * 0.75 * t
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    expected = color.lab2rgb(lab) * 255
    assert np.abs(result.weights["colored"][0].permute(1, 2, 0).numpy() - expected).max() <= 1
    assert result.facts == {"pictures": 3, "colours": "pseudo", "colourspace": "rgb", "paper": False}


def test_colours_of_the_network_join_the_lightness_of_the_picture(tmp_path, pictures):
    """By the steps of the network's authors, with scikit-image: 256 x 256 to the network, its a and b back, L kept."""
    torch.manual_seed(0)
    network = Colorizer().eval()
    with torch.no_grad():
        network.model_out.weight.mul_(20)  # else a fresh network says grey
    result = prepared(tmp_path, pictures, {"colorizer": network.state_dict()})
    assert result.facts["colours"] == "network" and result.facts["paper"]
    large = (
        Image.open(tmp_path / "set" / "images" / "p0.png").convert("L").resize((256, 256), Image.Resampling.BILINEAR)
    )
    seen = torch.from_numpy(lightness_of(np.asarray(large))).float()[None, None]
    with torch.no_grad():
        ab = F.interpolate(network(seen), (SIZE, SIZE), mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(ab).max() > 3
    gray = result.weights["images"][0, 0].numpy()
    expected = color.lab2rgb(np.concatenate([lightness_of(gray)[..., None], ab], axis=-1)) * 255
    assert np.abs(result.weights["colored"][0].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_lab_instead_of_rgb(tmp_path, pictures):
    result = prepared(tmp_path, pictures, colours="pseudo", colourspace="lab")
    gray, lab = result.weights["images"][0, 0].numpy(), result.weights["colored"][0].numpy()
    assert np.abs(lab[0] - lightness_of(gray) * 2.55).max() <= 1 and not result.facts["paper"]


def test_without_weights_nothing_is_made_up_silently(tmp_path, pictures):
    with pytest.raises(StageError, match="weights of the colorization network, but none were given; `colours: pseudo`"):
        prepared(tmp_path, pictures)


def test_byol_with_colorization_learns_from_them(tmp_path):
    """As the grids do it: the pretext reads the prepared tensors, at its own size."""
    options = {"count": 24, "size": 32}
    context = Context(tmp_path, tmp_path / "a", cache_dir=tmp_path)
    data = {"reader": "textures", "options": options}
    dials = {"kind": "colorize", "size": 32, "colours": "pseudo"}
    made = STAGES["prepare"]({"data": data, "prepare": dials, "seed": 0}, context)
    assert len(made.weights["images"]) == 18  # the training part
    spec = {
        "pretext": {"method": "byol-color", "hidden": 16, "projection": 8},
        "network": {"name": "conrec-unet", "width": 4},
        "data": {**data, "prepared": True},
        "pretrain": {"steps": 4, "batch": 6, "input_size": 32, "optimizer": "adam", "report_every": 4},
        "seed": 0,
    }
    where = Context(tmp_path, tmp_path / "b", cache_dir=tmp_path, parents={"data": made.weights})
    result = STAGES["pretrain"](spec, where)
    assert math.isfinite(result.metrics["val_loss"]) and result.facts["n_pretrain"] == 16
