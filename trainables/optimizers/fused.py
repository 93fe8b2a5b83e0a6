"""One optimiser for the joined parameters of K cells, each of which has its own learning rate and its own state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.networks.fused import join
from trainables.training import OptimizerDials, make_optimizer


class FusedOptimizer:
    """Steps all cells at once.

    Args:
        dials: which optimiser, equal for all cells.
        fused: the module with the joined parameters.
        cells: the cells' own optimisers, for their learning rates; they are never stepped.
        states: `state_dict()` of each cell's optimiser, to go on from; all after equally many steps.
    """

    def __init__(
        self,
        dials: OptimizerDials,
        fused: nn.Module,
        cells: Sequence[torch.optim.Optimizer],
        states: Sequence[Mapping[str, Any]],
    ) -> None:
        self._optimizer = make_optimizer(dials, fused)
        self._cells = list(cells)
        joined = {key: _join([s["state"][key] for s in states]) for key in states[0]["state"]}
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": joined})

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self) -> None:
        """One update at each cell's learning rate."""
        rates = [optimizer.param_groups[0]["lr"] for optimizer in self._cells]
        most, before = max(rates), list[Tensor]()
        parameters = self._optimizer.param_groups[0]["params"]
        if min(rates) < most:
            before = [p.detach().clone() for p in parameters]
        self._optimizer.param_groups[0]["lr"] = most
        self._optimizer.step()
        for p, old in zip(parameters, before, strict=False):  # nothing to do where rates are equal
            shares = torch.tensor([rate / most for rate in rates], dtype=p.dtype, device=p.device)
            shares = shares.repeat_interleave(len(p) // len(rates)).view(-1, *[1] * (p.ndim - 1))
            p.copy_(old.lerp(p, shares))

    def state_dicts(self) -> list[dict[str, Any]]:
        """For each cell what `state_dict()` of its own optimiser would be."""
        state = self._optimizer.state_dict()["state"]
        return [
            {
                "state": {key: _part(values, cell, len(self._cells)) for key, values in state.items()},
                "param_groups": optimizer.state_dict()["param_groups"],
            }
            for cell, optimizer in enumerate(self._cells)
        ]


def _join(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One parameter's state: tensors of its shape are joined, counts of steps are equal."""
    first = states[0]
    return {name: join([s[name] for s in states]) if _joined(first[name]) else first[name] for name in first}


def _part(values: Mapping[str, Any], cell: int, cells: int) -> dict[str, Any]:
    parts = {name: v.chunk(cells)[cell] if _joined(v) else v for name, v in values.items()}
    return {name: v.clone() if isinstance(v, Tensor) else v for name, v in parts.items()}


def _joined(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
