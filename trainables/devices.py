"""Getting small CPU tensors (draws, row numbers) to the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. By way of pinned memory, since only from there a copy runs while the host goes on."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
