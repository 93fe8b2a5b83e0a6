"""What every segmentation network has in common: four named parts, and the way through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn

from trainables.context import StageError


class SegmentationNetwork(nn.Module):
    """Encoder, skip connections, decoder and output convolution of a segmentation network.

    The names of the parts are the names of the weights that stages hand to each other (`encoder.*`, `skips.*`,
    `decoder.*`, `head.*`), so a scenario is a choice of parts.

    Args:
        encoder: image [N, 3, H, W] -> feature maps, finest first; the last one is the encoder output E. A 3D network
            takes volumes [N, 1, D, H, W] and has one more side everywhere.
        skips: one module for each feature map but the last.
        decoder: (E, skip maps finest first) -> [N, decoder_channels, H, W].
        head: convolution to the output channels; gives logits.
        encoder_channels: channels of E.
        decoder_channels: channels of the decoder's output.
        minimum_multiple: sides of the input must be multiples of it.
    """

    def __init__(
        self,
        encoder: nn.Module,
        skips: nn.ModuleList,
        decoder: nn.Module,
        head: nn.Conv2d | nn.Conv3d,
        *,
        encoder_channels: int,
        decoder_channels: int,
        minimum_multiple: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.skips = skips
        self.decoder = decoder
        self.head = head
        self.encoder_channels = encoder_channels
        self.decoder_channels = decoder_channels
        self.minimum_multiple = minimum_multiple
        self._encoder_frozen = False

    def freeze_encoder(self) -> None:
        """Take the encoder out of training: no gradients, and batch norm keeps its statistics (evaluation mode)."""
        self._encoder_frozen = True
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for a frozen encoder."""
        super().train(mode)
        if self._encoder_frozen:
            self.encoder.eval()
        return self

    def decode(self, features: list[Tensor]) -> Tensor:
        """The decoder's output [N, decoder_channels, H, W], before the head, of what the encoder gave."""
        skipped = [skip(feature) for skip, feature in zip(self.skips, features[:-1], strict=True)]
        decoded: Tensor = self.decoder(features[-1], skipped)
        return decoded

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, out_channels, H, W] of images [N, 3, H, W] with values in [0, 1]."""
        logits: Tensor = self.head(self.decode(self.encoder(images)))
        return logits


def require_input_size(network: SegmentationNetwork, size: int) -> None:
    """Raise StageError unless `size`, a side in pixels or voxels, is one that the network can halve and double back."""
    multiple = network.minimum_multiple
    if size < multiple or size % multiple:
        near = max(multiple, round(size / multiple) * multiple)
        raise StageError(f"input_size: expected a multiple of {multiple} (nearest: {near}), but got {size}")


def place(module: nn.Module, device: torch.device, precision: str = "float32") -> None:
    """Move `module` to `device`, before its optimiser is made, in the memory layout that is fastest there.

    On a CPU that is channels_last (measured: 20 to 40 % less time per training step of the ConRec U-Net at widths 8 and
    16), on a GPU where it computes in bfloat16: cuDNN's kernels for it take that layout, and copy maps that have
    another (not measured). Weights made contiguous again are the same numbers. Networks of volumes stay as they are.

    Args:
        precision: of the backend.
    """
    module.to(device)
    if channels_come_last(module, device, precision):
        module.to(memory_format=torch.channels_last)


def channels_come_last(module: nn.Module, device: torch.device, precision: str) -> bool:
    """Whether `place` gives this layout."""
    return (device.type == "cpu" or precision == "bfloat16") and not takes_volumes(module)


def takes_volumes(module: nn.Module) -> bool:
    """Whether a network is one of volumes [N, 1, D, H, W], and not of pictures."""
    return any(isinstance(part, nn.Conv3d) for part in module.modules())


def init_keras(module: nn.Module) -> None:
    """Initialise as Keras does: Glorot-uniform convolution kernels, biases of zero [conrec]."""
    for convolution in _convolutions(module):
        nn.init.xavier_uniform_(convolution.weight)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)


def _convolutions(module: nn.Module) -> Iterator[nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d]:
    return (m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)))
