"""Dice loss over a batch [form: genesis: keras/downstream_tasks/utils.py; P1 §2.3 names the loss without a form]."""

from __future__ import annotations

from torch import Tensor

IGNORED = 255
SMOOTH = 1.0


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1) with p = sigmoid(logit), over all counted pixels of the batch.

    Args:
        logits: [N, 1, H, W].
        masks: uint8 [N, H, W]: 0 background, 1 object, 255 not counted (void pixels, padding).

    Returns:
        A scalar in [0, 1).
    """
    p = logits.squeeze(1).sigmoid() * (masks != IGNORED)
    y = (masks == 1).to(p.dtype)
    return 1 - (2 * (p * y).sum() + SMOOTH) / (p.sum() + y.sum() + SMOOTH)
