"""BYOL [Grill et al., arXiv:2006.07733; byol: byol_pytorch.py before November 2023; P2 §V-B].

The online network predicts what a slowly moving copy of it, the target, says of the other view; no negatives. Per image

    L = 2 - 2 cos(q(g(f(v1))), g'(f'(v2))) + 2 - 2 cos(q(g(f(v2))), g'(f'(v1)))

with encoder and pooling f, projector g, predictor q. Each view passes through the networks on its own, so batch norm
sees one view at a time, that of the target too, which stays in training mode.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainables.losses.byol import byol_loss
from trainables.networks import build_network
from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.heads import GlobalAveragePooling
from trainables.pretexts.momentum import feature_std, follow, target_of
from trainables.pretexts.recipes import BYOL_RECIPE, two_views_by
from trainables.settings import AnyNetworkSettings, BYOLColorSettings, BYOLSettings


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Projector and predictor alike: dense, batch norm, ReLU, dense, with biases. 9,449,728 parameters for
    2048 -> 4096 -> 256 and 2,109,696 for 256 -> 4096 -> 256."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs)
    )


class BYOL(Pretext):
    """Online encoder with projector and predictor; the target follows encoder and projector after each step."""

    def __init__(self, settings: BYOLSettings | BYOLColorSettings, network: AnyNetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        whole = build_network(network, out_channels=1)
        self.encoder = whole.encoder
        self.minimum_multiple = whole.minimum_multiple
        self.pretext = nn.ModuleDict(
            {
                "pooling": GlobalAveragePooling(),
                "projector": mlp(whole.encoder_channels, settings.hidden, settings.projection),
                "predictor": mlp(settings.projection, settings.hidden, settings.projection),
            }
        )
        self.target = nn.ModuleDict(
            {"encoder": target_of(self.encoder), "projector": target_of(self.pretext["projector"])}
        )

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Pretext.start_from`; the target starts as a copy."""
        super().start_from(tensors)
        self.target["encoder"] = target_of(self.encoder)

    def views(self, batch: ImageBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Both views of each image, float32 [N, 3, size, size] in [0, 1]. byol-pytorch also normalises by mean and
        deviation; here that is part of the networks that want it, so that finetuning does the same."""
        shared = isinstance(self.settings, BYOLSettings) and self.settings.shared_draws
        return two_views_by(BYOL_RECIPE, batch.images, batch.boxes, batch.size, generator, shared=shared)

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss"}: the mean over the images of both directions."""
        return {"loss": self._loss(*self.views(batch, generator))[0]}

    def validate(self, batch: ImageBatch, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """The loss, and the projections of the first views."""
        loss, projected = self._loss(*self.views(batch, generator))
        return {"loss": loss}, projected

    def summarise(self, rows: Tensor) -> dict[str, float]:
        """feature_std: of the online projections; 1 / sqrt(projection) at best, near 0 after a collapse."""
        return {"feature_std": feature_std(rows)}

    def after_step(self) -> None:
        """Move the target [byol: update_moving_average]."""
        follow(self.target["encoder"], self.encoder, self.settings.momentum)
        follow(self.target["projector"], self.pretext["projector"], self.settings.momentum)

    def _loss(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        online = [self._project(self.encoder, self.pretext["projector"], view) for view in (first, second)]
        predicted = [self.pretext["predictor"](projection) for projection in online]
        with torch.no_grad():
            aims = [self._project(self.target["encoder"], self.target["projector"], view) for view in (first, second)]
        loss = (byol_loss(predicted[0], aims[1]) + byol_loss(predicted[1], aims[0])).mean()
        return loss, online[0]

    def _project(self, encoder: nn.Module, projector: nn.Module, view: Tensor) -> Tensor:
        projected: Tensor = projector(self.pretext["pooling"](encoder(view)[-1]))
        return projected
