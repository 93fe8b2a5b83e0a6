"""The pretrain stage: a pretext method trained on a dataset's images, without their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainables.context import Context, Result, StageError
from trainables.data import open_dataset, survey
from trainables.data.stack import ImageStack, load_stack
from trainables.networks import place
from trainables.pretexts import ImageBatch, Pretext, build_pretext
from trainables.pretexts.devices import move
from trainables.randomness import batch_indices, generator, seed_everything
from trainables.settings import BackendSettings, NetworkSettings, PretrainSettings, parse, parse_pretext
from trainables.training import make_optimizer, train, use_backend

LEAST_IMAGES = 2  # for training and for validation: an image alone has nothing to be contrasted with


def pretrain(spec: Mapping[str, Any], context: Context) -> Result:
    """Run a pretrain stage.

    Args:
        spec: pretext (method and its settings), network, data (reader, options), pretrain, backend, seed.

    Returns:
        The last step's weights (`Pretext.weights`). Metrics: val_loss, its parts as val_<part>, and val_loss_start, the
        loss before the first step; all on held-out images in evaluation mode, with the same draws at every step. Facts:
        n_pretrain, n_validation (counts of images) and the step resumed_from.

    Raises:
        StageError: sizes or counts do not fit; Diverged: the loss was not finite.
        DataError: the data set is missing or faulty (`trainables.data`).
    """
    use_backend(parse(BackendSettings, spec.get("backend", {})))
    settings, seed = parse(PretrainSettings, spec["pretrain"]), int(spec["seed"])
    pretext = _build(spec, settings, seed)
    stack = _load(spec["data"], settings, context)
    training, validation = _hold_out(len(stack.images), settings.validation_images, seed)
    place(pretext, context.device)
    points: dict[int, dict[str, float]] = {}

    def evaluate(step: int) -> dict[str, float]:
        points[step] = _validate(pretext, stack, validation, settings, seed, context.device)
        return points[step]

    resumed_from = train(
        pretext,
        make_optimizer(settings, pretext),
        _loss(pretext, stack, training, settings, seed, context.device),
        evaluate,
        steps=settings.steps,
        report_every=settings.report_every,
        seed=seed,
        context=context,
    )
    start = points[0]["val_loss"] if 0 in points else context.history[0]["val_loss"]
    return Result(
        metrics={**points[settings.steps], "val_loss_start": start},
        weights=pretext.weights(),
        facts={"n_pretrain": len(training), "n_validation": len(validation), "resumed_from": resumed_from},
    )


def _build(spec: Mapping[str, Any], settings: PretrainSettings, seed: int) -> Pretext:
    seed_everything(seed, "init")
    pretext = build_pretext(parse_pretext(spec["pretext"]), parse(NetworkSettings, spec["network"]))
    size, multiple = settings.input_size, pretext.minimum_multiple
    if size < pretext.smallest_size or size % multiple:
        raise StageError(
            f"pretrain.input_size must be a multiple of {multiple} and at least {pretext.smallest_size} "
            f"for {spec['pretext']['method']}, but is {size}"
        )
    if settings.batch < LEAST_IMAGES:
        raise StageError(f"pretrain.batch must be at least {LEAST_IMAGES}, but is {settings.batch}")
    if settings.decode_scale < 1:
        raise StageError(f"pretrain.decode_scale must be at least 1, but is {settings.decode_scale}")
    return pretext


def _load(data: Mapping[str, Any], settings: PretrainSettings, context: Context) -> ImageStack:
    """All images that pretraining sees. One stack for training and validation, so that workers share its memory."""
    listing = open_dataset(data["reader"], context.data_root, data.get("options"))
    if len(listing.pretrain) < 2 * LEAST_IMAGES:
        raise StageError(
            f"{data['reader']}: pretraining needs at least {2 * LEAST_IMAGES} images, {LEAST_IMAGES} of them for "
            f"validation, but {listing.folder} has {len(listing.pretrain)}"
        )
    found = survey(listing, cache_dir=context.cache_dir)
    found.check()
    context.check_data(data["reader"], found.fingerprint)
    return load_stack(
        listing,
        listing.pretrain,
        round(settings.input_size * settings.decode_scale),
        masks=False,
        fingerprint=found.fingerprint,
        cache_dir=context.cache_dir,
    )


def _hold_out(count: int, wanted: int, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for training and for validation: at most a tenth is held out, and at least what a contrast needs."""
    if wanted < LEAST_IMAGES:
        raise StageError(f"pretrain.validation_images must be at least {LEAST_IMAGES}, but is {wanted}")
    held_out = max(LEAST_IMAGES, min(wanted, count // 10))
    order = torch.randperm(count, generator=generator(seed, "validation"))
    return order[held_out:].sort().values, order[:held_out].sort().values


def _batch(stack: ImageStack, rows: Tensor, size: int, device: torch.device) -> ImageBatch:
    return ImageBatch(move(stack.images[rows], device), stack.boxes[rows], size)


def _loss(
    pretext: Pretext, stack: ImageStack, training: Tensor, settings: PretrainSettings, seed: int, device: torch.device
) -> Callable[[int], dict[str, Tensor]]:
    """Step number -> the losses of that step's batch."""

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = training[batch_indices(len(training), settings.batch, step, seed, "order")]
        batch = _batch(stack, rows, settings.input_size, device)
        return pretext.loss(batch, generator(seed, "augment", step))

    return loss_of


def _validate(
    pretext: Pretext, stack: ImageStack, validation: Tensor, settings: PretrainSettings, seed: int, device: torch.device
) -> dict[str, float]:
    """Mean losses over the held-out images and their fixed draws, `val_` before their names."""
    sums: dict[str, Tensor] = {}
    for draw in range(settings.validation_draws):
        for number, rows in enumerate(_batches(validation, settings.batch)):
            batch = _batch(stack, rows, settings.input_size, device)
            for name, value in pretext.loss(batch, generator(seed, "validation", draw, number)).items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + value * len(rows)
    count = settings.validation_draws * len(validation)
    return {f"val_{name}": float(value) / count for name, value in sums.items()}


def _batches(rows: Tensor, batch: int) -> list[Tensor]:
    """Pieces of `batch` rows; a last one that is too small for a contrast joins the one before."""
    pieces = list(torch.split(rows, batch))
    if len(pieces) > 1 and len(pieces[-1]) < LEAST_IMAGES:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces
