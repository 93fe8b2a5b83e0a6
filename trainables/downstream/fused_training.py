"""The training loop of several cells as one: `training.train` for each of them, step by step together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainables.context import Diverged, StageError
from trainables.devices import move
from trainables.downstream.augment import augment, draw_crops
from trainables.downstream.examples import Examples, Pictures
from trainables.downstream.finetune import LOSSES
from trainables.downstream.fused_cell import Cell
from trainables.downstream.fused_evaluation import evaluate_fused, validation_losses
from trainables.downstream.warp import draw_warps, warp
from trainables.networks.fused import FusedNetwork
from trainables.numeric import apply_backend
from trainables.optimizers.fused import FusedOptimizer
from trainables.randomness import batch_indices, derive, generator
from trainables.settings import BackendSettings, parse

Draws = TypeVar("Draws")


def train_fused(cells: Sequence[Cell]) -> None:
    """Train cells of equal settings, batch, image sides and step until each has an outcome."""
    batch, step = _Batch(cells), cells[0].step
    if step == 0:
        batch.points(0, batch.cells)
    while True:
        batch.finish([cell for cell in batch.cells if cell.outcome is None and cell.over(step)])
        if (left := batch.remaining()) is None:
            return
        batch = left
        batch.advance(step)
        step += 1
        reporting = [cell for cell in batch.cells if step % cell.report_every == 0 or step == cell.steps]
        saving = any(step < cell.steps and cell.context.checkpoint_due() for cell in batch.cells)
        if reporting or saving:
            batch.fail_diverged()
        batch.points(step, [cell for cell in reporting if cell.outcome is None])
        if saving:
            batch.save(step)
        for cell in batch.cells:
            if cell.outcome is None:
                cell.context.progress(step, cell.steps)


class _Batch:
    """The cells that are still training, as one network with one optimiser."""

    def __init__(self, cells: Sequence[Cell], bad: Tensor | None = None) -> None:
        self.cells = list(cells)
        self._device, settings = cells[0].context.device, cells[0].settings
        networks = [cell.network for cell in cells]
        self._network = _fuse(cells, self._device)
        self._network.share(networks)
        self._network.train()
        states = [cell.optimizer_state for cell in cells]
        self._optimizer = FusedOptimizer(settings, self._network, [cell.optimizer for cell in cells], states)
        self._loss, self._feed = LOSSES[settings.loss], _Feed(cells, self._device)
        self._losses = torch.zeros(len(cells), device=self._device)
        # Step of the first loss that was not finite, else -1.
        self._bad = torch.full((len(cells),), -1, device=self._device) if bad is None else bad

    def advance(self, step: int) -> None:
        """One optimiser step of every cell."""
        self._network.seed_dropout([derive(cell.seed, "step", step) for cell in self.cells])
        inputs, masks = self._feed.batch(step)
        losses = torch.vmap(self._loss)(self._network(inputs), masks)
        self._optimizer.zero_grad()
        torch.autograd.backward(losses.sum())  # no cell's loss depends on another's parameters
        self._optimizer.step()
        self._losses = losses.detach()
        self._bad = torch.where((self._bad < 0) & ~torch.isfinite(self._losses), step, self._bad)

    def fail_diverged(self) -> None:
        """End the cells that had a loss that was not finite."""
        for cell, first in zip(self.cells, self._bad.tolist(), strict=True):
            if first >= 0:
                cell.outcome = Diverged(first)

    def points(self, step: int, cells: Sequence[Cell]) -> None:
        """Add a point to the curves of `cells`."""
        if not cells:
            return
        losses = dict(zip(map(id, self.cells), self._losses.tolist(), strict=True))
        network = self._network_of(cells)
        found = evaluate_fused(network, [cell.shown for cell in cells], self._device)
        validation = [part for cell in cells if (part := cell.parts.validation) is not None]  # of all cells or of none
        validated = validation_losses(network, validation, self._loss, self._device) if validation else []
        for number, (cell, metrics) in enumerate(zip(cells, found, strict=True)):
            if isinstance(metrics, StageError):
                cell.outcome = metrics
                continue
            trained = {"train_loss": losses[id(cell)]} if step else {}
            val_loss = {"val_loss": validated[number]} if validated else {}
            cell.point(step, {**trained, "eval_dice": metrics["dice"], **val_loss})
        self._network.train()

    def save(self, step: int) -> None:
        """A checkpoint of every cell that goes on: at one step, so that they can be resumed together."""
        for cell, state in zip(self.cells, self._optimizer.state_dicts(), strict=True):
            if cell.outcome is None and step < cell.steps:
                cell.save(step, state)

    def finish(self, cells: Sequence[Cell]) -> None:
        """Evaluate cells whose training is over."""
        ended = []
        for cell in cells:
            finite = torch.stack([torch.isfinite(p).all() for p in cell.network.parameters()]).all()
            if bool(finite):
                ended.append(cell)
            else:
                cell.outcome = Diverged(cell.steps)  # the last update did it
        if not ended:
            return
        for cell in ended:
            if cell.selection is not None:
                cell.selection.restore()
        found = evaluate_fused(self._network_of(ended), [cell.parts.evaluation for cell in ended], self._device)
        for cell, metrics in zip(ended, found, strict=True):
            if isinstance(metrics, StageError):
                cell.outcome = metrics
            else:
                cell.succeed(metrics)

    def remaining(self) -> _Batch | None:
        """The batch of the cells that have not ended; None where all have."""
        left = [number for number, cell in enumerate(self.cells) if cell.outcome is None]
        if not left or len(left) == len(self.cells):
            return self if left else None
        for cell, state in zip(self.cells, self._optimizer.state_dicts(), strict=True):
            cell.optimizer_state = state
            if cell.outcome is not None:
                cell.release()
        return _Batch([self.cells[number] for number in left], self._bad[left])

    def _network_of(self, cells: Sequence[Cell]) -> FusedNetwork:
        if len(cells) == len(self.cells):
            return self._network
        return _fuse(cells, self._device)


def _fuse(cells: Sequence[Cell], device: torch.device) -> FusedNetwork:
    """The networks of `cells` as one that computes as their backend says."""
    backend = parse(BackendSettings, cells[0].spec.get("backend", {}))
    network = FusedNetwork([cell.network for cell in cells], device, backend.precision)
    apply_backend(network, backend, device)
    return network


class _Feed:
    """The training batches of the cells, each in its own order and with its own draws, as stacks [K, N, ...]."""

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self._cells, self._device = cells, device
        self._examples = [cell.parts.training for cell in cells]
        self._pictures = _one_after_another(self._examples, device)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, masks) of step `step`, as `Examples.training_batch` gives them to each cell."""
        generators = [generator(cell.seed, "augment", step) for cell in self._cells]
        rows = [
            batch_indices(len(own), cell.batch, step, cell.seed, "order")
            for cell, own in zip(self._cells, self._examples, strict=True)
        ]
        if self._pictures is not None:
            inputs, masks = self._augmented(self._pictures, rows, generators)
            return torch.unflatten(inputs, 0, (len(rows), -1)), torch.unflatten(masks, 0, (len(rows), -1))
        settings = self._cells[0].settings
        drawn = [
            own.training_batch(its_rows, settings, its_generator, self._device)
            for own, its_rows, its_generator in zip(self._examples, rows, generators, strict=True)
        ]
        return torch.stack([inputs for inputs, _ in drawn]), torch.stack([masks for _, masks in drawn])

    def _augmented(
        self, pictures: Pictures, rows: Sequence[Tensor], generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """The pictures of all cells in one go: on a GPU, few kernels."""
        s, count = self._cells[0].settings, len(rows[0])
        crops = [draw_crops(count, s.flip, s.crop_area, g) for g in generators]
        warps = [draw_warps(count, s.vertical_flip, s.rotation, s.blur, g) for g in generators]
        firsts = accumulate((len(own) for own in self._examples[:-1]), initial=0)
        chosen = torch.cat([first + own for first, own in zip(firsts, rows, strict=True)])
        there = move(chosen, self._device)
        inputs, masks = augment(pictures.images[there], pictures.masks[there], pictures.boxes[chosen], _cat(crops))
        return warp(inputs, masks, _cat(warps))


def _one_after_another(examples: Sequence[Examples], device: torch.device) -> Pictures | None:
    """The pictures of all cells; None where there are volumes, which are not augmented."""
    pictures = [own for own in examples if isinstance(own, Pictures)]
    if len(pictures) < len(examples):
        return None
    images, masks, boxes = (
        torch.cat([getattr(own, name) for own in pictures]) for name in ("images", "masks", "boxes")
    )
    return Pictures(images.to(device), masks.to(device), boxes)


def _cat(draws: Sequence[Draws]) -> Draws:
    """One after another: dataclasses of tensors [N]."""
    columns: list[Any] = [torch.cat([getattr(own, f.name) for own in draws]) for f in fields(draws[0])]  # type: ignore[arg-type]
    return type(draws[0])(*columns)
