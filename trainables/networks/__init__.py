"""Segmentation networks by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from trainables.context import StageError
from trainables.networks._base import SegmentationNetwork, place, require_input_size
from trainables.settings import AnyNetworkSettings

# "module:function" of (settings, output channels) -> network, imported when asked for: some need smp.
NETWORKS: dict[str, str] = {
    "conrec-unet": "trainables.networks.conrec_unet:conrec_unet",
    "resnet18-unet": "trainables.networks.resnet_unet:resnet18_unet",
    "resnet50-unet": "trainables.networks.resnet_unet:resnet50_unet",
    "sasa-resnet50-unet": "trainables.networks.resnet_unet:sasa_resnet50_unet",
    "classic-unet": "trainables.networks.classic_unet:classic_unet",
    "casser-unet": "trainables.networks.casser_unet:casser_unet",
    "genesis-unet3d": "trainables.networks.genesis_unet3d:genesis_unet3d",
}

__all__ = ["NETWORKS", "SegmentationNetwork", "build_network", "place", "require_input_size"]


def build_network(settings: AnyNetworkSettings, out_channels: int) -> SegmentationNetwork:
    """The network that the settings name, freshly initialised from torch's global generator.

    Raises:
        StageError: no network of that name, a width below 1, or dials that do not fit each other.
    """
    if settings.name not in NETWORKS:
        raise StageError(f"no network {settings.name!r}; there are {', '.join(NETWORKS)}")
    if settings.width < 1:
        raise StageError(f"network.width must be at least 1, but is {settings.width}")
    module, _, function = NETWORKS[settings.name].partition(":")
    build: Callable[[AnyNetworkSettings, int], SegmentationNetwork] = getattr(import_module(module), function)
    return build(settings, out_channels)
