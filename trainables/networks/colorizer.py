"""The ECCV-2016 colorization network of Zhang et al. (arXiv:1603.08511) [color: colorizers/eccv16.py], and a stand-in.

P2 shows its encoder a gray image and the image that this network makes of it [P2 §IV-A]. Names of weights are the
official ones. Where there is no file of weights, `pseudo_colours` stands in: a fixed curve from lightness to colour,
the same for every image. Results made with it are not the paper's, and must say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.networks.lab import lab_to_rgb, rgb_to_lab

SIDE = 256  # of the image that the network sees
BINS = 313  # of colours
# Outputs, number of 3x3 convolutions, stride of the last one, dilation of all.
BLOCKS = (
    (64, 2, 2, 1), (128, 2, 2, 1), (256, 3, 2, 1), (512, 3, 1, 1), (512, 3, 1, 2), (512, 3, 1, 2), (512, 3, 1, 1),
)  # fmt: skip
CHROMA, TURNS = 35.0, 0.75


class Colorizer(nn.Module):
    """Lightness [N, 1, H, W] in [0, 100], sides multiples of 8 -> a and b [N, 2, H, W]. 32,236,011 parameters."""

    def __init__(self) -> None:
        super().__init__()
        inputs = 1
        for number, (outputs, count, stride, dilation) in enumerate(BLOCKS, start=1):
            self.add_module(f"model{number}", _block(inputs, outputs, count, stride, dilation))
            inputs = outputs
        self.model8 = nn.Sequential(
            nn.ConvTranspose2d(inputs, 256, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, BINS, 1),
        )
        self.model_out = nn.Conv2d(BINS, 2, 1, bias=False)

    def forward(self, lightness: Tensor) -> Tensor:
        features = (lightness - 50) / 100
        for number in range(1, len(BLOCKS) + 2):
            features = self.get_submodule(f"model{number}")(features)
        colours = self.model_out(features.softmax(dim=1))
        return 110 * F.interpolate(colours, scale_factor=4, mode="bilinear", align_corners=False)


def _block(inputs: int, outputs: int, count: int, stride: int, dilation: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        step = stride if number == count - 1 else 1
        layers += [
            nn.Conv2d(inputs if number == 0 else outputs, outputs, 3, step, padding=dilation, dilation=dilation),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs))


def load_colorizer(weights: Mapping[str, Tensor]) -> Colorizer:
    """The network with the weights of an import stage, ready to use."""
    colorizer = Colorizer()
    colorizer.load_state_dict(dict(weights))
    return colorizer.eval().requires_grad_(False)


@torch.no_grad()
def colorise(
    gray: Tensor, colorizer: Colorizer | None, colourspace: str = "rgb", *, seen: Tensor | None = None
) -> Tensor:
    """Gray images in colour, as [color: colorizers/util.py] uses the network: the original lightness, new a and b.

    Args:
        gray: [N, 1, H, W] in [0, 1].
        colorizer: None: `pseudo_colours`.
        colourspace: "rgb" (*open*: what P2 shows), or "lab", what its text says, scaled to [0, 1].
        seen: the same images in more pixels, for the network; None: `gray` itself.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    lightness = rgb_to_lab(gray.expand(-1, 3, -1, -1))[:, :1]
    if colorizer is None:
        colours = pseudo_colours(lightness)
    else:
        shown = gray if seen is None else seen
        small = F.interpolate(shown, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        colours = colorizer(rgb_to_lab(small.expand(-1, 3, -1, -1))[:, :1])
        colours = F.interpolate(colours, size=gray.shape[-2:], mode="bilinear", align_corners=False)
    if colourspace == "lab":
        return torch.cat([lightness / 100, (colours / 110 + 1) / 2], dim=1).clamp(0, 1)
    return lab_to_rgb(torch.cat([lightness, colours], dim=1))


def pseudo_colours(lightness: Tensor) -> Tensor:
    """A colour for each lightness [N, 1, H, W] in [0, 100]: a and b [N, 2, H, W] on a smooth curve.

    With t = L / 100 the chroma is 35 sin(pi t), so that black and white stay, and the hue angle is 2 pi 0.75 t: red
    tones in the dark, through yellow and green to blue in the light. A function of lightness alone, unlike the network.
    """
    t = lightness / 100
    chroma, hue = CHROMA * torch.sin(math.pi * t), 2 * math.pi * TURNS * t
    return torch.cat([chroma * torch.cos(hue), chroma * torch.sin(hue)], dim=1)
