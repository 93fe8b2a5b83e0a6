"""The U-Net of Ronneberger et al. (arXiv:1505.04597) with same padding and batch norm.

P2 compares with a "traditional" U-Net and defines none (*open*: this one; it has no pretrained part).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from trainables.networks._base import SegmentationNetwork
from trainables.networks.conrec_unet import Encoder, double_conv
from trainables.settings.networks import ClassicUNetSettings


class Decoder(nn.Module):
    """Encoder output and skip maps -> [N, widths[0], H, W]; a transposed convolution doubles the side of each level."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        levels = list(pairwise(reversed(widths)))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(below, level, 2, stride=2) for below, level in levels)
        self.blocks = nn.ModuleList(double_conv(2 * level, level) for _, level in levels)

    def forward(self, encoded: Tensor, skipped: list[Tensor]) -> Tensor:
        for up, block, skip in zip(self.ups, self.blocks, reversed(skipped), strict=True):
            encoded = block(torch.cat([skip, up(encoded)], dim=1))
        return encoded


def classic_unet(settings: ClassicUNetSettings, out_channels: int) -> SegmentationNetwork:
    """Widths (1, 2, 4, 8, 16) x `settings.width`; 31,043,521 parameters at width 64 with one output channel."""
    widths = [settings.width * factor for factor in (1, 2, 4, 8, 16)]
    network = SegmentationNetwork(
        Encoder(widths),
        nn.ModuleList(nn.Identity() for _ in widths[:-1]),
        Decoder(widths),
        nn.Conv2d(widths[0], out_channels, 1),
        encoder_channels=widths[-1],
        decoder_channels=widths[0],
        minimum_multiple=16,
    )
    _initialise(network)
    return network


def _initialise(network: nn.Module) -> None:
    """Normal with deviation sqrt(2 / inputs) [Ronneberger et al. §3], biases of zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):  # 2x2 at stride 2: each output pixel sees one input pixel
            nn.init.normal_(module.weight, std=(2 / module.in_channels) ** 0.5)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
