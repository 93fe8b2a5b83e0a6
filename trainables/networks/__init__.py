"""Segmentation networks by name."""

from __future__ import annotations

from collections.abc import Callable

from trainables.context import StageError
from trainables.networks._base import SegmentationNetwork, place, require_input_size
from trainables.networks.conrec_unet import conrec_unet
from trainables.settings import NetworkSettings

NETWORKS: dict[str, Callable[[NetworkSettings, int], SegmentationNetwork]] = {"conrec-unet": conrec_unet}

__all__ = ["NETWORKS", "SegmentationNetwork", "build_network", "place", "require_input_size"]


def build_network(settings: NetworkSettings, out_channels: int) -> SegmentationNetwork:
    """The network that the settings name, freshly initialised from torch's global generator.

    Raises:
        StageError: no network of that name, or a width below 1.
    """
    if settings.name not in NETWORKS:
        raise StageError(f"no network {settings.name!r}; there are {', '.join(NETWORKS)}")
    if settings.width < 1:
        raise StageError(f"network.width must be at least 1, but is {settings.width}")
    return NETWORKS[settings.name](settings, out_channels)
