"""Dials of each pretext method; the names of its data, network and training are elsewhere.

Beside the dials, what planning must know of a method without torch:

needs: what it wants of the data besides images: "masks", "labels", "colored"; or "cubes" in their place.
metric: its validation metric and its better side, for studies and for "did it learn".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from trainables.settings._dial import dial, parse

DecodingTask = Literal["reconstruction", "color", "mask", "fill"]
MaskLoss = Literal["mse", "bce", "dice"]
Metric = tuple[str, Literal["min", "max"]]
Needs = frozenset[Literal["masks", "labels", "colored", "cubes"]]


@dataclass(frozen=True)
class SimCLRSettings:
    """SimCLR [P1 §2.2; conrec: utils/contrastive.py]."""

    needs: ClassVar[Needs] = frozenset()
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["simclr"] = "simclr"
    temperature: float = dial(0.5, gt=0)


def weights_misfit(tasks: Sequence[str], weights: Sequence[float]) -> str | None:
    """Why weights cannot be those of the decoding tasks; None where they can."""
    if not weights:
        return None
    if len(weights) != len(tasks):
        return f"expected a number in task_weights for each of the tasks {', '.join(tasks)}, but got {list(weights)}"
    if min(weights) < 0 or sum(weights) <= 0:
        return f"expected task_weights of 0 or more, not all of them 0, but got {list(weights)}"
    return None


@dataclass(frozen=True)
class ReconstructionSettings:
    """Masked reconstruction without contrast. P1 names it without a definition; *open*: ConRec without its contrast.

    `task_weights` and `mask_loss` as in `ConRecSettings`.
    """

    needs: ClassVar[Needs] = frozenset()
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["reconstruction"] = "reconstruction"
    tasks: tuple[DecodingTask, ...] = ("reconstruction",)
    task_weights: tuple[float, ...] = ()
    mask_loss: MaskLoss = "mse"
    reconstruction_weight: float = dial(100.0, ge=0)

    def misfit(self) -> str | None:
        """Why these dials do not go together; None where they do."""
        return weights_misfit(self.tasks, self.task_weights)


@dataclass(frozen=True)
class ConRecSettings:
    """Contrast plus decoding [P1 §2.2, Fig. 3; conrec: README]. One task is vanilla ConRec, four are the paper's.

    The reconstruction term is the mean over the tasks (*open*: keeps the scale of the vanilla method), weighted by
    `task_weights`: a number for each task in the order of `tasks`, of which only the proportions count; empty: equal
    ones (*open*: P1 gives none). `mask_loss`: of the task `mask`, mean squared error of the sigmoid as in the other
    tasks (*open*), binary cross-entropy, or Dice over the batch; on the scale that each of them has by itself.
    """

    needs: ClassVar[Needs] = frozenset()
    metric: ClassVar[Metric] = ("val_loss", "min")

    method: Literal["conrec"] = "conrec"
    tasks: tuple[DecodingTask, ...] = ("reconstruction", "color", "mask", "fill")
    task_weights: tuple[float, ...] = ()
    mask_loss: MaskLoss = "mse"
    temperature: float = dial(0.5, gt=0)
    reconstruction_weight: float = dial(100.0, ge=0)
    contrastive_weight: float = dial(1.0, ge=0)

    def misfit(self) -> str | None:
        """Why these dials do not go together; None where they do."""
        return weights_misfit(self.tasks, self.task_weights)


@dataclass(frozen=True)
class SegmentationSettings:
    """Supervised segmentation [P1 §5.1, §5.2]: Dice for two classes, cross-entropy for more.

    `validation_share` of the images is held out (P1 §5.1 says 70/30 for the car patches; *open* for the other tasks,
    treated alike), unless the prepared data say themselves which images validate.
    `flip` and `crop_area` are those of finetuning (*open*: the paper names no augmentation for pretraining).
    `patches`: of car patches `with-object` takes those that show cars, as P1 §5.1 extracts patches with cars for this
    task (*open*: those of the classification with the label car, so that both tasks see the same images); `all` takes
    the others, too. It changes nothing for data sets that are read directly, nor for more than two classes.
    """

    needs: ClassVar[Needs] = frozenset({"masks"})
    metric: ClassVar[Metric] = ("val_dice", "max")

    method: Literal["segmentation"] = "segmentation"
    validation_share: float = dial(0.3, gt=0, lt=1)
    flip: float = dial(0.5, ge=0, le=1)
    crop_area: float = dial(0.5, gt=0, le=1)
    patches: Literal["with-object", "all"] = "with-object"


@dataclass(frozen=True)
class ClassificationSettings:
    """Supervised classification [P1 §5.1, §5.2].

    `loss` (*open*: P1 names none): `by-classes` is one logit with binary cross-entropy for two classes, and
    cross-entropy for more; `binary` is one against the rest for more classes, too: the mean binary cross-entropy of
    their logits; `cross-entropy` gives two classes two logits. The other dials as in `SegmentationSettings`.
    """

    needs: ClassVar[Needs] = frozenset({"labels"})
    metric: ClassVar[Metric] = ("val_accuracy", "max")

    method: Literal["classification"] = "classification"
    loss: Literal["by-classes", "binary", "cross-entropy"] = "by-classes"
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
