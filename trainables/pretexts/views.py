"""Two augmented views of every image of a batch [P1 §2.2; conrec: data/transform.py, augmentations/contrastive.py].

Per view: random resized crop, flip, colour jitter in random order, grayscale, Gaussian blur. All draws come first, as
small tensors from one CPU generator; applying them never waits for the device. What was weighed against writing this
stands in crops.py and photometric.py, the times in tests/benchmarks/augmentation.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import torch
from torch import Tensor

from trainables.devices import move
from trainables.pretexts import photometric
from trainables.pretexts.crops import draw_crops, resample

FLIP, JITTER, GRAYSCALE, BLUR = 0.5, 0.8, 0.2, 0.5  # probabilities
STRENGTH = (0.8, 0.8, 0.8)  # brightness, contrast, saturation: factors 1 +- this
HUE_SHIFT = 0.2  # turns
SIGMA = (0.1, 2.0)  # pixels
_BLENDS = 3  # of a jitter: brightness, contrast, saturation
_NO_TURN = _BLENDS + 1  # behind every place of a turn
_BLUR_PIECE = 8  # views; on a CPU every new shape of a convolution costs milliseconds once
_CHUNK_PIXELS = 2**17  # on a CPU, views are worked on in pieces that stay in its cache


@dataclass(frozen=True)
class Photometry:
    """What happens to the colours of V views: CPU tensors, one row for each view.

    Attributes:
        factors: float32 [V, 3], brightness, contrast, saturation; 1 leaves a view alone.
        shifts: float32 [V], hue in turns; 0 leaves a view alone.
        order: int64 [V, 4], the operators (0 brightness, 1 contrast, 2 saturation, 3 hue) as they are applied.
        gray: bool [V].
        sigmas: float32 [V], of the blur in pixels; 0 for none.
    """

    factors: Tensor
    shifts: Tensor
    order: Tensor
    gray: Tensor
    sigmas: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


class Views(NamedTuple):
    """All first views, then all second ones, float32 [2N, 3, H, W] in [0, 1].

    augmented: v, with everything; cropped: u, the same crops and flips with the colours of the photograph.
    """

    augmented: Tensor
    cropped: Tensor


def two_views(images: Tensor, boxes: Tensor, size: int, generator: torch.Generator) -> Views:
    """Two independently drawn views of each image.

    Args:
        images: uint8 [N, 3, S, S] on the device that computes.
        boxes: int64 [N, 4] (top, left, height, width) of the pictures inside the padded squares, on the CPU.
        size: side of the views in pixels.
        generator: of the CPU; the only source of randomness.
    """
    count = len(images)
    both = boxes.repeat(2, 1)
    crops = draw_crops(both, generator).view(2, count, 4)
    flips = torch.rand((2, count), generator=generator) < FLIP
    photometry = draw_photometry(2 * count, generator)
    cropped = resample(images, boxes, crops, flips, size)
    return Views(adjust(cropped, photometry), cropped)


def draw_photometry(count: int, generator: torch.Generator) -> Photometry:
    """Draws for `count` views, each on its own."""
    uniform = torch.rand((count, 12), generator=generator)
    jittered = uniform[:, :1] < JITTER
    factors = 1 + torch.tensor(STRENGTH) * (2 * uniform[:, 1:4] - 1)
    sigmas = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * uniform[:, 11]
    return Photometry(
        factors=torch.where(jittered, factors, 1.0),
        shifts=torch.where(jittered[:, 0], HUE_SHIFT * (2 * uniform[:, 4] - 1), 0.0),
        order=uniform[:, 5:9].argsort(dim=1),
        gray=uniform[:, 9] < GRAYSCALE,
        sigmas=torch.where(uniform[:, 10] < BLUR, sigmas, 0.0),
    )


def adjust(images: Tensor, photometry: Photometry) -> Tensor:
    """Apply the draws to images [V, 3, H, W] in [0, 1]; gives a new tensor."""
    count, height, width = len(images), images.shape[2], images.shape[3]
    chunk = max(1, _CHUNK_PIXELS // (height * width)) if images.device.type == "cpu" else max(1, count)
    adjusted = torch.empty_like(images)
    for start in range(0, count, chunk):
        rows = slice(start, start + chunk)
        adjusted[rows] = _adjust(images[rows], photometry[rows])
    return adjusted


def _adjust(images: Tensor, photometry: Photometry) -> Tensor:
    device = images.device
    pixels = _jitter(images.flatten(2), photometry)
    if (rows := _rows(photometry.gray, device)) is not None:
        pixels.index_copy_(0, rows, photometric.grayscale(pixels.index_select(0, rows)))
    result = pixels.view_as(images)
    blurred = photometry.sigmas > 0
    radius = photometric.blur_radius(images.shape[2])
    if radius > 0 and (rows := _rows(blurred, device)) is not None:
        kernels = move(photometric.blur_kernels(photometry.sigmas[blurred], radius), device)
        piece = _BLUR_PIECE if device.type == "cpu" else len(rows)
        for some, own in zip(rows.split(piece), kernels.split(piece), strict=True):
            result.index_copy_(0, some, photometric.blur(result.index_select(0, some), own))
    return result


def _jitter(pixels: Tensor, photometry: Photometry) -> Tensor:
    """New views [V, 3, P]; those that are left alone come out as they went in, to the last digit.

    A view that is jittered has three blends and one turn of its hue, anywhere among them. Laid out so that all turns
    come at the same time, the blends lie in three columns before it and three after it. With the views sorted by their
    turns' places, each column is a run of neighbours, and everything is done in place.
    """
    device = pixels.device
    turned, order = photometry.shifts != 0, photometry.order
    place = torch.where(turned, (order == photometric.HUE).int().argmax(dim=1), _NO_TURN)
    place[~turned & (photometry.factors == 1).all(dim=1)] = -1
    place, ranked = place.sort(descending=True, stable=True)
    count, *later, first = (int((place >= least).sum()) for least in range(_NO_TURN + 1))
    rows, place = ranked[:count], place[:count, None].clamp(max=_BLENDS)
    blends = order[rows][order[rows] != photometric.HUE].view(-1, _BLENDS)
    matrices, offsets = photometric.blend_matrices(blends, photometry.factors[rows])
    chosen = torch.arange(count)[:, None], (place - _BLENDS + torch.arange(2 * _BLENDS)).clamp(0, _BLENDS - 1)
    matrices, offsets = move(matrices[chosen], device), move(offsets[chosen], device)
    views = pixels.index_select(0, move(ranked, device))
    befores, afters = ([slice(0, end) for end in later[::-1]], [slice(start, count) for start in later[::-1]])
    for column, run in enumerate(befores + afters):
        if column == _BLENDS and first < count:
            photometric.hue_(views[first:count], move(photometry.shifts[rows], device)[first:])
        if run.start < run.stop:
            photometric.blend_(views[run], matrices[run, column], offsets[run, column])
    return views.index_select(0, move(ranked.argsort(), device))


def _rows(chosen: Tensor, device: torch.device) -> Tensor | None:
    """Row numbers of a CPU mask, on the device; None for no row. Known on the CPU, so the device need not be asked."""
    rows = chosen.nonzero()[:, 0]
    return move(rows, device) if len(rows) else None
