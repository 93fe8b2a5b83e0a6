"""Pretext methods by name."""

from __future__ import annotations

from collections.abc import Callable

from trainables.pretexts._base import ImageBatch, Pretext
from trainables.pretexts.byol import BYOL
from trainables.pretexts.byol_color import BYOLColor
from trainables.pretexts.classification import Classification
from trainables.pretexts.conrec import ConRec
from trainables.pretexts.genesis import ModelsGenesis
from trainables.pretexts.moco import MoCo
from trainables.pretexts.reconstruction import Reconstruction
from trainables.pretexts.segmentation import Segmentation
from trainables.pretexts.simclr import SimCLR
from trainables.settings import AnyNetworkSettings, PretextSettings

# Each takes (its settings, network settings), supervised ones the number of classes too; the settings' `method` is the
# key here.
PRETEXTS: dict[str, Callable[..., Pretext]] = {
    "simclr": SimCLR,
    "reconstruction": Reconstruction,
    "conrec": ConRec,
    "segmentation": Segmentation,
    "classification": Classification,
    "byol": BYOL,
    "byol-color": BYOLColor,
    "moco-v2": MoCo,
    "models-genesis": ModelsGenesis,
}

SUPERVISED = frozenset({"masks", "labels"})

__all__ = ["PRETEXTS", "ImageBatch", "Pretext", "build_pretext"]


def build_pretext(settings: PretextSettings, network: AnyNetworkSettings, classes: int = 0) -> Pretext:
    """The pretext that the settings name, freshly initialised from torch's global generator.

    Args:
        classes: how many the masks or labels have, for the methods that need either.
    """
    make = PRETEXTS[settings.method]
    return make(settings, network, classes) if settings.needs & SUPERVISED else make(settings, network)
