"""Slowly moving copies of a network, and whether features have collapsed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def target_of(online: nn.Module) -> nn.Module:
    """A copy of `online` that no gradient reaches."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """w' <- m w' + (1 - m) w for every parameter. Batch-norm statistics are the target's own."""
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)


def feature_std(features: Tensor) -> float:
    """Standard deviation of l2-normalised features [N, D] over the images, the mean over their components.

    1 / sqrt(D) where the features spread over the sphere, 0 where all images have the same one: a collapse
    [arXiv:2011.10566, §4.1].
    """
    return float(F.normalize(features, dim=1).std(dim=0).mean())
