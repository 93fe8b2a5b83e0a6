"""One of several finetune stages that are trained as one: what it begins with, and what it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.context import Context, Result, StageError
from trainables.data import DataError
from trainables.downstream.examples import load_parts
from trainables.downstream.finetune import curve_images, lengths, require_fit, start, weights_of
from trainables.downstream.selection import Selection, wanted
from trainables.networks import require_input_size
from trainables.settings import FinetuneSettings, parse
from trainables.training import make_optimizer

Outcome = Result | StageError | DataError


class Cell:
    """A stage as `finetune` begins it, or goes on with it from its checkpoint.

    `network` and `optimizer` are its own; `optimizer_state` is where it starts from, at `step`. `outcome` is None until
    it has ended: its result, or what `finetune` would raise.
    """

    def __init__(self, spec: Mapping[str, Any], context: Context) -> None:
        self.spec, self.context = spec, context
        self.settings, self.seed = parse(FinetuneSettings, spec["finetune"]), int(spec["seed"])
        self.network, transferred = start(spec, context, self.seed)
        require_input_size(self.network, self.settings.input_size)
        validate = wanted(self.settings)
        self.parts = load_parts(spec["data"], self.settings, self.seed, context, validate=validate)
        training, evaluation = self.parts.training, self.parts.evaluation
        require_fit(self.network, training, spec)
        self.optimizer = make_optimizer(self.settings, self.network)
        self.optimizer_state = self.optimizer.state_dict()
        self.selection = Selection(self.settings, self.network, self.optimizer) if validate else None
        self.batch = min(self.settings.batch, len(training))
        self.steps, self.report_every = lengths(self.settings, len(training))
        self.shown = curve_images(evaluation, self.settings, self.seed)
        self.step = self._resume()
        self.facts = {
            "n_train": len(training),
            "n_eval": len(evaluation),
            "transferred": len(transferred),
            "resumed_from": self.step,
        }
        self.outcome: Outcome | None = None

    @property
    def modules(self) -> list[Any]:
        """What a checkpoint keeps, besides the optimiser."""
        return [self.network] if self.selection is None else [self.network, self.selection]

    def over(self, step: int) -> bool:
        """Whether training ends after `step` steps."""
        return step >= self.steps or (self.selection is not None and self.selection.over())

    def point(self, step: int, found: Mapping[str, float]) -> None:
        """Add a point to the curve; a validation loss decides what it has to."""
        if self.selection is not None:
            self.selection.point(step, found["val_loss"])
        self.context.report(step, found)

    def save(self, step: int, optimizer_state: dict[str, Any]) -> None:
        """Write a checkpoint like `training.train`'s. Tensors are copied: each is a window of one K times its size."""
        network = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        modules = [network, *(module.state_dict() for module in self.modules[1:])]
        self.context.save({"step": step, "modules": modules, "optimizer": optimizer_state})

    def succeed(self, metrics: dict[str, float]) -> None:
        """End with these metrics of the weights that the network has now."""
        facts: dict[str, Any] = dict(self.facts)
        if self.selection is not None and self.parts.validation is not None:
            facts |= {"n_validation": len(self.parts.validation), "best_step": self.selection.best_step}
        self.outcome = Result(metrics, weights_of(self.network) if self.spec.get("keep_weights") else {}, facts)

    def release(self) -> None:
        """Let go of the network's tensors, which hold those of all cells that it was trained with."""
        self.network.to("meta")

    def _resume(self) -> int:
        state = self.context.resume()
        if state is None:
            return 0
        for module, tensors in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(tensors)
        self.optimizer_state = state["optimizer"]
        self.optimizer.load_state_dict({**self.optimizer_state, "state": {}})  # its learning rate, that is
        return int(state["step"])
