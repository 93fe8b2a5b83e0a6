"""Metrics of binary segmentation, from sums per image, so that they do not depend on how images were batched; and the
two of [P1 Table 3] that do.

Pixels of value 255 (void, padding) are left out everywhere, and so is an image without any counted pixel. Threshold 0.5
on the probability. A share of nothing (object neither predicted nor there) is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.context import StageError
from trainables.losses.dice import IGNORED, SMOOTH

# Of the averaged IoU [genesis].
THRESHOLDS = tuple(0.5 + 0.05 * k for k in range(10))
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


@dataclass(frozen=True)
class BatchTally:
    """count: images of a batch; dice: its soft Dice with smoothing; confusion: counted pixels as int64 [10, 2, 2], by
    threshold, truth and prediction."""

    count: int
    dice: float
    confusion: Tensor


@torch.no_grad()
def tally_batch(logits: Tensor, masks: Tensor) -> BatchTally:
    """What `summarise_batches` needs of a batch, from logits [N, 1, ...] and masks uint8 [N, ...] (0, 1, 255)."""
    counted = masks != IGNORED
    p, true = logits.squeeze(1).sigmoid()[counted], masks[counted] == 1
    soft = p.double()
    dice = _smooth_dice((soft * true).sum(), soft.sum(), true.sum().double())
    thresholds = torch.tensor(THRESHOLDS, device=p.device)
    exceeded = torch.bucketize(p, thresholds)  # how many thresholds lie below p
    kinds = len(THRESHOLDS) + 1
    histogram = torch.bincount(exceeded + kinds * true, minlength=2 * kinds).view(2, kinds).cpu()
    negative = histogram.cumsum(dim=1)[:, :-1]  # at threshold k all with at most k exceeded
    confusion = torch.stack([negative, histogram.sum(dim=1, keepdim=True) - negative], dim=-1).transpose(0, 1)
    return BatchTally(len(masks), float(dice), confusion)


def summarise_batches(batches: Sequence[BatchTally]) -> dict[str, float]:
    """The EVAL pair of [P1 Table 3], as the official code gets it from Keras [genesis: downstream_tasks/utils.py].

    dice_eval: the batches' soft Dice, averaged with their sizes as weights. iou_eval: IoU averaged over background and
    object (over those that are there or predicted) and over ten thresholds, of all pixels up to a batch; and of these
    running values the average over the batches, with their sizes as weights.
    """
    counts = torch.tensor([batch.count for batch in batches], dtype=torch.float64)
    dice = torch.tensor([batch.dice for batch in batches], dtype=torch.float64)
    seen = torch.stack([batch.confusion for batch in batches]).cumsum(dim=0).double()
    hit = seen.diagonal(dim1=-2, dim2=-1)
    union = seen.sum(dim=-1) + seen.sum(dim=-2) - hit
    there = (union > 0).sum(dim=-1)
    running = ((hit / union.clamp(min=1)).sum(dim=-1) / there).mean(dim=-1)
    weights = counts / counts.sum()
    return {"dice_eval": float((dice * weights).sum()), "iou_eval": float((running * weights).sum())}


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 1 where the whole is empty."""
    return torch.where(whole > 0, part / whole.clamp(min=1), 1.0)


def _smooth_dice(hit: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    return (2 * hit + SMOOTH) / (predicted + true + SMOOTH)
