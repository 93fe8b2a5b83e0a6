"""Stand-alone self-attention [Ramachandran et al., arXiv:1906.05909; sasa]: ResNet-50 whose 3x3 convolutions attend.

A pixel attends to the `kernel` x `kernel` pixels around it. Keys carry a learned offset r: half of the channels know
the row of the neighbour, half its column. Beyond the border key and value are zero, yet take part in the softmax. There
is no scale by the square root of the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from trainables.context import StageError
from trainables.networks.attention_dot import dot_attention
from trainables.networks.attention_per_channel import per_channel_attention
from trainables.networks.resnet import RESNET50, ResNetEncoder
from trainables.settings.networks import SasaResNet50UNetSettings


class LocalAttention(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H, W], attending to the neighbourhood of each pixel.

    Args:
        attention: "dot": in each head one softmax over the neighbours of q . (k + r), where the head's first half of
            channels has row offsets and its second half column offsets; "per-channel": a softmax for each channel of
            q * (k + r), with row offsets on the first half of all channels [sasa: attention.py]. Heads change nothing
            then.
        embeddings: of "dot": "per-head" as above; "halves": row offsets on the first half of all channels, so that a
            head has those of one kind, but for the middle one of an odd number.
        kernel: side of the neighbourhood, odd.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 7,
        heads: int = 8,
        attention: str = "dot",
        embeddings: str = "per-head",
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise StageError(f"network.kernel must be an odd number, but is {kernel}")
        if attention not in ATTENTION:
            raise StageError(f"no attention {attention!r}; there are {', '.join(ATTENTION)}")
        if outputs % (2 * heads):
            raise StageError(f"network.width must be a multiple of 2 x heads = {2 * heads}, but {outputs} is not")
        self.heads, self.attention, self.embeddings = heads, attention, embeddings
        self.query, self.key, self.value = (nn.Conv2d(inputs, outputs, 1, bias=False) for _ in range(3))
        self.rows = nn.Parameter(torch.randn(outputs // 2, kernel))
        self.columns = nn.Parameter(torch.randn(outputs // 2, kernel))

    def forward(self, x: Tensor) -> Tensor:
        projected = [convolution(x) for convolution in (self.query, self.key, self.value)]
        with torch.autocast(x.device.type, enabled=False):
            query, key, value = (p if p.dtype == torch.float64 else p.float() for p in projected)
            return ATTENTION[self.attention](query, key, value, self)


def _dot(query: Tensor, key: Tensor, value: Tensor, layer: LocalAttention) -> Tensor:
    n, channels, height, width = query.shape
    shape = (n, height, width, layer.heads, channels // layer.heads)
    query, key, value = (x.permute(0, 2, 3, 1).reshape(shape) for x in (query, key, value))
    by_row, by_column = (query, query) if layer.embeddings == "halves" else query.chunk(2, dim=-1)
    rows, columns = (x.view(layer.heads, -1, x.shape[1]) for x in _offsets(layer))
    result = dot_attention(
        query,
        key,
        value,
        torch.einsum("nyxhc,hck->nyxhk", by_row, rows),
        torch.einsum("nyxhc,hck->nyxhk", by_column, columns),
    )
    return result.flatten(3).permute(0, 3, 1, 2)


def _offsets(layer: LocalAttention) -> tuple[Tensor, Tensor]:
    """The offsets by row and by column that `_dot` deals out to its heads, in order: [channels / 2, kernel] each, or,
    where they are of halves of all channels, [channels, kernel] with nothing on the other half."""
    if layer.embeddings != "halves":
        return layer.rows, layer.columns
    nothing = torch.zeros_like(layer.rows)
    return torch.cat([layer.rows, nothing]), torch.cat([nothing, layer.columns])


def _per_channel(query: Tensor, key: Tensor, value: Tensor, layer: LocalAttention) -> Tensor:
    query, key, value = (x.permute(0, 2, 3, 1) for x in (query, key, value))
    return per_channel_attention(query, key, value, layer.rows.T, layer.columns.T).permute(0, 3, 1, 2)


ATTENTION: dict[str, Callable[[Tensor, Tensor, Tensor, LocalAttention], Tensor]] = {
    "dot": _dot,
    "per-channel": _per_channel,
}


class SasaBottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's bottleneck with a local attention for its 3x3 convolution; 2x2 average pooling halves the map.

    Args:
        pool: "attention": right after the attention, as its paper says; "branch": after the branch's last batch norm
            [sasa: model.py].
    """

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        make_attention: Callable[[int, int], nn.Module],
        pool: str = "attention",
    ) -> None:
        super().__init__(inputs, planes, stride, downsample)
        # Odd sides round up, as they do in the shortcut's convolution.
        pooling = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        self.conv2 = make_attention(planes, planes)
        self.pool2: nn.Module = pooling if pool == "attention" else nn.Identity()
        self.pool3: nn.Module = pooling if pool == "branch" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.pool2(self.conv2(branch))))
        branch = self.pool3(self.bn3(self.conv3(branch)))
        return self.relu(branch + shortcut)  # type: ignore[no-any-return]


def sasa_block(settings: SasaResNet50UNetSettings) -> Callable[..., nn.Module]:
    """The bottleneck that the settings describe, to be called as torchvision's."""
    attention = partial(
        LocalAttention,
        kernel=settings.kernel,
        heads=settings.heads,
        attention=settings.attention,
        embeddings=settings.embeddings,
    )
    return partial(SasaBottleneck, make_attention=attention, pool=settings.pool)


def sasa_resnet50_encoder(settings: SasaResNet50UNetSettings) -> ResNetEncoder:
    """15,989,632 parameters at width 64, E of 2048 channels; the stem stays a convolution [P2 §IV-A].

    Raises:
        StageError: kernel, heads and width do not fit each other.
    """
    return ResNetEncoder(sasa_block(settings), Bottleneck.expansion, RESNET50, settings.width, settings.normalise)
