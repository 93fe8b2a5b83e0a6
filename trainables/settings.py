"""Every dial of a stage, with the paper's value as its default. No torch here, so that planning stays fast.

Sources: P1 is "Choose the Right Encoder and Skip the Decoder"; conrec is its reference code (see CONTRIBUTING, "Sources").
A value marked *open* is stated nowhere; the reason for ours stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

DecodingTask = Literal["reconstruction", "color", "mask", "fill"]
T = TypeVar("T")


@dataclass(frozen=True)
class NetworkSettings:
    """Which segmentation network, and how wide. `width` is the number of filters of its first block."""

    name: Literal["conrec-unet"] = "conrec-unet"
    width: int = 64


@dataclass(frozen=True)
class BackendSettings:
    """The numeric backend. Part of every key, because it may change digits."""

    precision: Literal["float32"] = "float32"
    threads: int = 1


@dataclass(frozen=True)
class SimCLRSettings:
    """SimCLR [P1 §2.2; conrec: utils/contrastive.py]."""

    method: Literal["simclr"] = "simclr"
    temperature: float = 0.5


@dataclass(frozen=True)
class ReconstructionSettings:
    """Masked reconstruction without contrast. P1 names it without a definition; *open*: ConRec without its contrast."""

    method: Literal["reconstruction"] = "reconstruction"
    tasks: tuple[DecodingTask, ...] = ("reconstruction",)
    reconstruction_weight: float = 100.0


@dataclass(frozen=True)
class ConRecSettings:
    """Contrast plus decoding [P1 §2.2, Fig. 3; conrec: README]. One task is vanilla ConRec, four are the paper's.

    The reconstruction term is the mean over the tasks (*open*: keeps the scale of the vanilla method).
    """

    method: Literal["conrec"] = "conrec"
    tasks: tuple[DecodingTask, ...] = ("reconstruction", "color", "mask", "fill")
    temperature: float = 0.5
    reconstruction_weight: float = 100.0
    contrastive_weight: float = 1.0


PretextSettings = SimCLRSettings | ReconstructionSettings | ConRecSettings
PRETEXT_SETTINGS: dict[str, type[PretextSettings]] = {
    "simclr": SimCLRSettings,
    "reconstruction": ReconstructionSettings,
    "conrec": ConRecSettings,
}


@dataclass(frozen=True)
class PretrainSettings:
    """How a self-supervised pretext is trained [conrec: README, utils/train_utils.py; steps: P1 §5.2].

    `validation_images` are held out of the pretraining images for the validation loss, at most a tenth of them (*open*).
    Images are kept at `decode_scale` times the input size, so that a small crop still has pixels to show.
    """

    steps: int = 150_000
    batch: int = 16
    optimizer: Literal["lars", "adam", "sgd"] = "lars"
    learning_rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    input_size: int = 128
    decode_scale: float = 2.0
    validation_images: int = 128
    report_every: int = 500


@dataclass(frozen=True)
class FinetuneSettings:
    """How a segmentation network is finetuned and evaluated [P1 §2.3]; optimiser, rate, batch and steps are *open*."""

    steps: int = 5_000
    batch: int = 16
    optimizer: Literal["adam", "sgd", "lars"] = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    loss: Literal["dice"] = "dice"
    input_size: int = 128
    flip: float = 0.5
    crop_area: float = 0.5
    report_every: int = 50
    curve_images: int = 64


@dataclass(frozen=True)
class DataSettings:
    """Choices a dataset leaves open; each dataset uses those that concern it.

    `border`: the unclassified band of Pets trimaps (*open*: foreground, since it holds thin parts).
    `rim`: Flowers 17 pixels that are labelled neither flower nor background (*open*: not counted).
    """

    border: Literal["foreground", "background", "ignore"] = "foreground"
    rim: Literal["ignore", "background"] = "ignore"


PretextSection = PretextSettings
SECTIONS: dict[str, type] = {
    "network": NetworkSettings,
    "backend": BackendSettings,
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "data": DataSettings,
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
