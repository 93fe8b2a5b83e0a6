"""Dials of training: pretraining, finetuning and the numeric backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.settings._dial import dial


@dataclass(frozen=True)
class BackendSettings:
    """The numeric backend. Part of every key, because it may change digits."""

    precision: Literal["float32"] = "float32"
    threads: int = dial(1, ge=1)


# Runs that differ in these only are one run, stopped at different steps: the learning rate is constant, and every draw
# is a function of its step.
LENGTH_DIALS = frozenset({"steps", "epochs"})


@dataclass(frozen=True)
class PretrainSettings:
    """How a pretext is trained [conrec: README, utils/train_utils.py; steps: P1 §5.2].

    `epochs`, where given, goes before `steps`: steps = ceil(epochs * training images / batch), the images that are held
    out not counted, so it is known when the data are read. The learning rate is constant, as in both papers, so a
    longer run can go on from a shorter one.
    `validation_images` are held out of the pretraining images for the validation loss, at most a tenth of them, and
    seen under `validation_draws` fixed draws of augmentation and masks each (*open*). Supervised pretexts have a
    `validation_share` instead.
    Images are kept at `decode_scale` times the input size, so that a small crop still has pixels to show; supervised
    pretexts crop at the input size, as finetuning does.
    """

    steps: int = dial(150_000, ge=1)
    epochs: float | None = dial(None, gt=0)
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
