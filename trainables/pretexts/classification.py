"""Supervised classification as a pretext [P1 §5.1, §5.2]: encoder, global average pooling, one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.downstream.augment import augment, draw_crops
from trainables.networks import build_network
from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.heads import GlobalAveragePooling
from trainables.settings import AnyNetworkSettings, ClassificationSettings


class Classification(Pretext):
    """C classes have C logits, but two have one, unless `loss` is cross-entropy. No dropout."""

    random_validation = False

    def __init__(self, settings: ClassificationSettings, network: AnyNetworkSettings, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        whole = build_network(network, out_channels=1)
        self.encoder = whole.encoder
        self.minimum_multiple = whole.minimum_multiple
        self.one_logit = classes == 2 and settings.loss != "cross-entropy"
        classifier = nn.Linear(whole.encoder_channels, 1 if self.one_logit else classes)
        self.pretext = nn.ModuleDict({"pooling": GlobalAveragePooling(), "classifier": classifier})

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss"} of flipped and cropped images."""
        crops = draw_crops(len(batch.images), self.settings.flip, self.settings.crop_area, generator)
        unused = torch.zeros_like(batch.images[:, 0])
        pictures, _ = augment(batch.images, unused, batch.boxes, crops)
        return {"loss": self._loss(self.logits(pictures), _labels(batch))}

    def logits(self, images: Tensor) -> Tensor:
        """[N, 1] or [N, C] of images [N, 3, H, W] in [0, 1]."""
        logits: Tensor = self.pretext["classifier"](self.pretext["pooling"](self.encoder(images)[-1]))
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """[N, C] of logits as `logits` gives them. One against the rest, those of an image need not sum to 1."""
        if self.one_logit:
            return (torch.cat([-logits, logits], dim=1) / 2).softmax(dim=1)
        return logits.sigmoid() if self.settings.loss == "binary" else logits.softmax(dim=1)

    def validate(self, batch: ImageBatch, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """The loss of the images as they are, and for each whether it was recognised."""
        logits, labels = self.logits(batch.images.float() / 255), _labels(batch)
        predicted = (logits[:, 0] > 0).long() if self.one_logit else logits.argmax(dim=1)
        return {"loss": self._loss(logits, labels)}, (predicted == labels).double().cpu()

    def summarise(self, rows: Tensor) -> dict[str, float]:
        """accuracy: the share of images that were recognised."""
        return {"accuracy": float(rows.mean())}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.one_logit:
            return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
        if self.settings.loss == "binary":
            return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, self.classes).to(logits.dtype))
        return F.cross_entropy(logits, labels)


def _labels(batch: ImageBatch) -> Tensor:
    assert batch.labels is not None  # the settings' `needs` say so
    return batch.labels
