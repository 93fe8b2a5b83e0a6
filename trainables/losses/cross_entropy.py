"""Cross-entropy over the classes of counted pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from trainables.losses.dice import IGNORED


def pixel_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """-log softmax(logits)[class], the mean over all counted pixels of the batch; 0 where none is counted.

    One row per pixel, since torch's two-dimensional form sums in no fixed order on a GPU.

    Args:
        logits: [N, C, H, W].
        masks: uint8 [N, H, W]: class numbers 0..C-1, 255 not counted (void pixels, padding).

    Returns:
        A scalar.
    """
    rows = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
    classes = masks.reshape(-1).long()
    total = F.cross_entropy(rows, classes, ignore_index=IGNORED, reduction="sum")
    return total / (classes != IGNORED).sum().clamp(min=1)
