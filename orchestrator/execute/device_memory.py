"""What is asked of a GPU itself: its memory, a process' share of it, and what its faults mean. On a CPU nothing is.

It has not run on a GPU yet: `tests.benchmarks.gpu_share` is the command that shows whether it does what it should.
`tests/orchestrator/test_device_memory.py` runs torch's own Python code on the way there.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from orchestrator.execute.resources import CONTEXT_BYTES, allocator_fraction

# Only torch's own allocator raises OutOfMemoryError. Where memory is used up, CUDA and its libraries say so in these
# words, or cannot make their handle, or find no algorithm whose workspace would fit.
_FULL = re.compile(
    r"CUDA.*out of memory"
    r"|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT)\w*(ALLOC\w*FAILED|_NOT_INITIALIZED)"
    r"|Unable to find a valid cuDNN algorithm"
    r"|unable to find an engine to execute this computation"
)


def limit_device_memory(device: torch.device, share: float) -> None:
    """Cap this process to its share of the device, and begin to measure its peak.

    What goes beyond the share raises torch.OutOfMemoryError in this process, and harms no neighbour.

    Args:
        share: in (0, 1); a whole device (1) or an unknown share (0) is not capped.
    """
    if device.type != "cuda":
        return
    number = _number(device)
    torch.cuda.empty_cache()  # what an earlier stage of this warm worker still holds would count as ours
    torch.cuda.set_per_process_memory_fraction(allocator_fraction(share, _bytes_of(number)), number)
    torch.cuda.reset_peak_memory_stats(number)


def device_facts(device: torch.device) -> dict[str, Any]:
    """The device's name, its bytes, and the most that this process has held since `limit_device_memory`; on a CPU none.

    The peak counts what the allocator has reserved, not only what tensors fill, and an allowance for the context.
    """
    if device.type != "cuda":
        return {}
    number = _number(device)
    return {
        "device": torch.cuda.get_device_name(number),
        "device_bytes": _bytes_of(number),
        "peak_device_bytes": torch.cuda.max_memory_reserved(number) + CONTEXT_BYTES,
    }


def is_device_full(error: BaseException) -> bool:
    """True for what torch and CUDA's libraries raise when a device has no memory left for them."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None


def is_device_lost(error: BaseException) -> bool:
    """True where CUDA serves this process no more: after an illegal access, an assertion in a kernel or a fault of the
    memory chips each later call fails too, whichever stage makes it."""
    if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError):
        return False
    if isinstance(error, torch.AcceleratorError):
        return not is_device_full(error)
    return not _answers()  # cuBLAS and cuDNN tell of a lost one by plain RuntimeErrors


def _answers() -> bool:
    """Whether CUDA still serves this process; True where it never has, as a call would only begin it."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    try:
        torch.cuda.synchronize(torch.cuda.current_device())
    except RuntimeError as error:
        return is_device_full(error)
    return True


def _number(device: torch.device) -> int:
    """Of a device that is called `cuda` only, it is the current one's: not all of torch's functions look that up."""
    return torch.cuda.current_device() if device.index is None else device.index


def _bytes_of(number: int) -> int:
    return int(torch.cuda.get_device_properties(number).total_memory)
