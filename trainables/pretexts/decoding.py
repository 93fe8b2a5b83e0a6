"""What the decoder is asked for: one 1x1 output convolution for each decoding task [P1 §2.2, Fig. 3].

The first three decoder blocks are shared, the last one is unique to a task. The network has three decoder blocks, so we
take the output convolution for the unique one: the reading that keeps the paper's 8.65 M parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.context import StageError
from trainables.losses.dice import dice_loss
from trainables.networks._base import init_keras
from trainables.pretexts.masks import Masked
from trainables.pretexts.views import Views
from trainables.settings import ConRecSettings, ReconstructionSettings

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, target in [0, 1]), both [N, C, H, W] -> a scalar

# Task -> channels, and the target in [0, 1] from the views and their masks.
TASKS: dict[str, tuple[int, Callable[[Views, Masked], Tensor]]] = {
    "reconstruction": (3, lambda views, masked: views.augmented),
    "color": (3, lambda views, masked: views.cropped),
    "mask": (1, lambda views, masked: masked.mask),
    "fill": (3, lambda views, masked: views.augmented * (1 - masked.mask)),
}


def _squared_error(logits: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(torch.sigmoid(logits), target)


# Of the task `mask`: mean over pixels and images; Dice over all pixels of the batch.
MASK_LOSSES: dict[str, Loss] = {
    "mse": _squared_error,
    "bce": F.binary_cross_entropy_with_logits,
    "dice": lambda logits, target: dice_loss(logits.to(target.dtype), target.squeeze(1)),
}


class DecodingHeads(nn.ModuleDict):
    """One head per task on the decoder's output.

    Args:
        mask_loss: of the task `mask`, by its name in `MASK_LOSSES`.

    Raises:
        ValueError: no task, the same task twice, or one that does not exist; no such loss.
    """

    def __init__(self, channels: int, tasks: Sequence[str], mask_loss: str = "mse") -> None:
        if mask_loss not in MASK_LOSSES:
            raise ValueError(f"no mask_loss {mask_loss!r}; there are {', '.join(MASK_LOSSES)}")
        if not tasks or len(set(tasks)) != len(tasks) or not set(tasks) <= set(TASKS):
            raise ValueError(f"decoding tasks must be different ones of {', '.join(TASKS)}, but got {list(tasks)}")
        super().__init__({task: nn.Conv2d(channels, TASKS[task][0], 1) for task in tasks})
        init_keras(self)
        self.losses = {task: MASK_LOSSES[mask_loss if task == "mask" else "mse"] for task in tasks}

    def forward(self, decoded: Tensor, views: Views, masked: Masked) -> dict[str, Tensor]:
        """Error by task: the mean squared one of sigmoid(head) over pixels, channels and images, or the `mask_loss`."""
        return {task: self.losses[task](head(decoded), TASKS[task][1](views, masked)) for task, head in self.items()}


def decoding_heads(channels: int, settings: ConRecSettings | ReconstructionSettings) -> DecodingHeads:
    """The heads that a method's settings ask for.

    Raises:
        StageError: the weights of the tasks do not fit them.
        ValueError: as `DecodingHeads`.
    """
    if misfit := settings.misfit():
        raise StageError(f"{settings.method}: {misfit}")
    return DecodingHeads(channels, settings.tasks, settings.mask_loss)


def mean_error(errors: dict[str, Tensor], weights: Sequence[float] = ()) -> Tensor:
    """The reconstruction term: the mean over the tasks, so that the scale is that of a single one.

    Args:
        errors: a scalar by task.
        weights: of the tasks, in their order; empty: equal ones.
    """
    if not weights:
        return torch.stack(list(errors.values())).mean()
    shares = [weight / sum(weights) for weight in weights]
    return torch.stack([share * error for share, error in zip(shares, errors.values(), strict=True)]).sum()
