"""Dials of the segmentation networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.settings._dial import dial


@dataclass(frozen=True)
class NetworkSettings:
    """Which segmentation network, and how wide. `width` is the number of filters of its first block."""

    name: Literal["conrec-unet"] = "conrec-unet"
    width: int = dial(64, ge=1)
