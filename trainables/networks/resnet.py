"""ResNet encoders of any width, with torchvision's blocks and torchvision's names of weights [He et al. 2015].

torchvision's own class fixes the width of the stem at 64; apart from that the two are the same network, so that its
ImageNet weights fit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainables.settings.networks import Normalisation

# Mean and standard deviation per channel of images in [0, 1]. CEM500K: gray, [cem: mocov2_config.yaml].
STATISTICS: dict[Normalisation, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cem500k": ((0.57287,) * 3, (0.12741,) * 3),
    "none": ((0.0,) * 3, (1.0,) * 3),
}
RESNET18, RESNET50 = (2, 2, 2, 2), (3, 4, 6, 3)  # blocks per layer

Block = Callable[..., nn.Module]  # (inputs, planes, stride, downsample) -> block


class ResNetEncoder(nn.Module):
    """[N, 3, H, W] -> the image, then five maps of half the side each: [N, channels[i], H / 2^i, W / 2^i].

    The image is there because smp's decoder learns from it the side to end with.

    Args:
        block: torchvision's BasicBlock or Bottleneck, or one that is made and named like them.
        expansion: a block's output channels per channel of its 3x3 convolution.
        blocks: how many of them each of the four layers has.
        width: channels of the stem and of the first layer's 3x3 convolutions.
        normalise: which mean and deviation to take off the images.
    """

    def __init__(
        self, block: Block, expansion: int, blocks: tuple[int, ...], width: int, normalise: Normalisation
    ) -> None:
        super().__init__()
        self.channels = [3, width, *(width * factor * expansion for factor in (1, 2, 4, 8))]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        _, *inputs, _ = self.channels
        layers = [
            _layer(block, i, o // expansion, o, count, stride)
            for i, o, count, stride in zip(inputs, self.channels[2:], blocks, (1, 2, 2, 2), strict=True)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in STATISTICS[normalise])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        self.mean: Tensor
        self.deviation: Tensor
        _initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        stem = self.relu(self.bn1(self.conv1((images - self.mean) / self.deviation)))
        features = [images, stem, self.layer1(self.maxpool(stem))]
        for layer in (self.layer2, self.layer3, self.layer4):
            features.append(layer(features[-1]))
        return features


def resnet18_encoder(width: int = 64, normalise: Normalisation = "imagenet") -> ResNetEncoder:
    """ResNet-18: 11,176,512 parameters, E of 512 channels."""
    return ResNetEncoder(BasicBlock, BasicBlock.expansion, RESNET18, width, normalise)


def resnet50_encoder(width: int = 64, normalise: Normalisation = "imagenet") -> ResNetEncoder:
    """ResNet-50: 23,508,032 parameters, E of 2048 channels."""
    return ResNetEncoder(Bottleneck, Bottleneck.expansion, RESNET50, width, normalise)


def _layer(block: Block, inputs: int, planes: int, outputs: int, count: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    first = block(inputs, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(count - 1)))


def _initialise(encoder: nn.Module) -> None:
    """As torchvision: Kaiming-normal by fan-out for convolutions; batch norm starts as the identity."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
