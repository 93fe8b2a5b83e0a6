"""What the loss of the validation part decides during finetuning: the weights kept, the learning rate, the end.

The rules are those of the Keras callbacks ModelCheckpoint, ReduceLROnPlateau and EarlyStopping, which Models Genesis
uses [genesis: downstream_tasks/utils.py]; an epoch there is a point of the curve here. The state before the first step
does not count.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainables.settings import FinetuneSettings

LEAST_GAIN = 1e-4  # of the loss, to count as progress for the learning rate
LEAST_RATE = 1e-6


def wanted(settings: FinetuneSettings) -> bool:
    """Whether anything depends on a validation part."""
    return settings.validates


class Selection:
    """Follows the validation loss of `network`; its state is part of a checkpoint, as a module's is.

    `best_step`: that of the least loss so far, 0 before the first point.
    """

    def __init__(self, settings: FinetuneSettings, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.settings, self.network = settings, network
        self.best_step, self._best, self._waited = 0, math.inf, 0
        self._weights: dict[str, Tensor] = {}
        self._rate = None
        if settings.plateau is not None:  # torch lowers the rate one point after its patience, Keras at it
            self._rate = ReduceLROnPlateau(
                optimizer,
                factor=settings.plateau_factor,
                patience=settings.plateau - 1,
                threshold=LEAST_GAIN,
                threshold_mode="abs",
                min_lr=LEAST_RATE,
            )

    def point(self, step: int, loss: float) -> None:
        """Take note of the validation loss after `step` steps."""
        if step == 0:
            return
        self._waited += 1
        if loss < self._best:
            self.best_step, self._best, self._waited = step, loss, 0
            if self.settings.keep == "best":
                self._weights = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        if self._rate is not None:
            self._rate.step(loss)

    def over(self) -> bool:
        """True when `patience` points in a row were no better than the best."""
        return self.settings.patience is not None and self._waited >= self.settings.patience

    def restore(self) -> None:
        """Give the network the weights that are to be kept."""
        if self._weights:
            self.network.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs, as `torch.load(weights_only=True)` gives it back."""
        return {
            "best_step": self.best_step,
            "best": self._best,
            "waited": self._waited,
            "weights": self._weights,
            "rate": None if self._rate is None else self._rate.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.best_step, self._best, self._waited = state["best_step"], state["best"], state["waited"]
        self._weights = dict(state["weights"])
        if self._rate is not None:
            self._rate.load_state_dict(state["rate"])
