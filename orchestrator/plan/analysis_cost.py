"""What an analysis will cost, in seconds of one CPU core, before anything was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_START_SECONDS = 5.0  # matplotlib, opening data, drawing
_IMAGE_SECONDS = {"cka": 0.17, "gradcam": 0.2, "cam": 0.2}  # an encoder of width 64 on one image of 128 x 128 pixels
_WIDTH = 64
_GRAM_SECONDS = 3.3e-6  # two images, 32768 features, float64


def analysis_seconds(spec: Mapping[str, Any], images: int) -> float:
    """Images x models x image area, and for CKA the products of all pairs of images; the others only draw.

    Args:
        images: looked at, for the numbers that it measures.
    """
    dials = spec["analysis"]
    each = _IMAGE_SECONDS.get(dials["kind"], 0.0)
    models = spec.get("models") or [{"network": spec.get("network", {})}]
    scale = sum((model.get("network", {}).get("width", _WIDTH) / _WIDTH) ** 2 for model in models)
    area = (dials.get("input_size", 128) / 128) ** 2
    pairs = len(models) * images**2 * _GRAM_SECONDS * area * 4 if dials["kind"] == "cka" else 0.0
    return float(_START_SECONDS + each * images * scale * area + pairs)
