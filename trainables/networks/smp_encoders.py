"""Our encoders in the registry of segmentation-models-pytorch (smp); importing this module enters them.

    import segmentation_models_pytorch as smp
    import trainables.networks.smp_encoders
    network = smp.Unet("sasa-resnet50", encoder_weights=None)

smp normalises images outside of its networks, so that these take them as they come.
"""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from trainables.networks.resnet import RESNET50, ResNetEncoder
from trainables.networks.sasa import sasa_block
from trainables.settings.networks import SasaResNet50UNetSettings


class SasaResNet50Encoder(ResNetEncoder, EncoderMixin):  # type: ignore[misc]
    """SASA-ResNet-50 as smp calls encoders; further keywords are dials of `SasaResNet50UNetSettings`."""

    def __init__(self, out_channels: list[int], depth: int = 5, output_stride: int = 32, **dials: Any) -> None:
        if output_stride != 32:
            raise ValueError(f"sasa-resnet50 has output stride 32, but got {output_stride}")
        settings = SasaResNet50UNetSettings(**{"normalise": "none", **dials})
        super().__init__(sasa_block(settings), Bottleneck.expansion, RESNET50, settings.width, settings.normalise)
        self._depth, self._in_channels, self._output_stride = depth, 3, output_stride
        self._out_channels = out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """The image and `depth` maps."""
        return super().forward(images)[: self._depth + 1]

    def get_stages(self) -> dict[int, list[nn.Module]]:
        """Output stride -> layers, as smp asks for."""
        return {16: [self.layer3], 32: [self.layer4]}


encoders["sasa-resnet50"] = {
    "encoder": SasaResNet50Encoder,
    "pretrained_settings": {},
    "params": {"out_channels": [3, 64, 256, 512, 1024, 2048]},
}
