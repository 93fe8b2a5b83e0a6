"""ConRec, contrast and reconstruction together [P1 §2.2, Fig. 3; conrec: models/conrec.py].

Both views are masked and pass the network together. With MSE the mean over the decoding tasks (weighted, where the
settings say so):

    L = reconstruction_weight * MSE + contrastive_weight * NTXent

One task (reconstruction) is the vanilla method, all four are P1's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.losses.ntxent import ntxent
from trainables.networks import build_network
from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.decoding import decoding_heads, mean_error
from trainables.pretexts.heads import AttentionPooling, ProjectionHead
from trainables.pretexts.masks import SMALLEST_SIDE, apply_masks, draw_masks
from trainables.pretexts.views import two_views
from trainables.settings import AnyNetworkSettings, ConRecSettings


class ConRec(Pretext):
    """8,641,476 trainable parameters at width 64 with one task, 8,641,931 with four."""

    smallest_size = SMALLEST_SIDE

    def __init__(self, settings: ConRecSettings, network: AnyNetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network = build_network(network, out_channels=1)
        del self.network.head  # every decoding task has its own
        self.minimum_multiple = self.network.minimum_multiple
        self.pretext = nn.ModuleDict(
            {
                "pooling": AttentionPooling(self.network.encoder_channels),
                "projection": ProjectionHead(self.network.encoder_channels),
                "decoding": decoding_heads(self.network.decoder_channels, settings),
            }
        )

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss", "contrast" (NT-Xent), and the error by task}."""
        views = two_views(batch.images, batch.boxes, batch.size, generator)
        masked = apply_masks(views.augmented, draw_masks(len(views.augmented), batch.size, generator))
        features = self.network.encoder(masked.images)
        first, second = self.pretext["projection"](self.pretext["pooling"](features[-1])).chunk(2)
        contrast = ntxent(first, second, self.settings.temperature)
        errors = self.pretext["decoding"](self.network.decode(features), views, masked)
        error = mean_error(errors, self.settings.task_weights)
        loss = self.settings.reconstruction_weight * error + self.settings.contrastive_weight * contrast
        return {"loss": loss, "contrast": contrast, **errors}
