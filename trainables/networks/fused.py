"""K networks of one architecture as one: their channels side by side, their convolutions grouped.

A map of the fused network is [N, K x C, H, W], cell after cell. Grouped convolutions, batch norm, ReLU, pooling and
upsampling treat channels apart, so that the cells stay K independent networks, with K times the work in each kernel.
Why not `torch.func.vmap`: it copies maps at each pooling, upsampling and joining (measured on a CPU: 1.3 times the time
a step), and it cannot enter the backward pass that the local attention has of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainables.networks._base import SegmentationNetwork, channels_come_last, place

# A network whose operations treat channels apart, or stand here, can be fused; a test tries each.
MULTIPLIED = ("groups", "heads")  # what a layer of the fused network has K times as many of
BY_CHANNEL = (torch.cat, torch.Tensor.mean, torch.mean)  # where they name dimension 1


class FusedNetwork(nn.Module):
    """K segmentation networks as one, on `device`, with copies of their tensors.

    Args:
        networks: of one architecture; frozen encoders in all or in none.
        precision: of the backend; it decides the layout in memory (`place`).

    `body` has the names of any of them, for tensors joined along their first dimension (counters: [K]).
    """

    def __init__(
        self, networks: Sequence[SegmentationNetwork], device: torch.device, precision: str = "float32"
    ) -> None:
        super().__init__()
        self.cells = len(networks)
        self.body = copy.deepcopy(networks[0])
        for module, *originals in zip(self.body.modules(), *(n.modules() for n in networks), strict=True):
            _join(module, originals)
        self._states: list[Tensor] = []
        drops = {name: m.p for name, m in self.body.named_modules() if isinstance(m, nn.Dropout) and m.p > 0}
        layout = torch.channels_last if channels_come_last(self.body, device, precision) else torch.contiguous_format
        for name, p in drops.items():
            self.body.set_submodule(name, _Dropout(p, self._states, layout))
        self._drops = bool(drops)
        place(self.body, device, precision)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [K, N, out_channels, H, W] of the cells' own images [K, N, 3, H, W]."""
        with _CellByCell(self.cells):
            logits: Tensor = self.body(images.transpose(0, 1).flatten(1, 2))
        return torch.unflatten(logits, 1, (self.cells, -1)).transpose(0, 1)

    def seed_dropout(self, seeds: Sequence[int]) -> None:
        """What `torch.manual_seed(seed)` is to a network alone; without dropout nothing is done."""
        if self._drops:
            device = next(self.body.parameters()).device
            self._states[:] = [_seeded(seed, device) for seed in seeds]

    @torch.no_grad()
    def share(self, networks: Sequence[SegmentationNetwork]) -> None:
        """Make the tensors of `networks` windows of the fused ones, so that they always are what was trained."""
        theirs = [_named_tensors(network) for network in networks]
        for name, joined in _named_tensors(self.body).items():
            for own, part in zip(theirs, joined.detach().chunk(self.cells), strict=True):
                own[name].data = part.view(own[name].shape)


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape along their first dimension; numbers as a vector. `chunk` takes them apart."""
    return torch.cat([tensor.detach().reshape(tensor.shape or (1,)) for tensor in tensors])


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _join(module: nn.Module, originals: Sequence[nn.Module]) -> None:
    """Give `module`, a copy of any of `originals`, the tensors of all."""
    for name, parameter in module.named_parameters(recurse=False):
        joined = join([original.get_parameter(name) for original in originals])
        setattr(module, name, nn.Parameter(joined, requires_grad=parameter.requires_grad))
    for name, _ in list(module.named_buffers(recurse=False)):
        setattr(module, name, join([original.get_buffer(name) for original in originals]))
    for name in MULTIPLIED:
        if hasattr(module, name):
            setattr(module, name, getattr(module, name) * len(originals))


class _CellByCell(TorchFunctionMode):
    """Within it, what is done over the channels is done over those of each cell."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if function in BY_CHANNEL:
            given, *rest = args
            dim = options.pop("dim", rest[0] if rest else None)
            if dim == 1:
                apart = self._apart(given) if isinstance(given, Tensor) else [self._apart(maps) for maps in given]
                return function(apart, 2, *rest[1:], **options).flatten(1, 2)
        return function(*args, **(kwargs or {}))

    def _apart(self, maps: Tensor) -> Tensor:
        return torch.unflatten(maps, 1, (self.cells, -1))


class _Dropout(nn.Module):
    """Dropout with the draws that each cell would make alone: `states` are those of torch's generator for each.

    Draws follow the layout in memory, which is the one that `place` gives.
    """

    def __init__(self, p: float, states: list[Tensor], layout: torch.memory_format) -> None:
        super().__init__()
        self.p, self.states, self.layout = p, states, layout

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return maps
        dropped = []
        for cell, part in enumerate(maps.chunk(len(self.states), dim=1)):
            _set_state(self.states[cell], maps.device)
            dropped.append(F.dropout(part.contiguous(memory_format=self.layout), self.p))
            self.states[cell] = _state(maps.device)
        return torch.stack(dropped, dim=1).flatten(1, 2)


def _seeded(seed: int, device: torch.device) -> Tensor:
    torch.manual_seed(seed)
    return _state(device)


def _state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
