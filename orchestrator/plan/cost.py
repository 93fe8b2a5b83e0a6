"""What a stage will cost, in seconds of one CPU core, before anything was measured; `durations` mends it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class _Network:
    """Forward pass of one image: GFLOP of the whole network and of its encoder, at `width` and 128 x 128 pixels."""

    whole: float
    encoder: float
    width: int | None = None  # where there is a width dial; the cost grows with its square


# Counted by torch's FlopCounterMode; those marked ~ by hand from their layer lists.
_NETWORKS = {
    "conrec-unet": _Network(21.6, 6.7, 64),
    "resnet18-unet": _Network(2.7, 1.2),
    "resnet50-unet": _Network(5.3, 2.7),
    "sasa-resnet50-unet": _Network(5.0, 2.4),  # ~
    "classic-unet": _Network(27.0, 12.0, 64),  # ~
    "casser-unet": _Network(1.7, 0.8, 16),  # ~
    "genesis-unet3d": _Network(130.0, 55.0, 32),  # ~, a cube of 64 x 64 x 32 voxels
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


def device_seconds(kind: str, spec: Spec, *, n_eval: int = 0) -> float:
    """A rough estimate: images x network x image area over the usual speed of a core, evaluations included.

    Args:
        n_eval: images that a finetune is evaluated on at its end.
    """
    dials = dials_of(kind, spec)
    if "steps" not in dials or "input_size" not in dials or "network" not in spec:
        return _FLAT_SECONDS.get(kind, _UNKNOWN_SECONDS)
    count = _pretrain_work if "pretext" in spec else _finetune_work
    gflop, views = count(spec, dials, n_eval)
    area = (dials["input_size"] / 128) ** 2
    return float(_START_SECONDS + area * (gflop / _GFLOP_PER_SECOND + views * _VIEW_SECONDS))


def dials_of(kind: str, spec: Spec) -> Mapping[str, Any]:
    """The section of a stage's spec that says how long it trains; empty where it has none."""
    section = spec.get("pretrain" if "pretext" in spec else "finetune", spec.get(kind, {}))
    return section if isinstance(section, Mapping) else {}


def _pretrain_work(spec: Spec, dials: Mapping[str, Any], n_eval: int) -> tuple[float, float]:
    """GFLOP at 128 x 128 pixels, and augmented views."""
    learning, watching, encoder_only = _METHODS.get(str(spec["pretext"].get("method")), (2, 0, False))
    trained = dials["steps"] * dials["batch"]
    validated = _points(dials) * dials.get("validation_images", 0) * dials.get("validation_draws", 1)
    passes = trained * (learning * (1 + _BACKWARD) + watching) + validated * (learning + watching)
    return passes * _forward(spec["network"], encoder_only), learning * (trained + validated)


def _finetune_work(spec: Spec, dials: Mapping[str, Any], n_eval: int) -> tuple[float, float]:
    """GFLOP at 128 x 128 pixels. Augmentation is one cheap resampling and counts for nothing."""
    batch = min(dials["batch"], spec["data"].get("n_train") or dials["batch"])
    whole, encoder = _forward(spec["network"], False), _forward(spec["network"], True)
    learnt = whole - encoder if spec.get("frozen") else whole
    trained = dials["steps"] * batch * (whole + _BACKWARD * learnt)
    curve = min(dials.get("curve_images", 0), n_eval or math.inf)
    return trained + (n_eval + _points(dials) * curve) * whole, 0.0


def _points(dials: Mapping[str, Any]) -> int:
    """Points of the curve: at step 0, every `report_every` steps, and at the end."""
    return 1 + math.ceil(int(dials["steps"]) / int(dials.get("report_every", dials["steps"])))


def _forward(network: Mapping[str, Any], encoder_only: bool) -> float:
    known = _NETWORKS.get(str(network["name"]), _NETWORKS["conrec-unet"])
    scale = (network["width"] / known.width) ** 2 if known.width and "width" in network else 1.0
    return scale * (known.encoder if encoder_only else known.whole)
