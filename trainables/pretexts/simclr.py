"""SimCLR [Chen et al., arXiv:2002.05709; P1 §2.2]: two views of an image are to be alike and unlike all other images.

Only the encoder is trained: global average pooling, projection head, NT-Xent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.losses.ntxent import ntxent
from trainables.networks import build_network
from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.heads import GlobalAveragePooling, ProjectionHead
from trainables.pretexts.views import two_views
from trainables.settings import AnyNetworkSettings, SimCLRSettings


class SimCLR(Pretext):
    """5,281,216 trainable parameters at width 64."""

    def __init__(self, settings: SimCLRSettings, network: AnyNetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        whole = build_network(network, out_channels=1)
        self.encoder = whole.encoder
        self.minimum_multiple = whole.minimum_multiple
        self.pretext = nn.ModuleDict(
            {"pooling": GlobalAveragePooling(), "projection": ProjectionHead(whole.encoder_channels)}
        )

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss"}: NT-Xent over all views, which pass the encoder together so that batch norm sees them all."""
        views = two_views(batch.images, batch.boxes, batch.size, generator)
        pooled = self.pretext["pooling"](self.encoder(views.augmented)[-1])
        first, second = self.pretext["projection"](pooled).chunk(2)
        return {"loss": ntxent(first, second, self.settings.temperature)}
