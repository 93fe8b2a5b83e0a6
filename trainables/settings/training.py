"""Dials of training: pretraining, finetuning and the numeric backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.settings._dial import dial


@dataclass(frozen=True)
class BackendSettings:
    """The numeric backend. Part of every key, because it may change digits.

    `precision: bfloat16` runs networks under torch.autocast: products of matrices and convolutions in bfloat16, and the
    maps between them. Weights, gradients, the optimiser's state, the statistics of batch norm, augmentation, losses and
    tallies stay float32. Analyses and preparations compute in float32 always.
    `threads`: of a stage on the CPU.
    `compiled`: torch.compile of the networks' training step. A stage waits for the compiler once (`python -m
    tests.benchmarks.backend` measures it, and what a step gains), so this is for long runs: pretraining at the paper's
    sizes, not a finetune of a few hundred steps. Evaluation is never compiled, and neither is a probe.
    `fused`: finetune cells of equal shape may be trained as one batched model, whose digits depend on which cells are
    trained together. Compiled cells are trained one at a time.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int = dial(1, ge=1)
    compiled: bool = False
    fused: bool = False


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
    """How a segmentation network is finetuned and evaluated [P1 §2.3]; optimiser, rate, batch and steps are *open*.

    `epochs`, where given, goes before `steps`, as in `PretrainSettings`, and the curve then has a point after each
    epoch, whatever `report_every` says.
    `head`: what the scenario seg-enc-dec does with the output convolution: where the pretrained one fits it is taken
    over (`fitting`, *open*: it goes with the decoder), or it starts at `random` whatever there is.
    `loss`: Dice, or Dice plus binary cross-entropy [P2 §V-B]. `flip`, `vertical_flip`, `rotation` (up to a quarter
    turn) and `blur` are probabilities; P1 has the horizontal flip and the crop, P2 all but the crop.
    `input_size`: of volumes the longest side, the others in proportion; smaller ones stay as they are. Volumes are
    neither flipped nor cropped, and evaluated `batch` at a time [genesis].
    `validation_share` of the training images only validate, where the dataset has no validation part of its own.
    Where there is such a part, its loss at the points of the curve (every `report_every` steps) may decide:
    `keep: best` takes the weights of the point where it was least; after `plateau` points without a gain the learning
    rate is multiplied by `plateau_factor`; after `patience` points that are no better than the best training ends.
    """

    steps: int = dial(5_000, ge=1)
    epochs: float | None = dial(None, gt=0)
    batch: int = dial(16, ge=1)
    optimizer: Literal["adam", "sgd", "lars"] = "adam"
    learning_rate: float = dial(1e-3, gt=0)
    momentum: float = dial(0.9, ge=0, lt=1)
    weight_decay: float = dial(0.0, ge=0)
    head: Literal["fitting", "random"] = "fitting"
    loss: Literal["dice", "dice-bce"] = "dice"
    input_size: int = dial(128, ge=8, multiple_of=8)
    flip: float = dial(0.5, ge=0, le=1)
    crop_area: float = dial(0.5, gt=0, le=1)
    vertical_flip: float = dial(0.0, ge=0, le=1)
    rotation: float = dial(0.0, ge=0, le=1)
    blur: float = dial(0.0, ge=0, le=1)
    validation_share: float = dial(0.0, ge=0, lt=1)
    report_every: int = dial(50, ge=1)
    curve_images: int = dial(64, ge=1)
    keep: Literal["last", "best"] = "last"
    plateau: int | None = dial(None, ge=1)
    plateau_factor: float = dial(0.5, gt=0, lt=1)
    patience: int | None = dial(None, ge=1)

    @property
    def validates(self) -> bool:
        """Whether anything depends on a validation part."""
        decided = self.keep == "best" or self.plateau is not None or self.patience is not None
        return decided or self.validation_share > 0


@dataclass(frozen=True)
class ProbeSettings:
    """Logistic regression on the pooled features of a frozen encoder [P2 §IV-B, §V-B].

    P2 states the loss (cross-entropy), Adam and its rate, and 70 / 10 / 20 thousand images; *open*: `epochs`, `batch`,
    `input_size` (that of pretraining), no scaling of the features, the epoch with the best validation accuracy.
    `validation_share` and `evaluation_share` are parts of the labelled images, each class in the same proportion; the
    rest trains, or `fraction` of it where a column asks for one.
    """

    epochs: float = dial(100.0, gt=0)
    batch: int = dial(256, ge=1)
    optimizer: Literal["adam", "sgd", "lars"] = "adam"
    learning_rate: float = dial(3e-4, gt=0)
    momentum: float = dial(0.9, ge=0, lt=1)
    weight_decay: float = dial(0.0, ge=0)
    input_size: int = dial(128, ge=8, multiple_of=8)
    validation_share: float = dial(0.1, gt=0, lt=1)
    evaluation_share: float = dial(0.2, gt=0, lt=1)

    @property
    def shares(self) -> tuple[float, float, float]:
        """What trains, validates and evaluates, as shares of the labelled images."""
        return 1 - self.validation_share - self.evaluation_share, self.validation_share, self.evaluation_share
