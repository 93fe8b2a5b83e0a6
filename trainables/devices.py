"""Getting small CPU tensors (draws, row numbers) to the device without waiting for it; data that stay there."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Of the device memory that this process may take, for the data of a stage. A stage's share is measured with a margin of
# 15 % (`orchestrator.execute.resources`), so that an eighth more fits beside what was measured with smaller data.
RESIDENT = 1 / 8
# Assumed where this torch does not tell which part of a GPU the process may take: the smallest share there is.
LEAST_SHARE = 1 / 8


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. By way of pinned memory, since only from there a copy runs while the host goes on."""
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def fit(tensors: Iterable[Tensor], device: torch.device) -> bool:
    """Whether data may lie on a GPU for as long as a stage runs, beside the networks and other processes."""
    return device.type == "cuda" and sum(t.nbytes for t in tensors) <= RESIDENT * _memory(device)


def _memory(device: torch.device) -> float:
    """Bytes of a GPU that this process may take; what others hold there now counts as free."""
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda index: LEAST_SHARE)
    return float(share(device.index) * torch.cuda.get_device_properties(device).total_memory)
