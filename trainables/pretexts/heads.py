"""Between the encoder and the contrastive loss: pooling and projection [conrec: models/model_utils.py]."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from trainables.networks._base import init_keras


class ProjectionHead(nn.Sequential):
    """Three dense layers without bias, each with batch norm; ReLU after the first two, no shift in the last norm.

    The paper's 512 -> 512 -> 512 -> 128 (592,000 parameters) is that of width 64. We keep its shape for other widths w,
    8w -> 8w -> 8w -> 2w, so that a small network does not carry a large head.
    """

    def __init__(self, channels: int) -> None:
        last = nn.BatchNorm1d(channels // 4)
        last.register_parameter("bias", None)
        super().__init__(
            _dense(channels, channels), nn.BatchNorm1d(channels), nn.ReLU(inplace=True),
            _dense(channels, channels), nn.BatchNorm1d(channels), nn.ReLU(inplace=True),
            _dense(channels, channels // 4), last,
        )  # fmt: skip


def _dense(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=0.01)
    return layer


class GlobalAveragePooling(nn.Module):
    """Encoder output [N, C, h, w] -> [N, C]."""

    def forward(self, encoded: Tensor) -> Tensor:
        return encoded.mean(dim=(2, 3))


class AttentionPooling(nn.Module):
    """Encoder output E [N, C, h, w] -> mean(A * E) / mean(A), [N, C], with a learned attention map A in (0, 1).

    A = sigmoid(conv(f(dropout(E)))), f three times 1x1 convolution (with bias), batch norm, ReLU with C/2, C/4 and C/8
    filters. Dropout is element-wise and acts on this branch only. 173,441 parameters at C = 512. Batch norm has Keras'
    defaults here, momentum 0.99 and eps 1e-3 (torch counts the momentum from the other side).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        filters = [channels, channels // 2, channels // 4, channels // 8]
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o, eps=1e-3, momentum=0.01), nn.ReLU(inplace=True))
            for i, o in pairwise(filters)
        ]
        self.attention = nn.Sequential(nn.Dropout(0.5), *blocks, nn.Conv2d(filters[-1], 1, 1), nn.Sigmoid())
        init_keras(self)

    def forward(self, encoded: Tensor) -> Tensor:
        attention: Tensor = self.attention(encoded)
        return (attention * encoded).mean(dim=(2, 3)) / attention.mean(dim=(2, 3))
