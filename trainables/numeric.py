"""How networks compute: in bfloat16, or compiled, where the backend says so; what is around them stays as it is.

Augmentation and losses are no part of a network, so they stay float32 and uncompiled. A network is reached by the calls
that stages and pretexts make: all of it, or its encoder, its `decode` and what a pretext has on top. Those methods are
overridden in a class made for the instance, as torch's parametrizations do it: names of weights stay, copies stay
independent, and nothing refers to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from trainables.context import StageError
from trainables.networks import SegmentationNetwork
from trainables.settings import BackendSettings

# torch.compile's, as far as this torch has them: dropout draws as without a compiler, and no kernel is chosen by a
# stopwatch where that changes digits. CUDA graphs ("triton.cudagraphs": True) are left out until their gain has been
# measured.
OPTIONS: dict[str, Any] = {"fallback_random": True, "deterministic": True}


class Call(NamedTuple):
    """A method by which a part of a network is used. `last`: its result goes into a loss or a tally. `large`: most of
    the network is in it, so that it is worth compiling."""

    owner: nn.Module
    method: str
    last: bool
    large: bool


def apply_backend(module: nn.Module, backend: BackendSettings, device: torch.device) -> None:
    """Make `module` compute as the backend says; with the default one it stays what it is.

    Args:
        module: a segmentation network; or what has networks and heads by the names that pretexts give them (`network`,
            `encoder`, and in `pretext` and `target` the rest).
        device: where it is placed.

    Raises:
        StageError: the device has no bfloat16; and at the first step, where torch.compile finds no compiler.
    """
    if backend.precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise StageError(
            f"backend.precision: {torch.cuda.get_device_name(device)} has no bfloat16; expected float32, or another GPU"
        )
    if backend.compiled:
        torch.compiler.reset()  # beyond some shapes in one process torch would no longer compile, and not say so
    for owner, method, last, large in _calls(module):
        function = getattr(type(owner), method)
        if backend.precision == "bfloat16":
            function = _in_bfloat16(function, device.type, last)
        if backend.compiled and large:
            function = _compiled_in_training(function)
        if function is not getattr(type(owner), method):
            owner.__class__ = type(type(owner).__name__, (type(owner),), {method: function})


def _calls(module: nn.Module) -> Iterator[Call]:
    if isinstance(module, SegmentationNetwork):
        if hasattr(module, "head"):
            yield Call(module, "forward", last=True, large=True)
        else:  # a pretext's, which has heads of its own
            yield Call(module.encoder, "forward", last=False, large=True)
            yield Call(module, "decode", last=False, large=True)
        return
    for name, part in module.named_children():
        if name == "encoder":
            yield Call(part, "forward", last=False, large=True)
        elif isinstance(part, (SegmentationNetwork, nn.ModuleDict)):
            yield from _calls(part)
        else:
            yield Call(part, "forward", last=True, large=False)


def _in_bfloat16(function: Callable[..., Any], device_type: str, last: bool) -> Callable[..., Any]:
    """A method under autocast; of the last ones the result is float32 again."""

    def call(self: nn.Module, *inputs: Any) -> Any:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            result = function(self, *inputs)
        return result.float() if last else result

    return call


def _compiled_in_training(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method compiled for training mode, where all batches have one shape; evaluation takes few and uneven ones."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second
    from torch._inductor import list_options

    options = {name: value for name, value in OPTIONS.items() if name in list_options()}
    compiled = torch.compile(function, dynamic=False, options=options)

    def call(self: nn.Module, *inputs: Any) -> Any:
        if not self.training:
            return function(self, *inputs)
        try:
            return compiled(self, *inputs)
        except TorchDynamoException as fault:
            reason = str(fault).strip().partition("\n")[0]
            raise StageError(
                f"backend.compiled: torch.compile failed on this machine ({reason}); expected a C++ compiler (g++) "
                "with Python's header files, on a GPU also triton, or compiled: false"
            ) from fault

    return call
