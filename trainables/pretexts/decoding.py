"""What the decoder is asked for: one 1x1 output convolution for each decoding task [P1 §2.2, Fig. 3].

The first three decoder blocks are shared, the last one is unique to a task. The network has three decoder blocks, so we
take the output convolution for the unique one: the reading that keeps the paper's 8.65 M parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.networks._base import init_keras
from trainables.pretexts.masks import Masked
from trainables.pretexts.views import Views

# Task -> channels, and the target in [0, 1] from the views and their masks.
TASKS: dict[str, tuple[int, Callable[[Views, Masked], Tensor]]] = {
    "reconstruction": (3, lambda views, masked: views.augmented),
    "color": (3, lambda views, masked: views.cropped),
    "mask": (1, lambda views, masked: masked.mask),
    "fill": (3, lambda views, masked: views.augmented * (1 - masked.mask)),
}


class DecodingHeads(nn.ModuleDict):
    """One head per task on the decoder's output.

    Raises:
        ValueError: no task, the same task twice, or one that does not exist.
    """

    def __init__(self, channels: int, tasks: Sequence[str]) -> None:
        if not tasks or len(set(tasks)) != len(tasks) or not set(tasks) <= set(TASKS):
            raise ValueError(f"decoding tasks must be different ones of {', '.join(TASKS)}, but got {list(tasks)}")
        super().__init__({task: nn.Conv2d(channels, TASKS[task][0], 1) for task in tasks})
        init_keras(self)

    def forward(self, decoded: Tensor, views: Views, masked: Masked) -> dict[str, Tensor]:
        """Mean squared error of sigmoid(head) by task, mean over pixels, channels and images."""
        return {
            task: F.mse_loss(torch.sigmoid(head(decoded)), TASKS[task][1](views, masked)) for task, head in self.items()
        }


def mean_error(errors: dict[str, Tensor]) -> Tensor:
    """The reconstruction term: the mean over the tasks, so that the scale is that of a single one."""
    return torch.stack(list(errors.values())).mean()
