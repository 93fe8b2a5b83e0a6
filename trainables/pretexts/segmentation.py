"""Supervised segmentation as a pretext [P1 §5.1, §5.2]: the whole network learns masks, then it is handed on."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.downstream.augment import augment, draw_crops
from trainables.downstream.metrics import summarise, tally
from trainables.losses.cross_entropy import pixel_cross_entropy
from trainables.losses.dice import IGNORED, dice_loss
from trainables.networks import build_network
from trainables.pretexts._base import ImageBatch, Pretext
from trainables.settings import AnyNetworkSettings, SegmentationSettings

HEAD = "head."


class Segmentation(Pretext):
    """Two classes: one output, Dice loss; the head fits a binary target and is handed on. C > 2 classes: C outputs,
    cross-entropy; no target has this head, so it counts as the pretext's own. At width 64 the ConRec U-Net has
    7,875,905 parameters for two classes and 7,885,590 for 150."""

    random_validation = False

    def __init__(self, settings: SegmentationSettings, network: AnyNetworkSettings, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        self.network = build_network(network, out_channels=1 if classes == 2 else classes)
        self.minimum_multiple = self.network.minimum_multiple
        self.criterion = dice_loss if classes == 2 else pixel_cross_entropy

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss"} of flipped and cropped images."""
        masks = _masks(batch)
        crops = draw_crops(len(masks), self.settings.flip, self.settings.crop_area, generator)
        pictures, truth = augment(batch.images, masks, batch.boxes, crops)
        return {"loss": self.criterion(self.network(pictures), truth)}

    def validate(self, batch: ImageBatch, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """The loss of the images as they are, and one row of pixel sums per image."""
        masks = _masks(batch)
        logits = self.network(batch.images.float() / 255)
        rows = tally(logits, masks) if self.classes == 2 else class_tally(logits, masks)
        return {"loss": self.criterion(logits, masks)}, rows

    def summarise(self, rows: Tensor) -> dict[str, float]:
        """dice. Two classes: hard Dice of the object per image, averaged. More: hard Dice of each class, its pixels of
        all images together, averaged over the classes that are there or predicted; and accuracy of the pixels."""
        if self.classes == 2:
            found = summarise(rows)
            return {"dice": found["dice"], "miou": found["miou"]}
        hit, predicted, true = rows.sum(0).view(3, self.classes)
        there = predicted + true > 0
        dice = (2 * hit[there] / (predicted + true)[there]).mean()
        return {"dice": float(dice), "accuracy": float(hit.sum() / true.sum())}

    def weights(self) -> dict[str, Tensor]:
        """As `Pretext.weights`; a head of more than two classes is `pretext.head.*`."""
        own = "pretext." if self.classes != 2 else ""
        return {own + name if name.startswith(HEAD) else name: t for name, t in super().weights().items()}


def class_tally(logits: Tensor, masks: Tensor) -> Tensor:
    """Counted pixels of each image: hits, predicted and true ones of each class.

    Args:
        logits: [N, C, H, W].
        masks: uint8 [N, H, W], 0..C-1 and 255.

    Returns:
        float64 [N, 3 * C] on the CPU.
    """
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1).flatten(1).cpu()
    true = masks.long().flatten(1).cpu()
    return torch.stack([_counts(p, t, classes) for p, t in zip(predicted, true, strict=True)])


def _counts(predicted: Tensor, true: Tensor, classes: int) -> Tensor:
    counted = true != IGNORED
    predicted, true = predicted[counted], true[counted]
    each = (true[predicted == true], predicted, true)
    return torch.cat([torch.bincount(values, minlength=classes) for values in each]).double()


def _masks(batch: ImageBatch) -> Tensor:
    assert batch.masks is not None  # the settings' `needs` say so
    return batch.masks
