"""The finetune stage: a segmentation network from a scenario's start, trained on few images, evaluated on the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from trainables.context import Context, Result, StageError
from trainables.downstream.examples import Examples, Parts, Volumes, load_parts
from trainables.downstream.metrics import BatchTally, summarise, summarise_batches, tally, tally_batch
from trainables.downstream.scenarios import transfer, transferred_parts
from trainables.downstream.selection import Selection, wanted
from trainables.losses.dice import dice_loss
from trainables.losses.dice_bce import dice_bce_loss
from trainables.networks import SegmentationNetwork, build_network, place, require_input_size
from trainables.numeric import apply_backend
from trainables.randomness import batch_indices, generator, seed_everything
from trainables.settings import BackendSettings, FinetuneSettings, parse, parse_network
from trainables.settings.fitting import why_not_shown
from trainables.settings.networks import Held
from trainables.training import make_optimizer, train, use_backend

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"dice": dice_loss, "dice-bce": dice_bce_loss}


def finetune(spec: Mapping[str, Any], context: Context) -> Result:
    """Run a finetune stage.

    Args:
        spec: scenario, frozen, network, data (reader, options, fraction, n_train; held_out: the share of the training
            images that evaluates in place of the evaluation part, for a study's objective), finetune, backend, seed;
            `keep_weights: true` where a figure will show what the network predicts.
        context: the parent's weights under the role "pretrain", except for the scenario random-init.

    Returns:
        Metrics on all evaluation images (`evaluate`) of the last step's weights, or of those that did best on the
        validation part (`finetune.keep`); with `keep_weights` those weights, by the network's own names; and as facts
        the counts n_train, n_eval, transferred (tensors taken over), the step resumed_from, and with a validation part
        n_validation and best_step.

    Raises:
        StageError: data, weights, scenario or sizes do not fit; Diverged: the loss was not finite.
        DataError: the data set is missing, faulty or too small (`trainables.data`).
    """
    backend = parse(BackendSettings, spec.get("backend", {}))
    use_backend(backend)
    settings, seed = parse(FinetuneSettings, spec["finetune"]), int(spec["seed"])
    network, transferred = start(spec, context, seed)
    require_input_size(network, settings.input_size)
    parts = load_parts(spec["data"], settings, seed, context, validate=wanted(settings))
    require_fit(network, parts.training, spec)
    place(network, context.device, backend.precision)
    apply_backend(network, backend, context.device)
    optimizer = make_optimizer(settings, network)
    steps, report_every = lengths(settings, len(parts.training))
    selection = Selection(settings, network, optimizer) if parts.validation is not None else None
    resumed_from = train(
        network,
        optimizer,
        _loss(network, parts.training, settings, seed, context.device),
        _curve(network, parts, selection, settings, seed, context.device),
        steps=steps,
        report_every=report_every,
        seed=seed,
        context=context,
        extra_state=[] if selection is None else [selection],
        stop=None if selection is None else selection.over,
    )
    facts = {
        "n_train": len(parts.training),
        "n_eval": len(parts.evaluation),
        "transferred": len(transferred),
        "resumed_from": resumed_from,
    }
    if selection is not None and parts.validation is not None:
        selection.restore()
        facts |= {"n_validation": len(parts.validation), "best_step": selection.best_step}
    weights = weights_of(network) if spec.get("keep_weights") else {}
    return Result(evaluate(network, parts.evaluation, context.device), weights, facts)


def lengths(settings: FinetuneSettings, images: int) -> tuple[int, int]:
    """Optimiser steps, and steps between two points of the curve, where `images` train."""
    if settings.epochs is None:
        return settings.steps, settings.report_every
    batch = min(settings.batch, images)
    return math.ceil(Fraction(str(settings.epochs)) * images / batch), math.ceil(images / batch)


@torch.no_grad()
def evaluate(network: SegmentationNetwork, examples: Examples, device: torch.device) -> dict[str, float]:
    """The metrics of `metrics.summarise` over all images; leaves the network in evaluation mode.

    Of volumes both pairs of [P1 Table 3; genesis], too: dice_eval and iou_eval (`metrics.summarise_batches`), and
    dice_hard and iou_hard, other names of dice_pooled and iou.
    """
    network.eval()
    tallies, batches = [], []
    for rows in _batches(examples):
        logits, masks = network(examples.inputs(rows, device)), examples.masks[rows].to(device)
        tallies.append(tally(logits, masks))
        if isinstance(examples, Volumes):
            batches.append(tally_batch(logits, masks))
    return metrics_of(tallies, batches)


def metrics_of(tallies: Sequence[Tensor], batches: Sequence[BatchTally]) -> dict[str, float]:
    """Metrics of all images from the tallies of their batches; `batches`: those of volumes, else empty."""
    metrics = summarise(torch.cat(list(tallies)))
    if not batches:
        return metrics
    hard = {"dice_hard": metrics["dice_pooled"], "iou_hard": metrics["iou"]}
    return {**metrics, **hard, **summarise_batches(batches)}


@torch.no_grad()
def validation_loss(
    network: SegmentationNetwork, examples: Examples, loss: Callable[[Tensor, Tensor], Tensor], device: torch.device
) -> float:
    """The mean of the batches' losses, weighted by their sizes, in evaluation mode."""
    network.eval()
    total = torch.zeros((), device=device)
    for rows in _batches(examples):
        masks = examples.masks[rows].to(device)
        total += loss(network(examples.inputs(rows, device)), masks) * len(masks)
    return float(total) / len(examples)


def _batches(examples: Examples) -> list[slice]:
    batch = examples.evaluation_batch
    return [slice(first, first + batch) for first in range(0, len(examples), batch)]


def require_fit(network: SegmentationNetwork, examples: Examples, spec: Mapping[str, Any]) -> None:
    """Raise StageError unless the network takes what the dataset holds."""
    holds: Held = "volumes" if isinstance(examples, Volumes) else "pictures"
    if problem := why_not_shown(parse_network(spec["network"]), holds, spec["data"]["reader"]):
        raise StageError(problem)
    for side in examples.sides:
        require_input_size(network, side)


def weights_of(network: SegmentationNetwork) -> dict[str, Tensor]:
    """Copies of the network's tensors, by its own names."""
    return {n: t.clone(memory_format=torch.contiguous_format) for n, t in network.state_dict().items()}


def start(spec: Mapping[str, Any], context: Context, seed: int) -> tuple[SegmentationNetwork, list[str]]:
    """The network at step 0, and the names of the tensors it took over from the parent."""
    scenario = spec["scenario"]
    needs_parent = bool(transferred_parts(scenario))
    seed_everything(seed, "init")
    network = build_network(parse_network(spec["network"]), out_channels=1)
    transferred: list[str] = []
    if needs_parent:
        head = parse(FinetuneSettings, spec["finetune"]).head
        transferred = transfer(network, _parent(context, scenario), scenario, head)
    if spec.get("frozen", False):
        network.freeze_encoder()
    return network, transferred


def _parent(context: Context, scenario: str) -> dict[str, Tensor]:
    try:
        return context.weights("pretrain")
    except KeyError:
        raise StageError(
            f"scenario {scenario}: expected the weights of a pretrain stage, but none were given"
        ) from None


def curve_images(evaluation: Examples, settings: FinetuneSettings, seed: int) -> Examples:
    """At most `curve_images` evaluation images, the same for every scenario of this seed; they decide nothing."""
    order = torch.randperm(len(evaluation), generator=generator(seed, "curve"))
    return evaluation.subset(order[: settings.curve_images].sort().values)


def _curve(
    network: SegmentationNetwork,
    parts: Parts,
    selection: Selection | None,
    settings: FinetuneSettings,
    seed: int,
    device: torch.device,
) -> Callable[[int], dict[str, float]]:
    """Step number -> what the curve shows; the validation loss goes to `selection`, too."""
    shown = curve_images(parts.evaluation, settings, seed)

    def point(step: int) -> dict[str, float]:
        found = {"eval_dice": evaluate(network, shown, device)["dice"]}
        if selection is not None and parts.validation is not None:
            found["val_loss"] = validation_loss(network, parts.validation, LOSSES[settings.loss], device)
            selection.point(step, found["val_loss"])
        return found

    return point


def _loss(
    network: SegmentationNetwork, examples: Examples, settings: FinetuneSettings, seed: int, device: torch.device
) -> Callable[[int], dict[str, Tensor]]:
    """Step number -> the loss on that step's batch."""
    if settings.loss not in LOSSES:
        raise StageError(f"no loss {settings.loss!r}; there are {', '.join(LOSSES)}")
    loss, kept, count = LOSSES[settings.loss], examples.to(device), len(examples)
    batch = min(settings.batch, count)

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = batch_indices(count, batch, step, seed, "order")
        inputs, truth = kept.training_batch(rows, settings, generator(seed, "augment", step), device)
        return {"loss": loss(network(inputs), truth)}

    return loss_of
