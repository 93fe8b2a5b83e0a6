"""Metrics of binary segmentation, from sums per image, so that they do not depend on how images were batched.

Pixels of value 255 (void, padding) are left out everywhere, and so is an image without any counted pixel. Threshold 0.5
on the probability. A share of nothing (object neither predicted nor there) is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.context import StageError
from trainables.losses.dice import IGNORED, SMOOTH

# Columns of a tally.
HIT, PREDICTED, TRUE, COUNTED, SOFT_HIT, SOFT_PREDICTED = range(6)


@torch.no_grad()
def tally(logits: Tensor, masks: Tensor) -> Tensor:
    """Pixel sums of each image, from logits [N, 1, H, W] and masks uint8 [N, H, W] (0, 1, 255).

    Returns:
        float64 [N, 6] on the CPU: object pixels both predicted and true, predicted, true, all counted pixels, and the
        sums of p * y and of p with the probability p in place of the prediction.
    """
    p = logits.squeeze(1).sigmoid()
    counted = masks != IGNORED
    true = masks == 1
    predicted = (p > 0.5) & counted
    soft = p.double() * counted
    columns = [predicted & true, predicted, true, counted, soft * true, soft]
    return torch.stack([c.flatten(1).sum(1, dtype=torch.float64) for c in columns], dim=1).cpu()


def summarise(tallies: Tensor) -> dict[str, float]:
    """Metrics as fractions in [0, 1] from the tallies [N, 6] of all images.

    dice: hard Dice of each image, averaged over the images. dice_pooled: all pixels together. dice_soft: as dice, with
    probabilities and the loss's smoothing. iou: of the object, pooled. miou: mean of the object's and the background's,
    pooled. dice_all_foreground: `dice` if the object were predicted everywhere, the floor for any other number.
    loss: the Dice loss of all images as one batch.

    Raises:
        StageError: no image has a counted pixel.
    """
    tallies = tallies[tallies[:, COUNTED] > 0]
    if not len(tallies):
        raise StageError("evaluation: expected masks with pixels to count, but all are void or padding (255)")
    hit, predicted, true, counted, soft_hit, soft = tallies.unbind(1)
    sums = tallies.sum(0)
    missed_or_wrong = sums[PREDICTED] + sums[TRUE] - 2 * sums[HIT]
    iou = _share(sums[HIT], sums[HIT] + missed_or_wrong)
    both_background = sums[COUNTED] - sums[HIT] - missed_or_wrong
    iou_background = _share(both_background, both_background + missed_or_wrong)
    metrics = {
        "dice": _share(2 * hit, predicted + true).mean(),
        "dice_pooled": _share(2 * sums[HIT], sums[PREDICTED] + sums[TRUE]),
        "dice_soft": _smooth_dice(soft_hit, soft, true).mean(),
        "iou": iou,
        "miou": (iou + iou_background) / 2,
        "dice_all_foreground": _share(2 * true, counted + true).mean(),
        "loss": 1 - _smooth_dice(sums[SOFT_HIT], sums[SOFT_PREDICTED], sums[TRUE]),
    }
    return {name: float(value) for name, value in metrics.items()}


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 1 where the whole is empty."""
    return torch.where(whole > 0, part / whole.clamp(min=1), 1.0)


def _smooth_dice(hit: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    return (2 * hit + SMOOTH) / (predicted + true + SMOOTH)
