"""Every dial of a stage, with the paper's value as its default. No torch here, so that planning stays fast.

Sources: P1 is "Choose the Right Encoder and Skip the Decoder"; conrec is its reference code (CONTRIBUTING, "Sources").
A value marked *open* is stated nowhere; the reason for ours stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

DecodingTask = Literal["reconstruction", "color", "mask", "fill"]
T = TypeVar("T")


def dial(default: Any, **limits: float) -> Any:
    """A field with limits (`ge`, `gt`, `le`, `lt`, `multiple_of`), which the grid's schema checks."""
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class NetworkSettings:
    """Which segmentation network, and how wide. `width` is the number of filters of its first block."""

    name: Literal["conrec-unet"] = "conrec-unet"
    width: int = dial(64, ge=1)


@dataclass(frozen=True)
class BackendSettings:
    """The numeric backend. Part of every key, because it may change digits."""

    precision: Literal["float32"] = "float32"
    threads: int = dial(1, ge=1)


@dataclass(frozen=True)
class SimCLRSettings:
    """SimCLR [P1 §2.2; conrec: utils/contrastive.py]."""

    method: Literal["simclr"] = "simclr"
    temperature: float = dial(0.5, gt=0)


@dataclass(frozen=True)
class ReconstructionSettings:
    """Masked reconstruction without contrast. P1 names it without a definition; *open*: ConRec without its contrast."""

    method: Literal["reconstruction"] = "reconstruction"
    tasks: tuple[DecodingTask, ...] = ("reconstruction",)
    reconstruction_weight: float = dial(100.0, ge=0)


@dataclass(frozen=True)
class ConRecSettings:
    """Contrast plus decoding [P1 §2.2, Fig. 3; conrec: README]. One task is vanilla ConRec, four are the paper's.

    The reconstruction term is the mean over the tasks (*open*: keeps the scale of the vanilla method).
    """

    method: Literal["conrec"] = "conrec"
    tasks: tuple[DecodingTask, ...] = ("reconstruction", "color", "mask", "fill")
    temperature: float = dial(0.5, gt=0)
    reconstruction_weight: float = dial(100.0, ge=0)
    contrastive_weight: float = dial(1.0, ge=0)


PretextSettings = SimCLRSettings | ReconstructionSettings | ConRecSettings
# These train no decoder, so that no scenario can take one over.
ENCODER_ONLY = frozenset({"simclr"})
PRETEXT_SETTINGS: dict[str, type[PretextSettings]] = {
    "simclr": SimCLRSettings,
    "reconstruction": ReconstructionSettings,
    "conrec": ConRecSettings,
}


@dataclass(frozen=True)
class PretrainSettings:
    """How a self-supervised pretext is trained [conrec: README, utils/train_utils.py; steps: P1 §5.2].

    `validation_images` are held out of the pretraining images for the validation loss, at most a tenth of them, and
    seen under `validation_draws` fixed draws of augmentation and masks each (*open*).
    Images are kept at `decode_scale` times the input size, so that a small crop still has pixels to show.
    """

    steps: int = dial(150_000, ge=1)
    batch: int = dial(16, ge=1)
    optimizer: Literal["lars", "adam", "sgd"] = "lars"
    learning_rate: float = dial(0.3, gt=0)
    momentum: float = dial(0.9, ge=0, lt=1)
    weight_decay: float = dial(1e-4, ge=0)
    input_size: int = dial(128, ge=8, multiple_of=8)
    decode_scale: float = dial(2.0, ge=1)
    validation_images: int = dial(128, ge=2)
    validation_draws: int = dial(1, ge=1)
    report_every: int = dial(500, ge=1)


@dataclass(frozen=True)
class FinetuneSettings:
    """How a segmentation network is finetuned and evaluated [P1 §2.3]; optimiser, rate, batch and steps are *open*."""

    steps: int = dial(5_000, ge=1)
    batch: int = dial(16, ge=1)
    optimizer: Literal["adam", "sgd", "lars"] = "adam"
    learning_rate: float = dial(1e-3, gt=0)
    momentum: float = dial(0.9, ge=0, lt=1)
    weight_decay: float = dial(0.0, ge=0)
    loss: Literal["dice"] = "dice"
    input_size: int = dial(128, ge=8, multiple_of=8)
    flip: float = dial(0.5, ge=0, le=1)
    crop_area: float = dial(0.5, gt=0, le=1)
    report_every: int = dial(50, ge=1)
    curve_images: int = dial(64, ge=1)


@dataclass(frozen=True)
class ShapesOptions:
    """The synthetic set: textured shapes on a textured ground, made from numbers, nothing on disk."""

    count: int = dial(240, ge=4)
    size: int = dial(48, ge=8)
    seed: int = 0


@dataclass(frozen=True)
class FolderOptions:
    """`images/` + `masks/` (equal stems) + optional `splits/*.txt` below `path`; see `trainables.data.folder`.

    `classes` maps pixel values to names; empty: read from `classes.yaml` in the folder, else taken as binary.
    `target` is the class to segment; empty: the only one that is not the background. `ignore` are values not counted.
    """

    path: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    ignore: tuple[int, ...] = ()


@dataclass(frozen=True)
class Flowers17Options:
    """`rim`: pixels labelled neither flower nor background (*open*: not counted)."""

    rim: Literal["ignore", "background"] = "ignore"


@dataclass(frozen=True)
class Flowers102Options:
    """Oxford Flowers 102 has no choices (*open*: all 8189 images)."""


@dataclass(frozen=True)
class PetsOptions:
    """`border`: the unclassified band of the trimaps (*open*: foreground, since it holds thin parts)."""

    border: Literal["foreground", "background", "ignore"] = "foreground"


DatasetOptions = ShapesOptions | FolderOptions | Flowers17Options | Flowers102Options | PetsOptions
DATASET_OPTIONS: dict[str, type[DatasetOptions]] = {
    "shapes": ShapesOptions,
    "folder": FolderOptions,
    "flowers17": Flowers17Options,
    "flowers102": Flowers102Options,
    "pets": PetsOptions,
}

SECTIONS: dict[str, type] = {
    "network": NetworkSettings,
    "backend": BackendSettings,
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
}


def parse(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a settings object from JSON values (lists become tuples). Unknown names raise TypeError."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise TypeError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def parse_pretext(values: Mapping[str, Any]) -> PretextSettings:
    """The settings object of the method that `values["method"]` names."""
    method = values.get("method")
    if method not in PRETEXT_SETTINGS:
        raise TypeError(f"no pretext method {method!r}; there are {', '.join(PRETEXT_SETTINGS)}")
    return parse(PRETEXT_SETTINGS[method], values)
