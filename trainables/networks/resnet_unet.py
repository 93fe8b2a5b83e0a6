"""U-Nets with the decoder of segmentation-models-pytorch (smp) on ResNet encoders [P1 §5.1; P2 §IV].

Encoder and decoder weights have smp's own names, so that `smp.Unet` takes them over by `load_state_dict`, with
`segmentation_head.0` for our `head`.
"""

from __future__ import annotations

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn

from trainables.networks._base import SegmentationNetwork
from trainables.networks.resnet import ResNetEncoder, resnet18_encoder, resnet50_encoder
from trainables.networks.sasa import sasa_resnet50_encoder
from trainables.settings.networks import ResNet18UNetSettings, ResNet50UNetSettings, SasaResNet50UNetSettings


class Decoder(UnetDecoder):  # type: ignore[misc]
    """smp's decoder, called as all ours are: the encoder's output and the maps before it, the image first."""

    def forward(self, encoded: Tensor, skipped: list[Tensor]) -> Tensor:
        decoded: Tensor = super().forward([*skipped, encoded])
        return decoded


def resnet18_unet(settings: ResNet18UNetSettings, out_channels: int) -> SegmentationNetwork:
    """14,328,209 parameters at width 64 with one output channel."""
    return _unet_on(resnet18_encoder(settings.width, settings.normalise), settings.width, out_channels)


def resnet50_unet(settings: ResNet50UNetSettings, out_channels: int) -> SegmentationNetwork:
    """32,521,105 parameters at width 64 with one output channel."""
    return _unet_on(resnet50_encoder(settings.width, settings.normalise), settings.width, out_channels)


def sasa_resnet50_unet(settings: SasaResNet50UNetSettings, out_channels: int) -> SegmentationNetwork:
    """25,002,705 parameters at width 64 with one output channel, 15,989,632 of them the encoder's."""
    return _unet_on(sasa_resnet50_encoder(settings), settings.width, out_channels)


def _unet_on(encoder: ResNetEncoder, width: int, out_channels: int) -> SegmentationNetwork:
    """smp's U-Net with decoder widths (4, 2, 1, 1/2, 1/4) x `width`."""
    widths = [width * quarters // 4 for quarters in (16, 8, 4, 2, 1)]
    decoder = Decoder(encoder.channels, widths, n_blocks=len(widths))
    head = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
    initialize_decoder(decoder)
    initialize_head(head)
    return SegmentationNetwork(
        encoder,
        nn.ModuleList(nn.Identity() for _ in widths),
        decoder,
        head,
        encoder_channels=encoder.channels[-1],
        decoder_channels=widths[-1],
        minimum_multiple=32,
    )
