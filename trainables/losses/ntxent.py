"""NT-Xent, the normalised temperature-scaled cross-entropy of SimCLR [arXiv:2002.05709; conrec: utils/contrastive.py].

With l2-normalised projections a_i, b_i of the two views of image i, and temperature T:

    l_a(i) = -log( exp(a_i.b_i / T) / (sum_j exp(a_i.b_j / T) + sum_{j != i} exp(a_i.a_j / T)) )
    L = mean_i l_a(i) + mean_i l_b(i),          l_b with a and b exchanged

The sum, not the average, of the two means: twice the scale of lightly's NTXentLoss, as the paper's learning rate
expects. These few lines do not carry a dependency on lightly, which the tests compare with.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def ntxent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The loss of N image pairs, a scalar.

    Args:
        first: projections of the first views, [N, D], not normalised.
        second: projections of the second views, in the same order.

    Raises:
        ValueError: shapes differ, or fewer than two images (a pair alone has no negatives).
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"NT-Xent needs two equal [N, D] tensors with N >= 2, but got {shapes}")
    count = len(first)
    projections = F.normalize(torch.cat([first, second]), dim=1)
    logits = projections @ projections.T / temperature
    itself = torch.eye(2 * count, dtype=torch.bool, device=logits.device)
    partner = torch.arange(2 * count, device=logits.device).roll(count)
    return 2 * F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner)
