"""The one training loop: resumable, with curves from step 0 and a stop at the first loss that is not finite."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables.context import Context, Diverged, StageError
from trainables.optimizers.lars import LARS
from trainables.randomness import seed_everything
from trainables.settings import BackendSettings

# Devices on which one kernel updates all weights of an optimiser of torch. On a CPU plain updates keep the digits.
FUSED_ON = ("cuda",)


class OptimizerDials(Protocol):
    """The dials that an optimiser needs; PretrainSettings and FinetuneSettings have them."""

    @property
    def optimizer(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


class Stateful(Protocol):
    """What a checkpoint keeps besides the model: another module, say."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


def make_optimizer(dials: OptimizerDials, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over the parameters of `model` that are to be trained."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    rate, momentum, decay = dials.learning_rate, dials.momentum, dials.weight_decay
    fused = True if dials.optimizer != "lars" and {p.device.type for p in parameters} <= {*FUSED_ON} else None
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=fused),
        "sgd": lambda: torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay, fused=fused),
        "lars": lambda: LARS(parameters, lr=rate, momentum=momentum, weight_decay=decay),
    }
    optimizer = makers[dials.optimizer]()
    if fused:
        optimizer.register_load_state_dict_post_hook(_stay_fused)
    return optimizer


def _stay_fused(optimizer: torch.optim.Optimizer) -> None:
    """What one kernel needs of a state that was loaded, whichever optimiser saved it (those of cells that are trained
    as one are made on the CPU): steps on the device, all else in the memory layout of the weights."""
    for group in optimizer.param_groups:
        group["fused"] = True
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            for name, value in state.items():
                if isinstance(value, Tensor):
                    state[name] = torch.empty_like(p).copy_(value) if value.ndim else value.to(p.device)


def use_backend(backend: BackendSettings) -> None:
    """Fix what the digits depend on: thread count and deterministic convolution algorithms."""
    torch.set_num_threads(backend.threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Mapping[str, Tensor]],
    evaluate: Callable[[int], Mapping[str, float]],
    *,
    steps: int,
    report_every: int,
    seed: int,
    context: Context,
    extra_state: Iterable[Stateful] = (),
    after_step: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    identity: str = "",
) -> int:
    """Train `model` for `steps` optimiser steps and report curves at step 0, every `report_every` and at the end.

    Args:
        loss_of: step number (from 0) -> losses; "loss" is minimised, the others are reported. Draws of random numbers
            are functions of the step, so nothing random needs saving.
        evaluate: step -> metrics of the curve, called with the model in evaluation mode.
        extra_state: modules besides `model` whose state a resume needs (an EMA target, say).
        after_step: called after each optimiser step (an EMA update, say).
        stop: asked before each step; True ends the training. What it decides by is part of `extra_state`.
        identity: what the run is, but for its number of steps. The stage's own checkpoint comes first; without one, the
            final state of a shorter run of the same identity (`Context.prefix_state`) is gone on from. Nothing here
            depends on `steps` (the learning rate is constant), so the digits are those of a run from step 0.

    Returns:
        The step that training was resumed from, 0 for a fresh start.

    Raises:
        Diverged: a loss was not finite; names the first such step.
        StageError: the state to go on from is of other settings, or of more steps.
    """
    modules: list[Stateful] = [model, *extra_state]
    state = context.resume() or _from_prefix(context, steps, report_every, identity)
    start = 0
    if state is not None:
        start = int(state["step"])
        for module, tensors in zip(modules, state["modules"], strict=True):
            module.load_state_dict(tensors)
        optimizer.load_state_dict(state["optimizer"])

    def point(step: int, losses: Mapping[str, Tensor]) -> None:
        model.eval()
        with torch.no_grad():
            metrics = dict(evaluate(step))
        model.train()
        context.report(step, {**{f"train_{k}": float(v.detach()) for k, v in losses.items()}, **metrics})

    if start == 0 or (start == steps and context.history[-1]["step"] != steps):
        point(start, {})  # of a state that was kept between two reports, there is no point yet
    model.train()
    bad = torch.full((), -1, dtype=torch.long, device=context.device)
    for step in range(start, steps):
        if stop is not None and stop():
            break
        seed_everything(seed, "step", step)
        losses = loss_of(step)
        loss = losses["loss"]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        if after_step is not None:
            after_step(step)
        bad = torch.where((bad < 0) & ~torch.isfinite(loss.detach()), step, bad)
        done = step + 1
        reporting = done % report_every == 0 or done == steps
        saving = done < steps and context.checkpoint_due()
        if (reporting or saving) and (first_bad := int(bad)) >= 0:
            raise Diverged(first_bad)
        if reporting:
            point(done, losses)
        if saving:
            context.save(_state(done, modules, optimizer))
        if done in context.keep_at:
            context.keep(done, _longer(done, modules, optimizer, context, identity))
        context.progress(done, steps)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise Diverged(steps)  # the last update did it, after the last loss was looked at
    return start


def _longer(
    step: int, modules: Iterable[Stateful], optimizer: torch.optim.Optimizer, context: Context, identity: str
) -> dict[str, Any]:
    """What a longer run goes on from."""
    return {**_state(step, modules, optimizer), "history": context.history, "identity": identity}


def _from_prefix(context: Context, steps: int, report_every: int, identity: str) -> dict[str, Any] | None:
    """The state of a shorter run, if there is one; its curve without the points that this run would not have."""
    state = context.prefix_state()
    if state is None:
        return None
    if state["identity"] != identity:
        raise StageError(
            "the run to go on from was trained otherwise; expected equal settings but for the number of steps, but got "
            f"{state['identity']} for {identity}"
        )
    if state["step"] > steps:
        raise StageError(
            f"the run to go on from has {state['step']} steps; expected at most {steps}, the steps of this one"
        )
    context.history = [p for p in state["history"] if p["step"] % report_every == 0 or p["step"] == steps]
    return {**state, "optimizer": copy.deepcopy(state["optimizer"])}  # an optimiser works in the tensors it is given


def _state(step: int, modules: Iterable[Stateful], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"step": step, "modules": [m.state_dict() for m in modules], "optimizer": optimizer.state_dict()}
