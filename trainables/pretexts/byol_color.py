"""BYOL between a gray image and its colorised self [P2 §IV-A, Fig. 2]: colorization instead of augmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.pretexts._base import ImageBatch
from trainables.pretexts.byol import BYOL


class BYOLColor(BYOL):
    """The colorised images come from a prepare stage; nothing is drawn."""

    random_validation = False

    def views(self, batch: ImageBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The gray image, its three channels equal, and the colorised one."""
        assert batch.colored is not None  # the settings' `needs` say so
        return batch.images.float() / 255, batch.colored.float() / 255
