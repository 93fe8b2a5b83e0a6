"""Dice loss plus binary cross-entropy [P2 §V-B names "dice-bce"; *open*: the weights, 1 to 1]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from trainables.losses.dice import IGNORED, dice_loss


def dice_bce_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """`dice_loss` plus the mean binary cross-entropy of the counted pixels of the batch (0 where none is counted).

    Args:
        logits: [N, 1, ...].
        masks: uint8 [N, ...]: 0 background, 1 object, 255 not counted (void pixels, padding).

    Returns:
        A scalar.
    """
    counted = masks != IGNORED
    each = F.binary_cross_entropy_with_logits(logits.squeeze(1), (masks == 1).to(logits.dtype), reduction="none")
    return dice_loss(logits, masks) + (each * counted).sum() / counted.sum().clamp(min=1)
