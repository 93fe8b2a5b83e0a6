"""The 3D U-Net of Models Genesis [genesis: keras/unet3d.py, pytorch/unet3d.py; P1 §4].

Convolutions 1-32-64, 64-64-128, 128-128-256, 256-256-512; a cube of 64x64x32 leaves the encoder as 512 x 8x8x4.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.networks._base import SegmentationNetwork, init_keras
from trainables.settings.networks import GenesisUNet3dSettings

# Batch norm (eps, momentum in torch's sense) as each framework has it where nothing is said.
BATCH_NORM: dict[str, tuple[float, float]] = {"keras": (1e-3, 0.01), "pytorch": (1e-5, 0.1)}


def double_conv(inputs: int, middle: int, outputs: int, variant: str) -> nn.Sequential:
    """Twice: 3x3x3 convolution with bias, batch norm, ReLU."""
    eps, momentum = BATCH_NORM[variant]
    layers: list[nn.Module] = []
    for i, o in pairwise((inputs, middle, outputs)):
        layers += [
            nn.Sequential(
                nn.Conv3d(i, o, 3, padding=1), nn.BatchNorm3d(o, eps=eps, momentum=momentum), nn.ReLU(inplace=True)
            )
        ]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """[N, 1, D, H, W] -> one map per level, finest first: [N, widths[i], D / 2^i, H / 2^i, W / 2^i]."""

    def __init__(self, widths: list[int], variant: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            double_conv(below, level // 2, level, variant) for below, level in pairwise([1, *widths])
        )

    def forward(self, volumes: Tensor) -> list[Tensor]:
        features = [self.blocks[0](volumes)]
        for block in self.blocks[1:]:
            features.append(block(F.max_pool3d(features[-1], 2)))
        return features


class Decoder(nn.Module):
    """Encoder output and skip maps -> [N, widths[0], D, H, W]; `variant` says how a side is doubled."""

    def __init__(self, widths: list[int], variant: str) -> None:
        super().__init__()
        levels = list(pairwise(reversed(widths)))
        if variant == "pytorch":
            self.ups = nn.ModuleList(nn.ConvTranspose3d(below, below, 2, stride=2) for below, _ in levels)
        else:
            self.ups = nn.ModuleList(nn.Upsample(scale_factor=2, mode="nearest") for _ in levels)
        self.blocks = nn.ModuleList(double_conv(below + level, level, level, variant) for below, level in levels)

    def forward(self, encoded: Tensor, skipped: list[Tensor]) -> Tensor:
        for up, block, skip in zip(self.ups, self.blocks, reversed(skipped), strict=True):
            encoded = block(torch.cat([up(encoded), skip], dim=1))
        return encoded


def genesis_unet3d(settings: GenesisUNet3dSettings, out_channels: int) -> SegmentationNetwork:
    """Level widths (2, 4, 8, 16) x `settings.width`.

    At width 32 with one output channel 16,320,257 parameters (variant pytorch: 19,073,665), 7,027,776 the encoder's.
    """
    widths = [settings.width * factor for factor in (2, 4, 8, 16)]
    network = SegmentationNetwork(
        Encoder(widths, settings.variant),
        nn.ModuleList(nn.Identity() for _ in widths[:-1]),
        Decoder(widths, settings.variant),
        nn.Conv3d(widths[0], out_channels, 1),
        encoder_channels=widths[-1],
        decoder_channels=widths[0],
        minimum_multiple=8,
    )
    init_keras(network)
    return network
