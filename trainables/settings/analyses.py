"""Dials of each analysis; the names of its models, data and parents stand beside them in its spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.settings._dial import dial
from trainables.settings.pretexts import DecodingTask

Part = Literal["annotated", "labelled", "pretrain", "train", "evaluation"]


@dataclass(frozen=True)
class CKASettings:
    """CKA between encoders [P1 §5.2, Fig. 7].

    `kernel` (*open*: P1 names none): `linear`; `rbf` is Gaussian, its deviation `bandwidth` times the median distance
    between the features of two images [Kornblith et al. 2019, §3], and needs all images at once.
    `pool`: side of the windows over which E is averaged first (*open*: 1, none). With images of 128 pixels a side a
    `pool` of 2 gives the 8 x 8 x 512 of P1, as images of 64 do without.
    `estimator`: `full` on all images at once, the paper's; `minibatch` estimates the same from batches of `minibatch`
    images, for sets that do not fit in memory; each image is in `passes` batches (0: enough for errors below 1e-3).
    `unbiased`: HSIC estimated without bias, so that CKA does not grow with the number of features (*open*: biased).
    `part` of the data, its first `images` in drawn order (0: all). `batch` images pass an encoder at a time.
    """

    kind: Literal["cka"] = "cka"
    input_size: int = dial(64, ge=8, multiple_of=8)
    part: Part = "pretrain"
    images: int = dial(0, ge=0)
    estimator: Literal["full", "minibatch"] = "full"
    unbiased: bool = False
    kernel: Literal["linear", "rbf"] = "linear"
    bandwidth: float = dial(0.5, gt=0)
    pool: int = dial(1, ge=1)
    minibatch: int = dial(256, ge=4)
    passes: int = dial(0, ge=0)
    batch: int = dial(64, ge=1)

    def misfit(self) -> str | None:
        """Why these dials do not go together; None where they do."""
        if self.kernel == "rbf" and self.estimator != "full":
            return f"kernel rbf needs all images at once; expected estimator full, but got {self.estimator}"
        return None


@dataclass(frozen=True)
class GradCAMSettings:
    """GradCAM on a classifier [P1 Fig. 5c]: `count` samples of each class; `images` (0: all) for the numbers."""

    kind: Literal["gradcam"] = "gradcam"
    input_size: int = dial(128, ge=8, multiple_of=8)
    count: int = dial(4, ge=1)
    images: int = dial(0, ge=0)
    labels: tuple[str, ...] = ("no car", "car")
    batch: int = dial(32, ge=1)


@dataclass(frozen=True)
class CurvesSettings:
    """Curves of finetuning [P1 Fig. 4]: `metric` of the histories; steps until `share` of the final value."""

    kind: Literal["curves"] = "curves"
    metric: str = "eval_dice"
    share: float = dial(0.95, gt=0, le=1)


@dataclass(frozen=True)
class TargetsSettings:
    """ConRec's input and what its decoder is asked for [P1 Fig. 3]: `count` images at `input_size`."""

    kind: Literal["targets"] = "targets"
    input_size: int = dial(192, ge=32, multiple_of=8)
    count: int = dial(3, ge=1)
    tasks: tuple[DecodingTask, ...] = ("reconstruction", "color", "mask", "fill")


@dataclass(frozen=True)
class PredictionsSettings:
    """Predictions beside the truth [P1 Fig. 6, 7a]: pictures in a line of the figure at most, the truth's included."""

    kind: Literal["predictions"] = "predictions"
    input_size: int = dial(128, ge=8, multiple_of=8)
    columns: int = dial(6, ge=3)


@dataclass(frozen=True)
class SamplesSettings:
    """Samples of datasets and their counts [P1 Table 1, Fig. 2, 5a, 5b, 7b].

    `input_size`: long side of a picture; `columns`: pictures in a line.
    """

    kind: Literal["samples"] = "samples"
    input_size: int = dial(224, ge=8, multiple_of=8)
    columns: int = dial(6, ge=1)


@dataclass(frozen=True)
class SamplesPanel:
    """What a `samples` figure shows of one dataset.

    `show`: `pictures`, `masks` (over the picture), `pairs` of both, side by side, or `colours`: pairs of a picture and
    its colorised self, of data prepared so. `count` pictures in drawn order, of
    those with the label `label` (a name) where one is given; with `each_label`, `count` of every label. Of prepared
    data, `labels` names the labels by number. `target` names the object of the masks where the data do not.
    `published`: how many images the paper counts. `note` is told below the figure: what stands in for the data.
    """

    title: str
    show: Literal["pictures", "masks", "pairs", "colours"] = "masks"
    part: Part = "annotated"
    count: int = dial(3, ge=1)
    label: str = ""
    each_label: bool = False
    labels: tuple[str, ...] = ()
    target: str = "object"
    published: int | None = dial(None, ge=0)
    note: str = ""


@dataclass(frozen=True)
class PredictionsPanel:
    """What a `predictions` figure shows of one dataset.

    Of the images that evaluate in a cell with this `fraction`, `n_train` and the stage's seed, the first `count` in
    drawn order, or those of `images` (names in the listing). `models`: names of the models shown; empty: all. `note`:
    as of samples.
    """

    title: str
    count: int = dial(3, ge=1)
    images: tuple[str, ...] = ()
    fraction: float | None = None
    n_train: int | None = None
    models: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class ConfusionSettings:
    """Confusion matrices of probes [P2 Fig. 8, 9]; no choices."""

    kind: Literal["confusion"] = "confusion"


@dataclass(frozen=True)
class CAMSettings:
    """Class activation maps of probed encoders [P2 Fig. 10, 11].

    `weights`: of the probe's predicted class, or `mean`: the mean |activation| (*open*). `count` images are shown, and
    `images` measured: of `part`, the first in drawn order, or the one with the name `image`. `input_size`: that
    of the probes, which gives maps of 4 x 4; a larger one gives finer maps, of a class that may be another.
    """

    kind: Literal["cam"] = "cam"
    input_size: int = dial(128, ge=8, multiple_of=8)
    part: Part = "labelled"
    image: str = ""
    count: int = dial(1, ge=1)
    images: int = dial(16, ge=1)
    weights: Literal["probe", "mean"] = "probe"


@dataclass(frozen=True)
class DistributionSettings:
    """How many images there are of each kind in the parts of a dataset [P2 Fig. 7]; `parts` are drawn side by side."""

    kind: Literal["distribution"] = "distribution"
    parts: tuple[Part, ...] = ("labelled", "pretrain")


AnalysisSettings = (
    CKASettings
    | GradCAMSettings
    | CurvesSettings
    | TargetsSettings
    | PredictionsSettings
    | SamplesSettings
    | ConfusionSettings
    | CAMSettings
    | DistributionSettings
)
ANALYSIS_SETTINGS: dict[str, type[AnalysisSettings]] = {
    "cka": CKASettings,
    "gradcam": GradCAMSettings,
    "curves": CurvesSettings,
    "targets": TargetsSettings,
    "predictions": PredictionsSettings,
    "samples": SamplesSettings,
    "confusion": ConfusionSettings,
    "cam": CAMSettings,
    "distribution": DistributionSettings,
}
