"""What a stage will cost, in seconds of one CPU core, before anything was measured; `durations` mends it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.plan.lengths import steps_of, trained_on

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class _Network:
    """Forward pass of one image: GFLOP of the whole network and of its encoder, at `width` and 128 x 128 pixels.

    They grow with the square of the width and with the pixels. `volume`: at 64 x 64 x 32 voxels.
    `pace`: how much longer a GFLOP of the encoder takes than one of plain convolutions, as memory and not arithmetic
    sets its pace.
    `step`: seconds of a training step that do not depend on its images: many small operations, and the optimiser.
    """

    whole: float
    encoder: float
    width: int
    volume: bool = False
    pace: float = 1.0
    step: float = 0.0


@dataclass(frozen=True)
class _Method:
    """Of an image: passes with a backward pass and without one, augmented views, and whether only the encoder runs."""

    learning: int
    watching: int
    views: int
    encoder_only: bool


# GFLOP as counted by torch's FlopCounterMode; pace and step as measured (see below).
_NETWORKS = {
    "conrec-unet": _Network(21.60, 6.70, 64),
    "resnet18-unet": _Network(2.70, 1.18, 64, pace=2.5, step=0.012),
    "resnet50-unet": _Network(5.32, 2.67, 64, pace=2.5, step=0.02),
    "sasa-resnet50-unet": _Network(5.05, 2.40, 64, pace=7.5, step=0.06),
    "classic-unet": _Network(24.08, 8.51, 64),
    "casser-unet": _Network(1.86, 0.53, 16),
    "genesis-unet3d": _Network(236.70, 33.75, 32, volume=True, step=0.015),
}
_BACKWARD = 2.0  # in forward passes
_METHODS = {
    "simclr": _Method(2, 0, 2, True),
    "reconstruction": _Method(2, 0, 2, False),
    "conrec": _Method(2, 0, 2, False),
    "byol": _Method(2, 2, 2, True),
    "byol-color": _Method(2, 2, 2, True),
    "moco-v2": _Method(1, 1, 2, True),
    "classification": _Method(1, 0, 1, True),
    "segmentation": _Method(1, 0, 1, False),
    "models-genesis": _Method(1, 0, 1, False),
}
# Fitted to the stages of small runs (widths and sizes of the profile `mini`) on a CPU core; the measurements stand in
# tests/benchmarks/results/costs.txt.
_GFLOP_PER_SECOND = 48.0
_VIEW_SECONDS = 2.5e-3  # to augment one view of 128 x 128 pixels
_START_SECONDS = 1.0  # opening data, building networks, writing the result
_CUBE = (64, 64, 32)
# Of each image or scan that a preparation goes through; a network that colours is told apart.
_PREPARE_SECONDS = {"car-patches": 0.003, "colorize": 0.01, "cubes": 1.0}
_COLORIZER_GFLOP = 83.5
_FLAT_SECONDS = {"import": 5.0, "analysis": 10.0}
_UNKNOWN_SECONDS = 60.0


def device_seconds(kind: str, spec: Spec, *, n_eval: int = 0, n_pretrain: int = 0) -> float:
    """A rough estimate: images x network x image area over the usual speed of a core, evaluations included.

    Of a trial it is that of one that is trained to its end, with the finetunes that judge it.

    Args:
        n_eval: images that a finetune is evaluated on at its end.
        n_pretrain: images that a pretext sees, those that only validate it included; needed where it is trained by
            `epochs`, and for what a prepare stage goes through.
    """
    if kind == "trial" and spec["objective"]["kind"] == "downstream":
        judged = (len(spec["rungs"]) + 1) * device_seconds("finetune", spec["objective"]["finetune"])
        return judged + device_seconds("pretrain", spec, n_pretrain=n_pretrain)
    dials = dials_of(kind, spec)
    if kind == "probe" and spec.get("data", {}).get("n_train"):
        return _START_SECONDS + _probe_gflop(spec, dials) / _GFLOP_PER_SECOND
    if kind == "prepare" and n_pretrain:
        return _START_SECONDS + n_pretrain * _prepare_seconds(spec["prepare"])
    if not {"steps", "batch", "input_size"} <= dials.keys() or "network" not in spec:
        return _FLAT_SECONDS.get(kind, _UNKNOWN_SECONDS)
    if "pretext" in spec:
        steps = steps_of(dials, trained_on(spec["pretext"], dials, n_pretrain))
        gflop, views = _pretrain_work(spec, dials, steps)
    else:
        n_train = spec["data"].get("n_train") or 0
        whole_batch = min(dials["batch"], n_train or dials["batch"])
        steps = steps_of({**dials, "batch": whole_batch}, round(n_train * (1 - dials.get("validation_share", 0))))
        gflop, views = _finetune_work(spec, dials, steps, n_eval), 0.0
    network, area = _network(spec), _area(spec, dials["input_size"])
    by_image = area * (gflop / _GFLOP_PER_SECOND + views * _VIEW_SECONDS)
    return float(_START_SECONDS + steps * network.step + by_image)


def dials_of(kind: str, spec: Spec) -> Mapping[str, Any]:
    """The section of a stage's spec that says how long it trains; empty where it has none."""
    section = spec.get("pretrain" if "pretext" in spec else "finetune", spec.get(kind, {}))
    return section if isinstance(section, Mapping) else {}


