"""LARS, layer-wise adaptive rate scaling [You et al., arXiv:1708.03888; the form of conrec: utils/lars_optimizer.py].

For a kernel w with gradient g:

    g <- g + weight_decay * w
    trust = eta * ||w|| / ||g||, or 1 where either norm is 0
    v <- momentum * v + lr * trust * g
    w <- w - v

Biases and batch-norm weights take trust = 1 and no decay. The rate is inside the buffer, so a change of rate acts on
new gradients only. lightly's LARS (lightly.utils.lars) differs in three ways: it divides by ||g|| + wd ||w|| (+ 1e-8),
where ||g|| is taken before the decay is added; the rate multiplies the buffer; and a group with weight_decay = 0 is not
adapted at all, where here adaptation depends on the parameter's shape only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """LARS with classic momentum; parameters of at most one dimension are neither decayed nor adapted.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, at least 0 (conrec: 0.075 * sqrt(batch)).
        momentum: share of the last update that is kept.
        weight_decay: L2 penalty, added to the gradient before its norm is taken.
        eta: trust coefficient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        eta: float = 1e-3,
    ) -> None:
        for name, value in {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta}.items():
            if value < 0:
                raise ValueError(f"LARS: {name} must be at least 0, but is {value}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; parameters without a gradient are left alone. Returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for adapt in (True, False):
                pairs = [(p, p.grad) for p in group["params"] if p.grad is not None and (p.ndim > 1) == adapt]
                if pairs:
                    self._update([p for p, _ in pairs], [g for _, g in pairs], group, adapt)
        return loss

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any], adapt: bool) -> None:
        directions = _adapted(parameters, gradients, group["weight_decay"], group["eta"]) if adapt else gradients
        buffers = []
        for p in parameters:
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buffers.append(state["momentum_buffer"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, directions, alpha=group["lr"])
        torch._foreach_sub_(parameters, buffers)


def _adapted(parameters: list[Tensor], gradients: list[Tensor], weight_decay: float, eta: float) -> list[Tensor]:
    """trust * (g + weight_decay * w) of each parameter, without waiting for the device."""
    decayed = torch._foreach_add(gradients, parameters, alpha=weight_decay)
    weight_norms = torch.stack(torch._foreach_norm(parameters))
    gradient_norms = torch.stack(torch._foreach_norm(decayed))
    both = (weight_norms > 0) & (gradient_norms > 0)
    trust = torch.where(both, eta * weight_norms / gradient_norms, 1.0)
    torch._foreach_mul_(decayed, list(trust.unbind()))
    return list(decayed)
