"""What a stage will cost, in seconds of one CPU core, before anything was measured; `durations` mends it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class _Network:
    """Forward pass of one image: GFLOP of the whole network and of its encoder, at `width` and 128 x 128 pixels.

    They grow with the square of the width. A `volume` is a cube of 64 x 64 x 32 voxels, whatever the size asked for.
    """

    whole: float
    encoder: float
    width: int
    volume: bool = False


# Counted by torch's FlopCounterMode.
_NETWORKS = {
    "conrec-unet": _Network(21.60, 6.70, 64),
    "resnet18-unet": _Network(2.70, 1.18, 64),
    "resnet50-unet": _Network(5.32, 2.67, 64),
    "sasa-resnet50-unet": _Network(5.05, 2.40, 64),
    "classic-unet": _Network(24.08, 8.51, 64),
    "casser-unet": _Network(1.86, 0.53, 16),
    "genesis-unet3d": _Network(236.70, 33.75, 32, volume=True),
}
_BACKWARD = 2.0  # in forward passes
# Method -> (views of an image with a backward pass, views without one, whether only the encoder is run).
_METHODS = {
    "simclr": (2, 0, True),
    "reconstruction": (2, 0, False),
    "conrec": (2, 0, False),
    "byol": (2, 2, True),
    "byol-color": (2, 2, True),
    "classification": (1, 0, True),
    "segmentation": (1, 0, False),
    "models-genesis": (1, 0, False),
}
# Fitted to the stages of two small runs of P1 Table 2 (widths and sizes of the profile `mini`) on a CPU core.
_GFLOP_PER_SECOND = 40.0
_VIEW_SECONDS = 3e-3  # to augment one view of 128 x 128 pixels
_START_SECONDS = 1.5  # opening data, building networks, writing the result
_FLAT_SECONDS = {"import": 5.0}
_UNKNOWN_SECONDS = 60.0


def device_seconds(kind: str, spec: Spec, *, n_eval: int = 0, n_pretrain: int = 0) -> float:
    """A rough estimate: images x network x image area over the usual speed of a core, evaluations included.

    Args:
        n_eval: images that a finetune is evaluated on at its end.
        n_pretrain: images that a pretext sees; needed where it is trained by `epochs`.
    """
    dials = dials_of(kind, spec)
    if kind == "probe" and spec.get("data", {}).get("n_train"):
        return _START_SECONDS + _probe_gflop(spec, dials) / _GFLOP_PER_SECOND
    if not {"steps", "batch", "input_size"} <= dials.keys() or "network" not in spec:
        return _FLAT_SECONDS.get(kind, _UNKNOWN_SECONDS)
    steps = steps_of(dials, n_pretrain)
    gflop, views = _pretrain_work(spec, dials, steps) if "pretext" in spec else _finetune_work(spec, dials, n_eval)
    area = 1.0 if _network(spec).volume else (dials["input_size"] / 128) ** 2
    return float(_START_SECONDS + area * (gflop / _GFLOP_PER_SECOND + views * _VIEW_SECONDS))


def _probe_gflop(spec: Spec, dials: Mapping[str, Any]) -> float:
    """Every labelled image once through the encoder; the layer on the features costs next to nothing."""
    share = 1 - dials.get("validation_share", 0) - dials.get("evaluation_share", 0)
    images = spec["data"]["n_train"] / (share * (spec["data"].get("fraction") or 1))
    return float(images * _forward(spec, True) * (dials["input_size"] / 128) ** 2)


def steps_of(dials: Mapping[str, Any], images: int) -> int:
    """Optimiser steps: `steps`, or those of the `epochs` where they are asked for and the images are known."""
    if dials.get("epochs") and images:
        return math.ceil(float(dials["epochs"]) * images / int(dials["batch"]))
    return int(dials.get("steps", 0))


def dials_of(kind: str, spec: Spec) -> Mapping[str, Any]:
    """The section of a stage's spec that says how long it trains; empty where it has none."""
    section = spec.get("pretrain" if "pretext" in spec else "finetune", spec.get(kind, {}))
    return section if isinstance(section, Mapping) else {}


def _pretrain_work(spec: Spec, dials: Mapping[str, Any], steps: int) -> tuple[float, float]:
    """GFLOP at 128 x 128 pixels, and augmented views."""
    learning, watching, encoder_only = _METHODS.get(str(spec["pretext"].get("method")), (2, 0, False))
    trained = steps * dials["batch"]
    validated = _points(dials, steps) * dials.get("validation_images", 0) * dials.get("validation_draws", 1)
    passes = trained * (learning * (1 + _BACKWARD) + watching) + validated * (learning + watching)
    return passes * _forward(spec, encoder_only), learning * (trained + validated)


def _finetune_work(spec: Spec, dials: Mapping[str, Any], n_eval: int) -> tuple[float, float]:
    """GFLOP at 128 x 128 pixels. Augmentation is one cheap resampling and counts for nothing."""
    n_train = spec["data"].get("n_train") or 0
    batch, steps = min(dials["batch"], n_train or dials["batch"]), steps_of(dials, n_train)
    whole, encoder = _forward(spec, False), _forward(spec, True)
    learnt = whole - encoder if spec.get("frozen") else whole
    trained = steps * batch * (whole + _BACKWARD * learnt)
    curve = min(dials.get("curve_images", 0), n_eval or math.inf)
    points = 1 + dials["epochs"] if dials.get("epochs") else _points(dials, steps)
    return trained + (n_eval + points * curve) * whole, 0.0


def _points(dials: Mapping[str, Any], steps: int) -> int:
    """Points of the curve: at step 0, every `report_every` steps, and at the end."""
    return 1 + math.ceil(steps / int(dials.get("report_every", steps)))


def _network(spec: Spec) -> _Network:
    return _NETWORKS.get(str(spec["network"]["name"]), _NETWORKS["conrec-unet"])


def _forward(spec: Spec, encoder_only: bool) -> float:
    known = _network(spec)
    scale = (spec["network"].get("width", known.width) / known.width) ** 2
    return float(scale * (known.encoder if encoder_only else known.whole))
