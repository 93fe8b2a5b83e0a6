"""What every self-supervised pretext is: a module that makes its own views, losses and weights to hand on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageBatch:
    """Images as they lie in memory, before augmentation.

    images: uint8 [N, 3, S, S] on the training device; boxes: int64 [N, 4] (top, left, height, width) of the pictures
    inside their padded squares, on the CPU; size: side of the views to make, in pixels.
    """

    images: Tensor
    boxes: Tensor
    size: int


class Pretext(nn.Module, ABC):
    """A pretext method with its network.

    Subclasses keep the segmentation network in `network`, or only its `encoder`, and what the method alone needs in
    `pretext`: the names of the state dict are then those that `weights` promises.
    """

    smallest_size: ClassVar[int] = 8
    """Smallest side of a view in pixels."""

    minimum_multiple: int
    """Sides of a view must be multiples of it; from the network."""

    @abstractmethod
    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name; "loss" is minimised, the others are its parts. All draws come from the CPU generator, except
        for dropout, which takes torch's global one."""

    def weights(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers by the names that finetuning expects: the segmentation network's own
        (`encoder.*`, `skips.*`, `decoder.*`), and `pretext.*` for the rest."""
        return {
            name.removeprefix("network."): tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in self.state_dict().items()
        }
