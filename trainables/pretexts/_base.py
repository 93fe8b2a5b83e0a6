"""What every pretext is: a module that makes its own views, losses and weights to hand on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainables.context import StageError

ENCODER = "encoder."


@dataclass(frozen=True)
class ImageBatch:
    """Images as they lie in memory, before augmentation.

    images: uint8 [N, 3, S, S] on the training device; boxes: int64 [N, 4] (top, left, height, width) of the pictures
    inside their padded squares, on the CPU; size: side of the views to make, in pixels.

    Methods of volumes have cubes [N, X, Y, Z] as their images (uint8, or float16 in [0, 1]), and boxes of no meaning.

    What only some methods need (`needs` of their settings), on the training device, else None: masks uint8 [N, S, S]
    (class numbers, 255 not counted); labels int64 [N]; colored uint8 [N, 3, S, S], the colorised images.
    """

    images: Tensor
    boxes: Tensor
    size: int
    masks: Tensor | None = None
    labels: Tensor | None = None
    colored: Tensor | None = None


class Pretext(nn.Module, ABC):
    """A pretext method with its network.

    Subclasses keep the segmentation network in `network`, or only its `encoder`, and what the method alone needs in
    `pretext`: the names of the state dict are then those that `weights` promises. A `target` (a slowly moving copy) is
    part of the state, but handed on to nobody.
    """

    smallest_size: ClassVar[int] = 8
    """Smallest side of a view in pixels."""

    random_validation: ClassVar[bool] = True
    """Whether `validate` draws anything, so that a second draw would tell more."""

    minimum_multiple: int
    """Sides of a view must be multiples of it; from the network."""

    @abstractmethod
    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name; "loss" is minimised, the others are its parts. All draws come from the CPU generator, except
        for dropout, which takes torch's global one."""

    def validate(self, batch: ImageBatch, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor | None]:
        """Losses of held-out images, in evaluation mode, and one row per image of what `summarise` wants (or None)."""
        return self.loss(batch, generator), None

    def summarise(self, rows: Tensor) -> dict[str, float]:
        """Validation metrics besides the losses, from the rows of all held-out images."""
        return {}

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin with the encoder of a finished stage (`encoder.*`: imported weights, say) instead of a random one.

        Raises:
            StageError: a tensor is missing or has another shape.
        """
        encoder = self.get_submodule("network.encoder" if hasattr(self, "network") else "encoder")
        given = {n.removeprefix(ENCODER): t for n, t in tensors.items() if n.startswith(ENCODER)}
        for name, own in encoder.state_dict().items():
            if name not in given and name.endswith("num_batches_tracked"):
                continue  # a counter that other frameworks' weights lack
            if name not in given or given[name].shape != own.shape:
                found = f"{list(given[name].shape)}" if name in given else "none"
                raise StageError(
                    f"the encoder to start from: expected {ENCODER}{name} of {list(own.shape)}, as the network has it, "
                    f"but got {found}"
                )
            with torch.no_grad():
                own.copy_(given[name])

    def after_step(self) -> None:
        """Called after each optimiser step: a moving average, a queue."""

    def weights(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers by the names that finetuning expects: the segmentation network's own
        (`encoder.*`, `skips.*`, `decoder.*`, `head.*`), and `pretext.*` for the rest."""
        return {
            name.removeprefix("network."): tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in self.state_dict().items()
            if not name.startswith("target.")
        }
