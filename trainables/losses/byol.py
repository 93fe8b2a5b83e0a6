"""BYOL's loss [arXiv:2006.07733; byol: byol_pytorch.py]: the squared distance of two l2-normalised vectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """2 - 2 cos(prediction, target) of each row, which is || p / ||p|| - t / ||t|| ||^2.

    Args:
        predictions, targets: [N, D]; no gradient flows into the targets.

    Returns:
        [N], in [0, 4].
    """
    return 2 - 2 * (F.normalize(predictions, dim=1) * F.normalize(targets.detach(), dim=1)).sum(dim=1)
