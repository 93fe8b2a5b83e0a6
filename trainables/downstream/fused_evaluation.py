"""Metrics of several cells at once: each network sees its own images, and what it sees decides only its own numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainables.context import StageError
from trainables.downstream.examples import Examples, Volumes
from trainables.downstream.finetune import metrics_of
from trainables.downstream.metrics import BatchTally, tally, tally_batch
from trainables.networks.fused import FusedNetwork

Metrics = dict[str, float]


@torch.no_grad()
def evaluate_fused(
    network: FusedNetwork, examples: Sequence[Examples], device: torch.device
) -> list[Metrics | StageError]:
    """For each cell what `finetune.evaluate` gives, or the fault of its data; leaves the network in evaluation mode."""
    tallies: list[list[Tensor]] = [[] for _ in examples]
    batches: list[list[BatchTally]] = [[] for _ in examples]  # stay empty for pictures
    for logits, masks in _rounds(network, examples, device):
        found = torch.split(tally(torch.cat(logits), torch.cat(masks)), [len(own) for own in masks])
        for cell, own in enumerate(found):
            tallies[cell].append(own)
            if isinstance(examples[cell], Volumes) and len(own):
                batches[cell].append(tally_batch(logits[cell], masks[cell]))
    results: list[Metrics | StageError] = []
    for rows, volumes in zip(tallies, batches, strict=True):
        try:
            results.append(metrics_of(rows, volumes))
        except StageError as fault:
            results.append(fault)
    return results


@torch.no_grad()
def validation_losses(
    network: FusedNetwork,
    examples: Sequence[Examples],
    loss: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> list[float]:
    """For each cell what `finetune.validation_loss` gives."""
    totals = torch.zeros(len(examples), device=device)
    for logits, masks in _rounds(network, examples, device):
        for cell, own in enumerate(masks):
            if len(own):
                totals[cell] += loss(logits[cell], own) * len(own)
    return [total / len(own) for total, own in zip(totals.tolist(), examples, strict=True)]


def _rounds(
    network: FusedNetwork, examples: Sequence[Examples], device: torch.device
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Batch by batch the logits and masks of each cell; none of a cell whose images are through.

    Cells with fewer images than others are filled up with black ones, whose logits are dropped: without the statistics
    of a batch no image depends on another.
    """
    network.eval()
    batch = examples[0].evaluation_batch
    for first in range(0, max(map(len, examples)), batch):
        rows = slice(first, first + batch)
        inputs = [own.inputs(rows, device) for own in examples]
        logits = network(pad_sequence(inputs, batch_first=True))
        yield (
            [own[: len(images)] for own, images in zip(logits, inputs, strict=True)],
            [own.masks[rows].to(device) for own in examples],
        )
