"""The U-Net of Casser et al., reference [2] of P2 [casser: unet.py]: small, no batch norm, one gray channel.

Keras pads a 2x2 convolution by one row below and one column to the right; so does this.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.networks._base import SegmentationNetwork
from trainables.settings.networks import CasserUNetSettings

# Keras' `he_normal` cuts the normal at two deviations and stretches it back to variance 2 / inputs.
CUT_DEVIATION = 0.87962566103423978


def convolve(inputs: int, outputs: int) -> list[nn.Module]:
    """3x3 convolution with bias and ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]


class Encoder(nn.Module):
    """[N, 3, H, W], averaged to gray -> five maps [N, widths[i], H / 2^i, W / 2^i]; dropout ends the last two."""

    def __init__(self, widths: list[int], dropout: float) -> None:
        super().__init__()
        levels = [nn.Sequential(*convolve(i, o), *convolve(o, o)) for i, o in pairwise([1, *widths])]
        for level in levels[-2:]:
            level.append(nn.Dropout(dropout))
        self.blocks = nn.ModuleList(levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.blocks[0](images.mean(dim=1, keepdim=True))]
        for block in self.blocks[1:]:
            features.append(block(F.max_pool2d(features[-1], 2)))
        return features


class Decoder(nn.Module):
    """Encoder output and skip maps -> [N, 2, H, W]: nearest upsampling, a 2x2 convolution, the skip map, two 3x3."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        *deeper, last = pairwise(reversed(widths))
        # The 2x2 convolution of the second last level is as wide as the map below it in the official code.
        ups = [level for _, level in deeper]
        ups[-1] = deeper[-1][0]
        ups.append(last[1])
        below, levels = [widths[-1], *(level for _, level in deeper)], [*(level for _, level in deeper), last[1]]
        self.ups = nn.ModuleList(nn.Conv2d(i, o, 2) for i, o in zip(below, ups, strict=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(*convolve(up + level, level), *convolve(level, level))
            for up, level in zip(ups, levels, strict=True)
        )
        self.last = nn.Sequential(*convolve(widths[0], 2))

    def forward(self, encoded: Tensor, skipped: list[Tensor]) -> Tensor:
        for up, block, skip in zip(self.ups, self.blocks, reversed(skipped), strict=True):
            doubled = F.interpolate(encoded, scale_factor=2, mode="nearest")
            encoded = block(torch.cat([skip, F.relu(up(F.pad(doubled, (0, 1, 0, 1))))], dim=1))
        decoded: Tensor = self.last(encoded)
        return decoded


def casser_unet(settings: CasserUNetSettings, out_channels: int) -> SegmentationNetwork:
    """Widths (1, 2, 4, 8, 16) x `settings.width`; 1,958,533 parameters at width 16, 1,178,480 of them the encoder's."""
    widths = [settings.width * factor for factor in (1, 2, 4, 8, 16)]
    network = SegmentationNetwork(
        Encoder(widths, settings.dropout),
        nn.ModuleList(nn.Identity() for _ in widths[:-1]),
        Decoder(widths),
        nn.Conv2d(2, out_channels, 1),
        encoder_channels=widths[-1],
        decoder_channels=2,
        minimum_multiple=16,
    )
    _initialise(network)
    return network


def _initialise(network: SegmentationNetwork) -> None:
    """he_normal for every convolution; Keras' Glorot-uniform for the output, where the code names none; zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            inputs = module.weight[0].numel()
            deviation = (2 / inputs) ** 0.5 / CUT_DEVIATION
            nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    nn.init.xavier_uniform_(network.head.weight)
