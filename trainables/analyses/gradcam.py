"""Where a classifier looks: GradCAM on the encoder's output [Selvaraju et al. 2017; P1 §5.1, Fig. 5c].

Weighed: pytorch-grad-cam (wants OpenCV, scikit-learn and more) and captum (small, well kept). Both find a layer by
hooks and need a wrapper around networks that return several maps, as ours do; since those hand out the very map, what
is left are the few lines of `grad_cam`. A test holds them against captum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.analyses.figures import PAGE, heat
from trainables.analyses.grids import Panel, Pixels, Row, draw_grid, picture
from trainables.analyses.models import load_classifier, parent_weights
from trainables.context import Context, Result, StageError
from trainables.pretexts.classification import Classification
from trainables.pretexts.samples import VALIDATION, Samples, load_samples
from trainables.randomness import generator
from trainables.settings import BackendSettings, parse
from trainables.settings.analyses import GradCAMSettings
from trainables.training import use_backend


def analyse(spec: Mapping[str, Any], context: Context) -> Result:
    """Draw the maps of a classifier on images that it was not trained on, and measure how much lies on the object.

    Args:
        spec: analysis (`GradCAMSettings`), network (of the model), data (reader, options, prepared), seed, backend, and
            optionally note: what stands in for the data, and `loss: binary` of a model so trained.
        context: a classification pretrain as the parent of role "model"; where the data are `prepared`, their prepare
            stage as "data". Of prepared data the validation part counts, of others all images with a label.

    Returns:
        File gradcam.png: columns are samples, class by class; rows are input, map and overlay. Of two classes all maps
        are those of the second (car); of more, each image's own. Metrics: accuracy; and where the data have masks, over
        the images with the object: inside (mean share of the map that lies on it), area (mean share of the picture that
        the object takes: `inside` of a map that sees nothing) and pointing (share of images whose maximum lies on it).
        Facts: images, with_object.

    Raises:
        StageError: weights, classes or data do not fit. DataError: the dataset is missing or faulty.
    """
    use_backend(parse(BackendSettings, spec.get("backend", {})))
    settings, seed = parse(GradCAMSettings, spec["analysis"]), int(spec["seed"])
    weights, binary = parent_weights(context, "model"), spec.get("loss") == "binary"
    model = load_classifier(spec["network"], weights, "the model", context.device, binary=binary)
    if model.classes != len(settings.labels):
        raise StageError(f"gradcam: expected names for {model.classes} classes, but labels are {list(settings.labels)}")
    samples = _samples(spec["data"], settings, context)
    rows = _rows(samples, settings, seed)
    maps, probabilities = _maps(model, samples, rows, settings, context.device)
    assert samples.labels is not None
    labels = samples.labels[rows]
    shown = [
        place
        for label in reversed(range(model.classes))
        for place in (labels == label).nonzero()[:, 0][: settings.count].tolist()
    ]
    predicted = probabilities.argmax(dim=1)
    metrics = {"accuracy": float((predicted == labels).double().mean())}
    facts: dict[str, Any] = {"images": len(rows)}
    if samples.masks is not None:
        found = overlap(maps, samples.masks[rows] == 1)
        metrics, facts = metrics | found[0], facts | {"with_object": found[1]}
    drawn = _draw(samples.images[rows], maps, probabilities, labels, shown, settings.labels, spec.get("note", ""))
    return Result(metrics, facts=facts, files={"gradcam.png": drawn})


def grad_cam(features: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """The maps of one logit for each image.

    Args:
        features: [N, K, h, w], what the head gets.
        head: features -> logits [N, C].
        targets: int64 [N], the column of the logit.

    Returns:
        ReLU(sum over k of w_k E_k) [N, h, w], where w_k is the mean over the places of d logit / d E_k; and the logits.
    """
    with torch.enable_grad():
        leaf = features.detach().requires_grad_()
        logits = head(leaf)
        chosen = logits.gather(1, targets[:, None].to(logits.device))
        (gradient,) = torch.autograd.grad(chosen.sum(), leaf)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1).relu().detach(), logits.detach()


def overlap(maps: Tensor, objects: Tensor) -> tuple[dict[str, float], int]:
    """How maps [N, H, W] and objects (bool [N, H, W]) agree, over the images that have the object: metrics, and their
    number. A map of nothing is nowhere inside."""
    there = objects.flatten(1).any(dim=1)
    count = int(there.sum())
    if not count:
        return {}, 0
    values, inside = maps[there].flatten(1).double(), objects[there].flatten(1)
    total = values.sum(dim=1)
    shares = torch.where(total > 0, (values * inside).sum(dim=1) / total.clamp(min=1e-30), 0.0)
    hits = inside.gather(1, values.argmax(dim=1, keepdim=True))[:, 0] & (total > 0)
    means = (shares.mean(), inside.double().mean(), hits.double().mean())
    return dict(zip(("inside", "area", "pointing"), map(float, means), strict=True)), count


def _samples(data: Mapping[str, Any], settings: GradCAMSettings, context: Context) -> Samples:
    needs = {"labels"}
    if data.get("prepared") and "masks" in parent_weights(context, "data"):
        needs.add("masks")
    return load_samples(data, frozenset(needs), settings.input_size, 1, context)


def _rows(samples: Samples, settings: GradCAMSettings, seed: int) -> Tensor:
    """Row numbers in drawn order: of the validation part, where there is one."""
    everything = torch.arange(len(samples))
    rows = everything if samples.part is None else everything[samples.part == VALIDATION]
    rows = rows[torch.randperm(len(rows), generator=generator(seed, "gradcam"))]
    return rows[: settings.images] if settings.images else rows


@torch.no_grad()
def _maps(
    model: Classification, samples: Samples, rows: Tensor, settings: GradCAMSettings, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Maps [N, S, S], bilinearly brought to the images' size, and the probabilities of the classes [N, C]."""
    assert samples.labels is not None
    maps, probabilities = [], []
    for part in torch.split(rows, settings.batch):
        features = model.encoder(samples.images[part].to(device).float() / 255)[-1]
        targets = torch.full((len(part),), int(not model.one_logit)) if model.classes == 2 else samples.labels[part]
        found, logits = grad_cam(features, lambda e: model.pretext["classifier"](model.pretext["pooling"](e)), targets)
        sides = samples.images.shape[-2:]
        maps.append(F.interpolate(found[:, None], sides, mode="bilinear", align_corners=False)[:, 0].cpu())
        probabilities.append(model.probabilities(logits).cpu())
    return torch.cat(maps), torch.cat(probabilities)


