"""Class activation maps of probed encoders side by side [Zhou et al. 2016, arXiv:1512.04150; P2 Fig. 10, 11].

P2 shows the maps of "the last layer of the pretrained encoders" and does not say whose class weights they use (*open*:
those of the logistic regression of its Table IV, for the class that it predicts; or the mean |activation|).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.analyses.choose import drawn, members, metric_name, open_checked
from trainables.analyses.figures import PAGE
from trainables.analyses.gradcam import over
from trainables.analyses.grids import Panel, Row, draw_grid, picture
from trainables.analyses.models import encoder_of, parent_weights
from trainables.context import Context, Result, StageError
from trainables.data import Listing
from trainables.data.stack import load_stack
from trainables.settings import BackendSettings, parse
from trainables.settings.analyses import CAMSettings
from trainables.training import use_backend

SCALE = {
    "probe": "evidence for the predicted class (each map from its least to its largest value)",
    "mean": "mean size of the activations (each map from its least to its largest value)",
}
PROBE = "probe/"  # stands before a model's name where its probe is meant


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Draw the maps of several encoders on the same images, and measure how alike they are.

    Args:
        spec: analysis (`CAMSettings`), models (a list of name, network and, of an untrained one, `random: true`), data
            (reader, options), backend, seed (of the order of the images, and of random weights).
        context: for each model a parent with the encoder's weights, its role the model's name, and, unless
            `weights: mean`, its probe stage under the role `probe/<name>`.

    Returns:
        File cam.png: a row for each of the first `count` images, the image and one map for each model. Metrics: the
        mean over `images` images of the correlation of two models' maps, cam/<model>/<other>. Facts: images (names in
        the listing), models, classes predicted by each model.

    Raises:
        StageError: weights are missing or do not fit. DataError: the dataset is missing or faulty.
    """
    use_backend(parse(BackendSettings, spec.get("backend", {})))
    settings, seed = parse(CAMSettings, spec["analysis"]), int(spec["seed"])
    listing, found = open_checked(spec["data"], context)
    numbers = _numbers(listing, settings, seed)
    stack = load_stack(
        listing, numbers, settings.input_size, masks=False, fingerprint=found.fingerprint, cache_dir=context.cache_dir
    )
    maps, predicted = {}, {}
    for model in spec["models"]:
        name = str(model["name"])
        features = _features(encoder_of(model, context, seed), stack.images, context)
        head = None if settings.weights == "mean" else _head(context, name, features.shape[1])
        maps[name], predicted[name] = activation_maps(features, head)
    names = list(maps)
    metrics = {
        metric_name("cam", a, b): float(correlation(maps[a], maps[b]).mean())
        for place, a in enumerate(names)
        for b in names[place + 1 :]
    }
    told = {name: [_class(listing, c) for c in classes] for name, classes in predicted.items()}
    facts = {"images": [listing.images[number] for number in numbers], "models": names, "predicted": told}
    drawn_maps = {name: _scaled(found_maps, settings.input_size) for name, found_maps in maps.items()}
    figure = _draw(stack.images[: settings.count], drawn_maps, told, SCALE[settings.weights])
    return Result(metrics, facts=facts, files={"cam.png": figure})


def activation_maps(features: Tensor, head: tuple[Tensor, Tensor] | None) -> tuple[Tensor, list[int]]:
    """CAM_c = sum over k of W[c, k] F_k, of the class c that is predicted for each image.

    The mean of the map over its places is the logit of the class without its bias.

    Args:
        features: [N, K, h, w], the encoder's last map.
        head: weight [C, K] and bias [C] of the linear layer on the pooled features; None: the mean of |F_k| over k.

    Returns:
        The maps [N, h, w], and the predicted classes (empty without a head).
    """
    if head is None:
        return features.abs().mean(dim=1), []
    weight, bias = head
    classes = (features.mean(dim=(2, 3)) @ weight.T + bias).argmax(dim=1)
    return torch.einsum("nk,nkhw->nhw", weight[classes], features), classes.tolist()


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of two maps [N, h, w] of each image, [N]; 0 where one of them is constant."""
    if first.shape != second.shape:
        second = F.interpolate(second[:, None], first.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    a, b = (maps.flatten(1).double() for maps in (first, second))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    scale = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(scale > 0, (a * b).sum(dim=1) / scale.clamp(min=1e-30), 0.0)


def _numbers(listing: Listing, settings: CAMSettings, seed: int) -> list[int]:
    """The images looked at: the one that is named, or the first in drawn order."""
    if not settings.image:
        return drawn(listing, members(listing, settings.part), max(settings.images, settings.count), seed)
    if settings.image not in listing.images:
        raise StageError(
            f"cam: no image {settings.image!r} in {listing.folder}; expected one like {listing.images[0]!r}"
        )
    return [listing.images.index(settings.image)]


@torch.no_grad()
def _features(encoder: nn.Module, images: Tensor, context: Context) -> Tensor:
    parts = [encoder(part.to(context.device).float() / 255)[-1].cpu() for part in torch.split(images, 16)]
    return torch.cat(parts)


def _head(context: Context, name: str, channels: int) -> tuple[Tensor, Tensor]:
    tensors = parent_weights(context, PROBE + name)
    weight, bias = tensors.get("probe.weight"), tensors.get("probe.bias")
    if weight is None or bias is None or weight.shape[1] != channels:
        found = "none" if weight is None else str(list(weight.shape))
        raise StageError(
            f"{name}: expected the layer of a probe on {channels} features (probe.weight), but got {found}"
        )
    return weight, bias


def _class(listing: Listing, number: int) -> str:
    return listing.label_names[number] if number < len(listing.label_names) else str(number)


def _scaled(maps: Tensor, size: int) -> Tensor:
    """Maps brought to the images' size, each from 0 (its least value) to 1."""
    large = F.interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0].double()
    least, most = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    return (large - least) / (most - least).clamp(min=1e-30)


def _draw(images: Tensor, maps: Mapping[str, Tensor], predicted: Mapping[str, Sequence[str]], scale: str) -> bytes:
    rows = []
    for place, image in enumerate(images):
        pixels = picture(image)
        panels = [Panel(pixels, "image" if place == 0 else "")]
        for name, found in maps.items():
            note = f"predicted: {predicted[name][place]}" if predicted[name] else ""
            panels.append(Panel(over(pixels, np.asarray(found[place])), name if place == 0 else "", note))
        rows.append(Row(panels))
    return draw_grid(rows, PAGE, scale=scale)
