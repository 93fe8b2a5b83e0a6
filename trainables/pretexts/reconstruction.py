"""Masked reconstruction [P1 §2.2]: the network sees masked views and is to give back what the decoding tasks ask for.

P1 names the method without a definition; this is ConRec without its contrastive branch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.networks import build_network
from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.decoding import decoding_heads, mean_error
from trainables.pretexts.masks import SMALLEST_SIDE, apply_masks, draw_masks
from trainables.pretexts.views import two_views
from trainables.settings import AnyNetworkSettings, ReconstructionSettings


class Reconstruction(Pretext):
    """The segmentation network with one output convolution per task, 7,876,035 parameters at width 64 and one task."""

    smallest_size = SMALLEST_SIDE

    def __init__(self, settings: ReconstructionSettings, network: AnyNetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network = build_network(network, out_channels=1)
        del self.network.head  # every decoding task has its own
        self.minimum_multiple = self.network.minimum_multiple
        self.pretext = nn.ModuleDict({"decoding": decoding_heads(self.network.decoder_channels, settings)})

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss", and the error by task}."""
        views = two_views(batch.images, batch.boxes, batch.size, generator)
        masked = apply_masks(views.augmented, draw_masks(len(views.augmented), batch.size, generator))
        decoded = self.network.decode(self.network.encoder(masked.images))
        errors = self.pretext["decoding"](decoded, views, masked)
        error = mean_error(errors, self.settings.task_weights)
        return {"loss": self.settings.reconstruction_weight * error, **errors}