def _draw(
    images: Tensor,
    maps: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    shown: Sequence[int],
    names: Sequence[str],
    note: str,
) -> bytes:
    highest = float(maps[shown].max()) or 1.0
    pictures = [picture(images[place]) for place in shown]
    heights = [(maps[place].double() / highest).numpy() for place in shown]
    which = [1 if len(names) == 2 else int(labels[place]) for place in shown]
    below = [f"p({names[c]}) = {float(probabilities[place, c]):.2f}" for place, c in zip(shown, which, strict=True)]
    titles = [names[int(labels[place])] for place in shown]
    rows = [
        Row([Panel(p, title) for p, title in zip(pictures, titles, strict=True)], "input"),
        Row([Panel(heat(h)) for h in heights], "GradCAM map"),
        Row([Panel(over(*pair), "", text) for *pair, text in zip(pictures, heights, below, strict=True)], "overlay"),
    ]
    what = f'evidence for "{names[1]}"' if len(names) == 2 else "evidence for the class"
    scale = f"{what} (GradCAM, share of the largest value shown)"
    return draw_grid(rows, PAGE, legend=[(note, None)] if note else [], scale=scale)


def over(pixels: Pixels, values: np.ndarray[Any, Any]) -> Pixels:
    """The map over the picture in grey, the more opaque the higher."""
    grey = pixels.mean(axis=2, keepdims=True)
    opacity = 0.25 + 0.55 * values[..., None]
    mixed: Pixels = ((1 - opacity) * grey + opacity * heat(values)).round().astype(np.uint8)
    return mixed
