"""The U-Net of ConRec [conrec: models/conrec.py, `-m unet --depth 4 --filters 64`]; the network of P1.

Four encoder blocks, three max-pools, three decoder blocks: the output side of the encoder is an eighth of the input's.
At width 64 it has 7,875,905 trainable parameters with one output channel. The 8.65 M of P1 are the Keras count
(batch-norm statistics included) of the whole pretraining model, attention pooling and projection head included.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.networks._base import SegmentationNetwork, init_keras
from trainables.settings import NetworkSettings


def conv_block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution (same padding, with bias), batch norm (momentum 0.9 in Keras' sense, eps 1e-5), ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
        nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.1),
        nn.ReLU(inplace=True),
    )


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 blocks, the body of every encoder and decoder level."""
    return nn.Sequential(conv_block(inputs, outputs, 3), conv_block(outputs, outputs, 3))


class Encoder(nn.Module):
    """[N, 3, H, W] -> one map per level, finest first: [N, widths[i], H / 2^i, W / 2^i]."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(double_conv(i, o) for i, o in pairwise([3, *widths]))

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for block in self.blocks:
            features.append(block(F.max_pool2d(features[-1], 2) if features else images))
        return features


class Decoder(nn.Module):
    """Encoder output and skip maps -> [N, widths[0], H, W]; each level doubles the side and joins the skip map."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        levels = list(pairwise(reversed(widths)))
        self.blocks = nn.ModuleList(double_conv(below + level, level) for below, level in levels)

    def forward(self, encoded: Tensor, skipped: list[Tensor]) -> Tensor:
        for block, skip in zip(self.blocks, reversed(skipped), strict=True):
            up = F.interpolate(encoded, scale_factor=2, mode="nearest")
            encoded = block(torch.cat([up, skip], dim=1))
        return encoded


def conrec_unet(settings: NetworkSettings, out_channels: int) -> SegmentationNetwork:
    """The ConRec U-Net with block widths (1, 2, 4, 8) x `settings.width`, freshly initialised."""
    widths = [settings.width * factor for factor in (1, 2, 4, 8)]
    network = SegmentationNetwork(
        Encoder(widths),
        nn.ModuleList(conv_block(width, width, 1) for width in widths[:-1]),
        Decoder(widths),
        nn.Conv2d(widths[0], out_channels, 1),
        encoder_channels=widths[-1],
        decoder_channels=widths[0],
        minimum_multiple=8,
    )
    init_keras(network)
    return network