def _prepare_seconds(dials: Mapping[str, Any]) -> float:
    """Of one image or scan."""
    coloured = dials["kind"] == "colorize" and dials.get("colours", "network") == "network"
    return _PREPARE_SECONDS[dials["kind"]] + (_COLORIZER_GFLOP / _GFLOP_PER_SECOND if coloured else 0.0)


def _probe_gflop(spec: Spec, dials: Mapping[str, Any]) -> float:
    """Every labelled image once through the encoder; the layer on the features costs next to nothing."""
    share = 1 - dials.get("validation_share", 0) - dials.get("evaluation_share", 0)
    images = spec["data"]["n_train"] / (share * (spec["data"].get("fraction") or 1))
    return float(images * _forward(spec, True) * _area(spec, dials["input_size"]))


def _pretrain_work(spec: Spec, dials: Mapping[str, Any], steps: int) -> tuple[float, float]:
    """GFLOP at 128 x 128 pixels, and augmented views."""
    method = _METHODS.get(str(spec["pretext"].get("method")), _METHODS["reconstruction"])
    trained = steps * dials["batch"]
    validated = _points(dials, steps) * dials.get("validation_images", 0) * dials.get("validation_draws", 1)
    passes = trained * (method.learning * (1 + _BACKWARD) + method.watching)
    passes += validated * (method.learning + method.watching)
    return passes * _forward(spec, method.encoder_only), method.views * (trained + validated)


def _finetune_work(spec: Spec, dials: Mapping[str, Any], steps: int, n_eval: int) -> float:
    """GFLOP at 128 x 128 pixels. Augmentation is one cheap resampling and counts for nothing."""
    n_train = spec["data"].get("n_train") or 0
    whole, encoder = _forward(spec, False), _forward(spec, True)
    learnt = whole - encoder if spec.get("frozen") else whole
    trained = steps * min(dials["batch"], n_train or dials["batch"]) * (whole + _BACKWARD * learnt)
    curve = min(dials.get("curve_images", 0), n_eval or math.inf)
    points = 1 + dials["epochs"] if dials.get("epochs") else _points(dials, steps)
    return float(trained + (n_eval + points * curve) * whole)


def _points(dials: Mapping[str, Any], steps: int) -> int:
    """Points of the curve: at step 0, every `report_every` steps, and at the end."""
    return 1 + math.ceil(steps / int(dials.get("report_every", steps)))


def _area(spec: Spec, size: int) -> float:
    """Pixels of an image of that side, in those of 128 x 128; voxels of a volume with that longest side, in a cube's.

    Volumes are never enlarged. Those that are not made by numbers are all cubes of 64 x 64 x 32.
    """
    if not _network(spec).volume:
        return (size / 128) ** 2
    options = spec.get("data", {}).get("options", {})
    width, depth = options.get("width", _CUBE[0]), options.get("depth", _CUBE[2])
    voxels = width * width * depth * min(1.0, size / max(width, depth)) ** 3
    return float(voxels / math.prod(_CUBE))


def _network(spec: Spec) -> _Network:
    return _NETWORKS.get(str(spec["network"]["name"]), _NETWORKS["conrec-unet"])


def _forward(spec: Spec, encoder_only: bool) -> float:
    """One forward pass, in GFLOP of plain convolutions."""
    known = _network(spec)
    scale = (spec["network"].get("width", known.width) / known.width) ** 2
    decoder = 0.0 if encoder_only else known.whole - known.encoder
    return float(scale * (known.pace * known.encoder + decoder))
