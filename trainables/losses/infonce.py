"""InfoNCE of MoCo [arXiv:1911.05722, eq. 1]: a query is to know its key among those of a queue."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def infonce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """-log( exp(q.k / T) / (exp(q.k / T) + sum_j exp(q.k_j / T)) ), the mean over the rows.

    Args:
        queries, keys: [N, D] of the two views of N images, l2-normalised; no gradient flows into the keys.
        queue: [K, D], normalised keys of other images.

    Returns:
        A scalar.
    """
    positive = (queries * keys.detach()).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, queries @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
