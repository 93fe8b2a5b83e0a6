"""The calls that ask a GPU for its memory and keep a process to its share of it. On a CPU they do nothing.

They have not run on a GPU yet: `tests.benchmarks.gpu_share` is the command that shows whether they do what they should.
"""

from __future__ import annotations

from typing import Any

import torch

from orchestrator.execute.resources import CONTEXT_BYTES, allocator_fraction


def limit_device_memory(device: torch.device, share: float) -> None:
    """Cap this process to its share of the device, and begin to measure its peak.

    What goes beyond the share raises torch.OutOfMemoryError in this process, and harms no neighbour.

    Args:
        share: in (0, 1); a whole device (1) or an unknown share (0) is not capped.
    """
    if device.type != "cuda":
        return
    torch.cuda.empty_cache()  # what an earlier stage of this warm worker still holds would count as ours
    torch.cuda.set_per_process_memory_fraction(allocator_fraction(share, _bytes_of(device)), device)
    torch.cuda.reset_peak_memory_stats(device)


def device_facts(device: torch.device) -> dict[str, Any]:
    """The device's name, its bytes, and the most that this process has held since `limit_device_memory`; on a CPU none.

    The peak counts what the allocator has reserved, not only what tensors fill, and an allowance for the context.
    """
    if device.type != "cuda":
        return {}
    return {
        "device": torch.cuda.get_device_name(device),
        "device_bytes": _bytes_of(device),
        "peak_device_bytes": torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES,
    }


def _bytes_of(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)
