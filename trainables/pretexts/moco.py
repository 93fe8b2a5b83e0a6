"""MoCo v2 [He et al., arXiv:1911.05722; Chen et al., arXiv:2003.04297; moco: builder.py].

A query is to know the key of its image's other view among the keys of a queue. Keys come from a slowly moving copy of
encoder and head. The original shuffles images between GPUs so that batch norm does not tell which key is whose; on one
device it shuffles nothing, and so do we. Its queue starts with random directions, as here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.losses.infonce import infonce
from trainables.networks import build_network
from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.heads import GlobalAveragePooling
from trainables.pretexts.momentum import feature_std, follow, target_of
from trainables.pretexts.recipes import MOCO_RECIPE, two_views_by
from trainables.settings import AnyNetworkSettings, MoCoSettings


class MoCo(Pretext):
    """Head of C -> C -> projection with ReLU, as in v2. The queue is part of the state, so a resumed run has it."""

    def __init__(self, settings: MoCoSettings, network: AnyNetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        whole = build_network(network, out_channels=1)
        channels = whole.encoder_channels
        self.encoder = whole.encoder
        self.minimum_multiple = whole.minimum_multiple
        projection = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, settings.projection)
        )
        self.pretext = nn.ModuleDict({"pooling": GlobalAveragePooling(), "projection": projection})
        self.target = nn.ModuleDict({"encoder": target_of(self.encoder), "projection": target_of(projection)})
        self.target.register_buffer("queue", F.normalize(torch.randn(settings.queue, settings.projection), dim=1))
        self.target.register_buffer("position", torch.zeros((), dtype=torch.long))
        self._keys: Tensor | None = None  # of the step that is being made

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Pretext.start_from`; the copy starts as one."""
        super().start_from(tensors)
        self.target["encoder"] = target_of(self.encoder)

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss"}: InfoNCE of the first views against the second ones and the queue."""
        queries, self._keys = self._queries_and_keys(batch, generator)
        queue: Tensor = self.target.get_buffer("queue")
        return {"loss": infonce(queries, self._keys, queue, self.settings.temperature)}

    def validate(self, batch: ImageBatch, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """InfoNCE of the batch's queries among its own keys, and the queries. Not against the queue: what lies in it
        gets harder as training goes on, so such a loss would rise while the network learns."""
        queries, keys = self._queries_and_keys(batch, generator)
        logits = queries @ keys.T / self.settings.temperature
        return {"loss": F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))}, queries

    def summarise(self, rows: Tensor) -> dict[str, float]:
        """feature_std: of the queries; 1 / sqrt(projection) at best."""
        return {"feature_std": feature_std(rows)}

    def after_step(self) -> None:
        """Put the step's keys into the queue, over the oldest ones, and move the copy."""
        if self._keys is not None:
            self._enqueue(self._keys)
            self._keys = None
        follow(self.target["encoder"], self.encoder, self.settings.momentum)
        follow(self.target["projection"], self.pretext["projection"], self.settings.momentum)

    def _queries_and_keys(self, batch: ImageBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first, second = two_views_by(MOCO_RECIPE, batch.images, batch.boxes, batch.size, generator)
        queries = self._project(self.encoder, self.pretext["projection"], first)
        with torch.no_grad():
            keys = self._project(self.target["encoder"], self.target["projection"], second)
        return queries, keys

    def _project(self, encoder: nn.Module, projection: nn.Module, view: Tensor) -> Tensor:
        return F.normalize(projection(self.pretext["pooling"](encoder(view)[-1])), dim=1)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        queue, position = self.target.get_buffer("queue"), self.target.get_buffer("position")
        kept = keys[-len(queue) :]
        places = (position + torch.arange(len(kept), device=position.device)) % len(queue)
        queue[places] = kept
        position.copy_((position + len(kept)) % len(queue))
