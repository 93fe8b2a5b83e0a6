"""The finetune stage: a segmentation network from a scenario's start, trained on few images, evaluated on the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables.context import Context, Result, StageError
from trainables.data import hold_out, open_dataset, split, survey
from trainables.data.stack import ImageStack, load_stack
from trainables.downstream.augment import augment, draw_crops
from trainables.downstream.metrics import summarise, tally
from trainables.downstream.scenarios import transfer, transferred_parts
from trainables.losses.dice import dice_loss
from trainables.networks import SegmentationNetwork, build_network, place, require_input_size
from trainables.randomness import batch_indices, generator, seed_everything
from trainables.settings import BackendSettings, FinetuneSettings, parse, parse_network
from trainables.training import make_optimizer, train, use_backend

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"dice": dice_loss}
# Fixed, since the digits of a convolution may depend on it.
EVALUATION_BATCH = 32


def finetune(spec: Mapping[str, Any], context: Context) -> Result:
    """Run a finetune stage.

    Args:
        spec: scenario, frozen, network, data (reader, options, fraction, n_train; held_out: the share of the training
            images that evaluates in place of the evaluation part, for a study's objective), finetune, backend, seed.
        context: the parent's weights under the role "pretrain", except for the scenario random-init.

    Returns:
        Metrics of the last step on all evaluation images (`metrics.summarise`), no weights, and as facts the counts
        n_train, n_eval, transferred (tensors taken over) and the step resumed_from.

    Raises:
        StageError: data, weights, scenario or sizes do not fit; Diverged: the loss was not finite.
        DataError: the data set is missing, faulty or too small (`trainables.data`).
    """
    use_backend(parse(BackendSettings, spec.get("backend", {})))
    settings, seed = parse(FinetuneSettings, spec["finetune"]), int(spec["seed"])
    network, transferred = _start(spec, context, seed)
    require_input_size(network, settings.input_size)
    train_stack, evaluation_stack = _load(spec["data"], settings.input_size, seed, context)
    place(network, context.device)
    curve = _curve_subset(evaluation_stack, settings.curve_images, seed)
    resumed_from = train(
        network,
        make_optimizer(settings, network),
        _loss(network, train_stack, settings, seed, context.device),
        lambda step: {"eval_dice": evaluate(network, curve, context.device)["dice"]},
        steps=settings.steps,
        report_every=settings.report_every,
        seed=seed,
        context=context,
    )
    metrics = evaluate(network, evaluation_stack, context.device)
    facts = {
        "n_train": len(train_stack.images),
        "n_eval": len(evaluation_stack.images),
        "transferred": len(transferred),
        "resumed_from": resumed_from,
    }
    return Result(metrics, facts=facts)


@torch.no_grad()
def evaluate(network: SegmentationNetwork, stack: ImageStack, device: torch.device) -> dict[str, float]:
    """The metrics of `metrics.summarise` over all images of `stack`; leaves the network in evaluation mode."""
    network.eval()
    tallies, masks = [], _masks(stack)
    for first in range(0, len(masks), EVALUATION_BATCH):
        batch = slice(first, first + EVALUATION_BATCH)
        logits = network(stack.images[batch].to(device).float() / 255)
        tallies.append(tally(logits, masks[batch].to(device)))
    return summarise(torch.cat(tallies))


def _start(spec: Mapping[str, Any], context: Context, seed: int) -> tuple[SegmentationNetwork, list[str]]:
    """The network at step 0, and the names of the tensors it took over from the parent."""
    scenario = spec["scenario"]
    needs_parent = bool(transferred_parts(scenario))
    seed_everything(seed, "init")
    network = build_network(parse_network(spec["network"]), out_channels=1)
    transferred: list[str] = []
    if needs_parent:
        transferred = transfer(network, _parent(context, scenario), scenario)
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


def _load(data: Mapping[str, Any], size: int, seed: int, context: Context) -> tuple[ImageStack, ImageStack]:
    """The training and the evaluation images of this seed."""
    listing = open_dataset(data["reader"], context.data_root, data.get("options"))
    found = survey(listing, cache_dir=context.cache_dir)
    found.check()
    context.check_data(data["reader"], found.fingerprint)
    parts = split(listing, data.get("fraction"), data.get("n_train"), seed)
    if data.get("held_out") is not None:
        parts = hold_out(parts, data["held_out"])
    load = partial(
        load_stack, listing, size=size, masks=True, fingerprint=found.fingerprint, cache_dir=context.cache_dir
    )
    return load(parts.train), load(parts.evaluation)


def _curve_subset(stack: ImageStack, count: int, seed: int) -> ImageStack:
    """At most `count` evaluation images for the curve, the same for every scenario of this seed."""
    chosen = torch.randperm(len(stack.images), generator=generator(seed, "curve"))[:count].sort().values
    return ImageStack(stack.images[chosen], _masks(stack)[chosen], stack.boxes[chosen])


def _loss(
    network: SegmentationNetwork, stack: ImageStack, settings: FinetuneSettings, seed: int, device: torch.device
) -> Callable[[int], dict[str, Tensor]]:
    """Step number -> the loss on that step's augmented batch."""
    if settings.loss not in LOSSES:
        raise StageError(f"no loss {settings.loss!r}; there are {', '.join(LOSSES)}")
    loss = LOSSES[settings.loss]
    # Few images: kept on the device. Boxes stay on the CPU, where the crops are drawn.
    images, masks, boxes = stack.images.to(device), _masks(stack).to(device), stack.boxes
    count = len(images)
    batch = min(settings.batch, count)

    def loss_of(step: int) -> dict[str, Tensor]:
        chosen = batch_indices(count, batch, step, seed, "order")
        crops = draw_crops(batch, settings.flip, settings.crop_area, generator(seed, "augment", step))
        there = chosen.to(device)
        pictures, truth = augment(images[there], masks[there], boxes[chosen], crops)
        return {"loss": loss(network(pictures), truth)}

    return loss_of


def _masks(stack: ImageStack) -> Tensor:
    if stack.masks is None:
        raise StageError("finetuning: expected a data set with masks, but this one has none")
    return stack.masks
