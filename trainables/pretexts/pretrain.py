"""The pretrain stage: a pretext method trained on a dataset's images, or on what a prepare stage made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from trainables.context import Context, Result, StageError
from trainables.data.suited import LEAST_IMAGES, held_out
from trainables.networks import place
from trainables.numeric import apply_backend
from trainables.pretexts import Pretext, build_pretext
from trainables.pretexts.samples import TRAINING, VALIDATION, Samples, load_samples
from trainables.randomness import batch_indices, generator, seed_everything
from trainables.settings import (
    LENGTH_DIALS,
    BackendSettings,
    PretextSettings,
    PretrainSettings,
    as_before,
    parse,
    parse_network,
    parse_pretext,
)
from trainables.training import make_optimizer, train, use_backend

Measure = Callable[[int, Pretext, dict[str, float]], dict[str, float]]


def pretrain(spec: Mapping[str, Any], context: Context, measure: Measure | None = None) -> Result:
    """Run a pretrain stage.

    Args:
        spec: pretext (method and its settings), network, data (reader, options, prepared), pretrain, backend, seed;
            `init: true` where the encoder starts from a parent's weights (role "init") and not at random.
        context: the tensors of a prepare stage under the role "data" where the data are `prepared`: images and what the
            method needs (masks, labels, colored), optionally boxes and part (0 training, 1 validation: the hold-out
            then follows it); the state of a shorter run as `prefix_state`, if there is one.
        measure: what a trial adds to a point of the curve: (step, pretext, metrics) -> metrics.

    Returns:
        The last step's weights (`Pretext.weights`). Metrics: val_loss, its parts and the method's other metrics as
        val_<name>; val_loss_start, and the method's own metric likewise, before the first step; all on held-out images
        in evaluation mode, with the same draws at every step. Facts: n_pretrain, n_validation (counts of images), steps
        (where epochs were given, what they came to), the step resumed_from.

    Raises:
        StageError: sizes, counts, targets or the prefix do not fit; Diverged: the loss was not finite.
        DataError: the data set is missing or faulty (`trainables.data`).
    """
    backend = parse(BackendSettings, spec.get("backend", {}))
    use_backend(backend)
    settings, seed = parse(PretrainSettings, spec["pretrain"]), int(spec["seed"])
    method = parse_pretext(spec["pretext"])
    _check(settings)
    side, with_object = _side(method, settings), getattr(method, "patches", "all") == "with-object"
    samples = load_samples(spec["data"], method.needs, side, 2 * LEAST_IMAGES, context, with_object)
    pretext = _build(spec, method, settings, samples.classes, seed)
    if spec.get("init"):
        pretext.start_from(_init(context))
    training, validation = _parts(samples, method, settings, seed)
    steps = _steps(settings, len(training))
    samples = samples.near(context.device)
    place(pretext, context.device, backend.precision)
    apply_backend(pretext, backend, context.device)
    optimizer = make_optimizer(settings, pretext)
    identity = _identity(spec)

    def evaluate(step: int) -> dict[str, float]:
        found = _validate(pretext, samples, validation, settings, seed, context.device)
        return found if measure is None else measure(step, pretext, found)

    resumed_from = train(
        pretext,
        optimizer,
        _loss(pretext, samples, training, settings, seed, context.device),
        evaluate,
        steps=steps,
        report_every=settings.report_every,
        seed=seed,
        context=context,
        after_step=lambda step: pretext.after_step(),
        identity=identity,
    )
    return Result(
        metrics=_metrics(context.history, method.metric[0]),
        weights=pretext.weights(),
        facts={
            "n_pretrain": len(training),
            "n_validation": len(validation),
            "steps": steps,
            "resumed_from": resumed_from,
        },
    )


def _check(settings: PretrainSettings) -> None:
    """What needs no data to be found wrong."""
    if settings.batch < LEAST_IMAGES:
        raise StageError(f"pretrain.batch must be at least {LEAST_IMAGES}, but is {settings.batch}")
    if settings.decode_scale < 1:
        raise StageError(f"pretrain.decode_scale must be at least 1, but is {settings.decode_scale}")
    if settings.validation_images < LEAST_IMAGES:
        raise StageError(
            f"pretrain.validation_images must be at least {LEAST_IMAGES}, but is {settings.validation_images}"
        )


def _side(method: PretextSettings, settings: PretrainSettings) -> int:
    """Side of the images in memory. Methods that need more than images cut nothing smaller than half of them."""
    return settings.input_size if method.needs else round(settings.input_size * settings.decode_scale)


def _build(
    spec: Mapping[str, Any], method: PretextSettings, settings: PretrainSettings, classes: int, seed: int
) -> Pretext:
    seed_everything(seed, "init")
    pretext = build_pretext(method, parse_network(spec["network"]), classes)
    size, multiple = settings.input_size, pretext.minimum_multiple
    if size < pretext.smallest_size or size % multiple:
        raise StageError(
            f"pretrain.input_size must be a multiple of {multiple} and at least {pretext.smallest_size} "
            f"for {method.method}, but is {size}"
        )
    return pretext


def _init(context: Context) -> dict[str, Tensor]:
    try:
        return context.weights("init")
    except KeyError:
        raise StageError("pretraining is to start from given weights, but none were given") from None


def _steps(settings: PretrainSettings, images: int) -> int:
    """The number of optimiser steps; a broken one at the end of the last epoch counts whole."""
    if settings.epochs is None:
        return settings.steps
    return math.ceil(Fraction(str(settings.epochs)) * images / settings.batch)


def _identity(spec: Mapping[str, Any]) -> str:
    """All of the spec but the dials that say how long to train."""
    dials = {name: value for name, value in spec["pretrain"].items() if name not in LENGTH_DIALS}
    return json.dumps({**as_before(spec), "pretrain": dials}, sort_keys=True)


def _metrics(history: list[dict[str, float]], own: str) -> dict[str, float]:
    first, last = history[0], history[-1]
    values = {name: value for name, value in last.items() if name.startswith("val_")}
    return {**values, **{f"{name}_start": first[name] for name in ("val_loss", own)}}


def _parts(samples: Samples, method: PretextSettings, settings: PretrainSettings, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for training and for validation: as the data say, else by the method's share, else a tenth."""
    if samples.part is not None:
        training, validation = ((samples.part == part).nonzero()[:, 0] for part in (TRAINING, VALIDATION))
        if min(len(training), len(validation)) < LEAST_IMAGES:
            raise StageError(
                f"{samples.source}: expected at least {LEAST_IMAGES} images for training and for validation, but got "
                f"{len(training)} and {len(validation)}"
            )
        return training, validation
    share = getattr(method, "validation_share", None)
    if share is not None:
        return _hold_out(len(samples), round(share * len(samples)), seed)
    return _hold_out(len(samples), min(settings.validation_images, len(samples) // 10), seed)


def _hold_out(count: int, wanted: int, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for training and for validation, each at least what a contrast needs."""
    first = held_out(count, wanted)
    order = torch.randperm(count, generator=generator(seed, "validation"))
    return order[first:].sort().values, order[:first].sort().values


def _loss(
    pretext: Pretext, samples: Samples, training: Tensor, settings: PretrainSettings, seed: int, device: torch.device
) -> Callable[[int], dict[str, Tensor]]:
    """Step number -> the losses of that step's batch."""

    def loss_of(step: int) -> dict[str, Tensor]:
        rows = training[batch_indices(len(training), settings.batch, step, seed, "order")]
        return pretext.loss(samples.batch(rows, settings.input_size, device), generator(seed, "augment", step))

    return loss_of


def _validate(
    pretext: Pretext, samples: Samples, validation: Tensor, settings: PretrainSettings, seed: int, device: torch.device
) -> dict[str, float]:
    """Mean losses over the held-out images and their fixed draws, and the method's metrics, `val_` before the names."""
    sums: dict[str, Tensor] = {}
    tallied: list[Tensor] = []
    draws = settings.validation_draws if pretext.random_validation else 1
    for draw in range(draws):
        for number, rows in enumerate(_batches(validation, settings.batch)):
            batch = samples.batch(rows, settings.input_size, device)
            losses, tally = pretext.validate(batch, generator(seed, "validation", draw, number))
            tallied += [] if tally is None else [tally]
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + value * len(rows)
    count = draws * len(validation)
    means = {f"val_{name}": float(value) / count for name, value in sums.items()}
    more = pretext.summarise(torch.cat(tallied)) if tallied else {}
    return means | {f"val_{name}": value for name, value in more.items()}


def _batches(rows: Tensor, batch: int) -> list[Tensor]:
    """Pieces of `batch` rows; a last one that is too small for a contrast joins the one before."""
    pieces = list(torch.split(rows, batch))
    if len(pieces) > 1 and len(pieces[-1]) < LEAST_IMAGES:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces
