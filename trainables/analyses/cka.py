"""How alike encoders see the same images: CKA on their outputs E [P1 §5.2, Fig. 7].

P1 says "all images from Pascal VOC" and E of 8 x 8 x 512, so 64 pixels a side and (*open*) the 2913 of segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.analyses.choose import drawn, members, metric_name, open_checked, table
from trainables.analyses.figures import canvas, png, style
from trainables.analyses.models import encoder_of
from trainables.analyses.similarity import cka_full, cka_minibatch
from trainables.context import Context, Result, StageError
from trainables.data.stack import load_stack
from trainables.randomness import generator
from trainables.settings import BackendSettings, parse
from trainables.settings.analyses import CKASettings
from trainables.training import use_backend


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Compare encoders pairwise.

    Args:
        spec: analysis (`CKASettings`), models (a list of name, network and, of an untrained one, `random: true`; in the
            order of the matrix), data (reader, options), backend, seed (of the order of the images, of random weights).
        context: for each trained model a parent with weights (pretrain, import or finetune), its role the model's name.

    Returns:
        Files cka.png and cka.csv (model, other, cka; every two, both ways). Metrics cka/<model>/<other>, each two once.
        Facts: images, features (numbers in E of an image, by model) and the models' names in order.

    Raises:
        StageError: weights are missing or do not fit, an encoder gives the same for all images, dials do not go
            together, or E is smaller than a window of `pool`.
        DataError: the dataset is missing or faulty.
    """
    use_backend(parse(BackendSettings, spec.get("backend", {})))
    settings, seed = parse(CKASettings, spec["analysis"]), int(spec["seed"])
    if misfit := settings.misfit():
        raise StageError(f"cka: {misfit}")
    names = [model["name"] for model in spec["models"]]
    encoders = [encoder_of(model, context, seed) for model in spec["models"]]
    images = _images(spec["data"], settings, seed, context)
    sizes = [encode(encoder, images[:1], context.device, settings.pool).numel() for encoder in encoders]
    matrix = _compare(encoders, images, settings, seed, context)
    if bool((bad := ~torch.isfinite(matrix.diagonal())).any()):
        name = names[int(bad.nonzero()[0])]
        raise StageError(f"cka: expected features that differ between images, but {name} gives the same for all")
    values = matrix.tolist()
    rows = [(a, b, values[i][j]) for i, a in enumerate(names) for j, b in enumerate(names)]
    pairs = {metric_name("cka", a, b): v for a, b, v in rows if names.index(a) < names.index(b)}
    return Result(
        pairs,
        facts={"images": len(images), "features": dict(zip(names, sizes, strict=True)), "models": names},
        files={
            "cka.png": draw_matrix(names, values, _label(settings)),
            "cka.csv": table(("model", "other", "cka"), rows),
        },
    )


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, device: torch.device, pool: int = 1) -> Tensor:
    """E, flattened, of images uint8 [N, 3, S, S]: float32 [N, d] on `device`.

    Args:
        pool: side of the windows over which E is averaged; a rest at its right and lower edge is left out.

    Raises:
        StageError: E is smaller than a window.
    """
    features: Tensor = encoder(images.to(device).float() / 255)[-1]
    if pool > 1:
        if min(features.shape[2:]) < pool:
            side = " x ".join(map(str, features.shape[2:]))
            raise StageError(f"cka: expected a pool of at most the side of E, which is {side} here, but got {pool}")
        features = F.avg_pool2d(features, pool)
    return features.flatten(1)


def _label(settings: CKASettings) -> str:
    if settings.kernel == "linear":
        return "linear CKA"
    return f"CKA, Gaussian kernel of {settings.bandwidth:g} median distances"


def _images(data: Mapping[str, Any], settings: CKASettings, seed: int, context: Context) -> Tensor:
    listing, found = open_checked(data, context)
    numbers = sorted(drawn(listing, members(listing, settings.part), settings.images, seed))
    stack = load_stack(
        listing,
        numbers,
        settings.input_size,
        masks=False,
        fingerprint=found.fingerprint,
        cache_dir=context.cache_dir,
    )
    if len(stack.images) < 4:
        raise StageError(f"cka: expected at least 4 images, but {listing.reader} has {len(stack.images)}")
    return stack.images


def _compare(
    encoders: Sequence[nn.Module], images: Tensor, settings: CKASettings, seed: int, context: Context
) -> Tensor:
    done = 0

    def features(encoder: nn.Module, rows: Tensor) -> Tensor:
        nonlocal done
        parts = [
            encode(encoder, images[part], context.device, settings.pool) for part in torch.split(rows, settings.batch)
        ]
        context.progress(done := done + 1, 0)
        return torch.cat(parts)

    if settings.estimator == "minibatch":
        return cka_minibatch(
            lambda rows: [features(encoder, rows) for encoder in encoders],
            len(images),
            minibatch=settings.minibatch,
            passes=settings.passes or None,
            unbiased=settings.unbiased,
            generator=generator(seed, "cka"),
        )
    everything = torch.arange(len(images))
    bandwidth = settings.bandwidth if settings.kernel == "rbf" else None
    encoded = (features(encoder, everything) for encoder in encoders)
    return cka_full(encoded, unbiased=settings.unbiased, bandwidth=bandwidth)


def draw_matrix(names: Sequence[str], values: Sequence[Sequence[float]], label: str) -> bytes:
    """The matrix with its values in the cells, 0 to 1. `label`: what they are, beside the colours."""
    side = 1.5 + 0.42 * len(names)
    with style():
        figure, axes = canvas(side + 0.5, side - 0.1)
        image = axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                dark = value > 0.6
                axes.text(
                    j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black"
                )
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.03)
        bar.set_label(label)
        bar.outline.set_visible(False)
        return png(figure)
