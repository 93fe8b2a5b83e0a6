"""Dials of each pretext method; the names of its data, network and training are elsewhere.

Beside the dials, what planning must know of a method without torch:

needs: what it wants of the data besides images: "masks", "labels", "colored"; or "cubes" in their place.
metric: its validation metric and its better side, for studies and for "did it learn".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from trainables.settings._dial import dial, parse

DecodingTask = Literal["reconstruction", "color", "mask", "fill"]
Metric = tuple[str, Literal["min", "max"]]
Needs = frozenset[Literal["masks", "labels", "colored", "cubes"]]


@dataclass(frozen=True)
class SimCLRSettings:
    """SimCLR [P1 §2.2; conrec: utils/contrastive.py]."""

    needs: ClassVar[Needs] = frozenset()
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["simclr"] = "simclr"
    temperature: float = dial(0.5, gt=0)


@dataclass(frozen=True)
class ReconstructionSettings:
    """Masked reconstruction without contrast. P1 names it without a definition; *open*: ConRec without its contrast."""

    needs: ClassVar[Needs] = frozenset()
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["reconstruction"] = "reconstruction"
    tasks: tuple[DecodingTask, ...] = ("reconstruction",)
    reconstruction_weight: float = dial(100.0, ge=0)


@dataclass(frozen=True)
class ConRecSettings:
    """Contrast plus decoding [P1 §2.2, Fig. 3; conrec: README]. One task is vanilla ConRec, four are the paper's.

    The reconstruction term is the mean over the tasks (*open*: keeps the scale of the vanilla method).
    """

    needs: ClassVar[Needs] = frozenset()
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["conrec"] = "conrec"
    tasks: tuple[DecodingTask, ...] = ("reconstruction", "color", "mask", "fill")
    temperature: float = dial(0.5, gt=0)
    reconstruction_weight: float = dial(100.0, ge=0)
    contrastive_weight: float = dial(1.0, ge=0)


@dataclass(frozen=True)
class SegmentationSettings:
    """Supervised segmentation [P1 §5.1, §5.2]: Dice for two classes, cross-entropy for more.

    `validation_share` of the images is held out (P1 §5.1 says 70/30 for the car patches; *open* for the other tasks,
    treated alike), unless the prepared data say themselves which images validate.
    `flip` and `crop_area` are those of finetuning (*open*: the paper names no augmentation for pretraining).
    """

    needs: ClassVar[Needs] = frozenset({"masks"})
    metric: ClassVar[Metric] = ("val_dice", "max")

    method: Literal["segmentation"] = "segmentation"
    validation_share: float = dial(0.3, gt=0, lt=1)
    flip: float = dial(0.5, ge=0, le=1)
    crop_area: float = dial(0.5, gt=0, le=1)


@dataclass(frozen=True)
class ClassificationSettings:
    """Supervised classification [P1 §5.1, §5.2]: one logit and binary cross-entropy for two classes, cross-entropy for
    more (*open*: P1 names no loss). The other dials as in `SegmentationSettings`.
    """

    needs: ClassVar[Needs] = frozenset({"labels"})
    metric: ClassVar[Metric] = ("val_accuracy", "max")

    method: Literal["classification"] = "classification"
    validation_share: float = dial(0.3, gt=0, lt=1)
    flip: float = dial(0.5, ge=0, le=1)
    crop_area: float = dial(0.5, gt=0, le=1)


@dataclass(frozen=True)
class BYOLSettings:
    """BYOL [arXiv:2006.07733; byol-pytorch; P2 §V-B]: heads "same as original BYOL".

    `momentum` of the target's average: *open*, the library's constant 0.99; a schedule would tie every step to the
    length of the run. `shared_draws`: one draw of the augmentation for all images of a batch, as the library does
    (*open*: each image its own). `hidden` and `projection` are the widths of both heads. Colours and blur are of the
    whole image as it lies in memory, before the crop; the library's images have the input size (`decode_scale: 1`).
    """

    needs: ClassVar[Needs] = frozenset()
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["byol"] = "byol"
    momentum: float = dial(0.99, ge=0, lt=1)
    hidden: int = dial(4096, ge=1)
    projection: int = dial(256, ge=2)
    shared_draws: bool = False


@dataclass(frozen=True)
class BYOLColorSettings:
    """BYOL between a gray image and its colorised self, no other augmentation [P2 §IV-A, Fig. 2]."""

    needs: ClassVar[Needs] = frozenset({"colored"})
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["byol-color"] = "byol-color"
    momentum: float = dial(0.99, ge=0, lt=1)
    hidden: int = dial(4096, ge=1)
    projection: int = dial(256, ge=2)


@dataclass(frozen=True)
class MoCoSettings:
    """MoCo v2 [arXiv:2003.04297; moco: main_moco.py]: queue, momentum encoder, InfoNCE; its published constants.

    The rate stays constant here, where the original lowers it by a cosine.
    """

    needs: ClassVar[Needs] = frozenset()
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["moco-v2"] = "moco-v2"
    temperature: float = dial(0.2, gt=0)
    momentum: float = dial(0.999, ge=0, lt=1)
    queue: int = dial(65_536, ge=1)
    projection: int = dial(128, ge=2)


@dataclass(frozen=True)
class ModelsGenesisSettings:
    """Models Genesis on cubes of CT scans [P1 §4; genesis: config.py]: the probability of each deformation.

    `flip`: of a first flip, and of a next after each, at most three; `shuffle`: local pixel shuffling; `nonlinear`: an
    intensity curve; `paint`: noise in its place, with `outpaint` around windows, else in blocks.
    """

    needs: ClassVar[Needs] = frozenset({"cubes"})
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["models-genesis"] = "models-genesis"
    flip: float = dial(0.4, ge=0, le=1)
    shuffle: float = dial(0.5, ge=0, le=1)
    nonlinear: float = dial(0.9, ge=0, le=1)
    paint: float = dial(0.9, ge=0, le=1)
    outpaint: float = dial(0.8, ge=0, le=1)


PretextSettings = (
    SimCLRSettings
    | ReconstructionSettings
    | ConRecSettings
    | SegmentationSettings
    | ClassificationSettings
    | BYOLSettings
    | BYOLColorSettings
    | MoCoSettings
    | ModelsGenesisSettings
)
# These train no decoder, so that no scenario can take one over.
ENCODER_ONLY = frozenset({"simclr", "classification", "byol", "byol-color", "moco-v2"})
PRETEXT_SETTINGS: dict[str, type[PretextSettings]] = {
    "simclr": SimCLRSettings,
    "reconstruction": ReconstructionSettings,
    "conrec": ConRecSettings,
    "segmentation": SegmentationSettings,
    "classification": ClassificationSettings,
    "byol": BYOLSettings,
    "byol-color": BYOLColorSettings,
    "moco-v2": MoCoSettings,
    "models-genesis": ModelsGenesisSettings,
}


def parse_pretext(values: Mapping[str, Any]) -> PretextSettings:
    """The settings object of the method that `values["method"]` names."""
    method = values.get("method")
    if method not in PRETEXT_SETTINGS:
        raise TypeError(f"no pretext method {method!r}; there are {', '.join(PRETEXT_SETTINGS)}")
    return parse(PRETEXT_SETTINGS[method], values)
