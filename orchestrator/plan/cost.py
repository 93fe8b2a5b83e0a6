"""What a stage will cost, in device-seconds, before anything was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Forward and backward pass of the paper's U-Net (width 64, 128 x 128) on one image, counted from its layer list.
_FLOP_PER_IMAGE = 6.25e10
_FLOP_PER_SECOND = {"cpu": 4e10, "gpu": 2e13}
_VIEWS = {"simclr": 2, "reconstruction": 2, "conrec": 2}
_ENCODER_SHARE = 0.55


def device_seconds(kind: str, spec: Mapping[str, Any], *, device: str = "cpu") -> float:
    """A rough estimate: images x network size x image area over the device's usual speed."""
    dials = spec["pretrain" if kind == "pretrain" else "finetune"]
    scale = (spec["network"]["width"] / 64) ** 2 * (dials["input_size"] / 128) ** 2
    images = dials["steps"] * dials["batch"]
    if kind == "pretrain":
        method = spec["pretext"]["method"]
        images *= _VIEWS[method] * (_ENCODER_SHARE if method == "simclr" else 1)
    return float(images * scale * _FLOP_PER_IMAGE / _FLOP_PER_SECOND[device])
