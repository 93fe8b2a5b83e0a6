"""The colorizer against its published size and names; Lab against scikit-image; the stand-in for missing weights."""

import math
import warnings

import numpy as np
import pytest
import torch
from skimage import color
from torch import nn

from trainables.networks.colorizer import Colorizer, colorise, load_colorizer, pseudo_colours
from trainables.networks.lab import lab_to_rgb, rgb_to_lab


def planes(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def pixels(tensor: torch.Tensor) -> np.ndarray:
    return tensor[0].permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def rgb():
    """Every 5th value of each channel, black, white and the greys among them."""
    steps = np.linspace(0, 1, 52)
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(52, -1, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lab_is_scikit_images(rgb, dtype):
    found = pixels(rgb_to_lab(planes(rgb.astype(dtype))))
    assert np.abs(found - color.rgb2lab(rgb)).max() < 1e-2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lab_there_and_back_is_within_a_grey_level(rgb, dtype):
    back = pixels(lab_to_rgb(rgb_to_lab(planes(rgb.astype(dtype)))))
    assert np.abs(back - rgb).max() * 255 < 0.1


def test_colours_that_srgb_has_not_are_clipped_as_in_scikit_image():
    generator = np.random.default_rng(0)
    lab = generator.uniform([0, -128, -128], [100, 127, 127], (40, 50, 3))
    with warnings.catch_warnings(action="ignore"):
        expected = color.lab2rgb(lab)
    assert np.abs(pixels(lab_to_rgb(planes(lab))) - expected).max() * 255 < 1


@pytest.fixture(scope="module")
def colorizer():
    torch.manual_seed(0)
    return Colorizer().eval()


def official_names() -> list[str]:
    """Counted by hand from the list of layers: indices of the Sequentials count conv, ReLU and batch norm."""
    names = []
    for block, convolutions in enumerate((2, 2, 3, 3, 3, 3, 3), start=1):
        names += [f"model{block}.{2 * i}.{part}" for i in range(convolutions) for part in ("weight", "bias")]
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        names += [f"model{block}.{2 * convolutions}.{part}" for part in parts]
    names += [f"model8.{i}.{part}" for i in (0, 2, 4, 6) for part in ("weight", "bias")]
    return [*names, "model_out.weight"]


def test_official_names_and_size(colorizer):
    assert list(colorizer.state_dict()) == official_names()
    assert sum(p.numel() for p in colorizer.parameters()) == 32_236_011
    assert colorizer.model8[6].out_channels == 313 and colorizer.model_out.weight.shape == (2, 313, 1, 1)
    dilations = {n: m.dilation[0] for n, m in colorizer.named_modules() if isinstance(m, nn.Conv2d)}
    assert {n.partition(".")[0] for n, d in dilations.items() if d == 2} == {"model5", "model6"}


def test_colours_come_at_the_side_of_the_input_and_in_range(colorizer):
    with torch.no_grad():
        found = colorizer(torch.rand(1, 1, 64, 48) * 100)
    assert found.shape == (1, 2, 64, 48)
    # A mixture of the bins' colours, times 110.
    assert found.abs().max() <= 110 * colorizer.model_out.weight.abs().max() + 1e-4


def test_blocks_end_with_batch_norm_after_relu(colorizer):
    for number in range(1, 8):
        kinds = [type(m) for m in colorizer.get_submodule(f"model{number}")]
        assert kinds[-3:] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d] and kinds.count(nn.BatchNorm2d) == 1


def test_weights_are_taken_over(colorizer):
    loaded = load_colorizer(colorizer.state_dict())
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(x, loaded.state_dict()[n]) for n, x in colorizer.state_dict().items())


@pytest.mark.parametrize("with_network", [True, False])
def test_lightness_stays_what_it_was(colorizer, with_network):
    """Where the new colour is one that sRGB has, the picture's lightness is that of the gray image."""
    gray = torch.linspace(0.1, 0.9, 40 * 30).view(1, 1, 40, 30)
    small = Colorizer().eval()
    small.load_state_dict(colorizer.state_dict())
    small.model_out.weight.data.mul_(0.05)
    coloured = colorise(gray, small if with_network else None)
    assert coloured.shape == (1, 3, 40, 30) and coloured.min() >= 0 and coloured.max() <= 1
    before, after = (color.rgb2lab(pixels(x.expand(-1, 3, -1, -1)))[..., 0] for x in (gray, coloured))
    assert np.abs(before - after).max() < 0.5


def test_pseudo_colours_by_hand():
    a, b = pseudo_colours(torch.tensor([0.0, 50.0, 100.0]).view(1, 1, 1, 3))[0, :, 0]
    assert a[0] == b[0] == 0 and abs(a[2]) < 1e-4 and abs(b[2]) < 1e-4
    assert a[1].item() == pytest.approx(35 * math.cos(0.75 * math.pi), abs=1e-4)
    assert b[1].item() == pytest.approx(35 * math.sin(0.75 * math.pi), abs=1e-4)


def test_pseudo_colours_are_colours_and_keep_black_and_white():
    ramp = torch.linspace(0, 1, 256).view(1, 1, 1, 256)
    coloured = colorise(ramp, None)
    assert torch.allclose(coloured[..., 0], torch.zeros(1, 3, 1), atol=1e-3)
    assert torch.allclose(coloured[..., -1], torch.ones(1, 3, 1), atol=1e-3)
    assert (coloured.amax(1) - coloured.amin(1)).max() > 0.2
    assert (coloured[..., 1:] - coloured[..., :-1]).abs().max() < 0.03  # no jumps


def test_lab_images_are_lightness_and_colours_in_unit_range():
    gray = torch.rand(2, 1, 8, 8)
    lab = colorise(gray, None, colourspace="lab")
    lightness = rgb_to_lab(gray.expand(-1, 3, -1, -1))[:, :1]
    torch.testing.assert_close(lab[:, :1], lightness / 100)
    torch.testing.assert_close(lab[:, 1:] * 220 - 110, pseudo_colours(lightness), rtol=1e-4, atol=1e-3)
