"""Pretext methods by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.conrec import ConRec
from trainables.pretexts.reconstruction import Reconstruction
from trainables.pretexts.simclr import SimCLR
from trainables.settings import NetworkSettings, PretextSettings

# Each takes (its settings, network settings); the settings' `method` is the key here.
PRETEXTS: dict[str, Callable[[Any, NetworkSettings], Pretext]] = {
    "simclr": SimCLR,
    "reconstruction": Reconstruction,
    "conrec": ConRec,
}

__all__ = ["PRETEXTS", "ImageBatch", "Pretext", "build_pretext"]


def build_pretext(settings: PretextSettings, network: NetworkSettings) -> Pretext:
    """The pretext that the settings name, freshly initialised from torch's global generator."""
    return PRETEXTS[settings.method](settings, network)
