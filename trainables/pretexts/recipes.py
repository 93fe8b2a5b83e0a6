"""Augmentation as published codes have it, every image of a batch with its own draws.

BYOL: the default of byol-pytorch since December 2020 [byol: byol_pytorch.py]; MoCo v2: [moco: main_moco.py]. Both are
torchvision's operators in a fixed order, without normalisation, which is part of the networks that want it. Why by hand
stands in crops.py and photometric.py, whose parts do the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.devices import move
from trainables.pretexts import photometric
from trainables.pretexts.crops import ASPECT, resample
from trainables.pretexts.views import Photometry, adjust

CROP_TRIES = 10


@dataclass(frozen=True)
class Recipe:
    """Probabilities and ranges. `strength`: of brightness, contrast and saturation, factors 1 +- this; hue in turns.

    `sigma` and `radius` of the Gaussian blur in pixels, reflected at the border; `area`: least share of a crop.
    `crop_first`: False where colours and blur belong to the whole image, which is cropped last.
    """

    jitter: float
    strength: tuple[float, float, float]
    hue: float
    blur: float
    sigma: tuple[float, float]
    radius: int
    area: float
    crop_first: bool
    grayscale: float = 0.2
    flip: float = 0.5


BYOL_RECIPE = Recipe(0.3, (0.8, 0.8, 0.8), 0.2, 0.2, (1.0, 2.0), radius=1, area=0.08, crop_first=False)
# Pillow's blur, which MoCo uses, has no radius of its own; three deviations hold all of it.
MOCO_RECIPE = Recipe(0.8, (0.4, 0.4, 0.4), 0.1, 0.5, (0.1, 2.0), radius=6, area=0.2, crop_first=True)


def two_views_by(
    recipe: Recipe, images: Tensor, boxes: Tensor, size: int, generator: torch.Generator, *, shared: bool = False
) -> tuple[Tensor, Tensor]:
    """Two independently drawn views of each image, float32 [N, 3, size, size] in [0, 1].

    Args:
        images: uint8 [N, 3, S, S] on the device that computes.
        boxes: int64 [N, 4] (top, left, height, width) of the pictures inside the padded squares, on the CPU.
        generator: of the CPU; the only source of randomness.
        shared: the same draws for all images of a view, as where torchvision gets a whole batch.
    """
    draws = [_draw(recipe, boxes, generator, shared) for _ in range(2)]
    if recipe.crop_first:
        crops, flips = (torch.stack([getattr(draw, name) for draw in draws]) for name in ("crops", "flips"))
        views = resample(images, boxes, crops, flips, size, mode="bilinear")
        first, second = _colours(recipe, views, torch.cat([draw.colours for draw in draws])).chunk(2)
        return first, second
    pictures = _without_padding(images, boxes)
    first, second = (
        resample(_coloured(recipe, pictures, draw.colours), boxes, draw.crops[None], draw.flips[None], size,
                 mode="bilinear")
        for draw in draws
    )  # fmt: skip
    return first, second


class _Draw(NamedTuple):
    """Of one view of N images: crops int64 [N, 4], flips bool [N], uniform numbers [N, 12] for the colours."""

    crops: Tensor
    flips: Tensor
    colours: Tensor


def _draw(recipe: Recipe, boxes: Tensor, generator: torch.Generator, shared: bool) -> _Draw:
    count = len(boxes)
    drawn = 1 if shared else count
    uniform = torch.rand((drawn, 13), generator=generator).expand(count, -1)
    tries = torch.rand((4, drawn, CROP_TRIES), generator=generator, dtype=torch.float64).expand(4, count, -1)
    return _Draw(resized_crops(boxes, tries, recipe.area), uniform[:, 12] < recipe.flip, uniform[:, :12])


def _coloured(recipe: Recipe, pictures: Tensor, uniform: Tensor) -> Tensor:
    """New pictures [N, 3, S, S] in [0, 255]; only those whose colours change are worked on."""
    shares = torch.tensor([recipe.jitter, recipe.grayscale, recipe.blur])
    rows = (uniform[:, [0, 9, 10]] < shares).any(dim=1).nonzero()[:, 0]
    there = move(rows, pictures.device)
    coloured = _colours(recipe, pictures.index_select(0, there).div_(255), uniform[rows])
    return pictures.index_copy(0, there, coloured.mul_(255))


def _colours(recipe: Recipe, images: Tensor, uniform: Tensor) -> Tensor:
    """Jitter in random order, grayscale, blur of images [N, 3, H, W] in [0, 1]; uniform numbers [N, 12], on the CPU."""
    jittered = uniform[:, :1] < recipe.jitter
    factors = 1 + torch.tensor(recipe.strength) * (2 * uniform[:, 1:4] - 1)
    photometry = Photometry(
        factors=torch.where(jittered, factors, 1.0),
        shifts=torch.where(jittered[:, 0], recipe.hue * (2 * uniform[:, 4] - 1), 0.0),
        order=uniform[:, 5:9].argsort(dim=1),
        gray=uniform[:, 9] < recipe.grayscale,
        sigmas=torch.zeros(len(uniform)),  # this blur has another border
    )
    pixels = adjust(images, photometry)
    rows = (uniform[:, 10] < recipe.blur).nonzero()[:, 0]
    if len(rows):
        sigmas = recipe.sigma[0] + (recipe.sigma[1] - recipe.sigma[0]) * uniform[rows, 11]
        there = move(rows, images.device)
        pixels.index_copy_(0, there, _blur(pixels.index_select(0, there), sigmas, recipe.radius))
    return pixels


def _blur(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Gaussian blur, the image reflected beyond its border, as torchvision's."""
    kernels = photometric.blur_kernels(sigmas, min(radius, images.shape[2] - 1))
    return photometric.blur(images, move(kernels, images.device), reflect=True)


def resized_crops(boxes: Tensor, uniform: Tensor, least_area: float) -> Tensor:
    """torchvision's RandomResizedCrop: area uniform, aspect ratio (3/4 to 4/3) log-uniform, then any place.

    Args:
        boxes: int64 [N, 4] (top, left, height, width) of each picture inside its padded square, on the CPU.
        uniform: float64 [4, N, tries] in [0, 1). The first try that fits counts; if none does, the largest crop in the
            picture's middle whose ratio is allowed.
        least_area: smallest crop as a share of the picture.

    Returns:
        int64 [N, 4], inside the boxes.
    """
    top, left, high, wide = boxes.double().unsqueeze(-1).unbind(1)
    by_area, by_aspect, by_top, by_left = uniform.unbind()
    area = high * wide * (least_area + (1 - least_area) * by_area)
    shortest, longest = (math.log(ratio) for ratio in ASPECT)
    aspect = (shortest + (longest - shortest) * by_aspect).exp()
    width, height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (width >= 1) & (width <= wide) & (height >= 1) & (height <= high)
    y = top + (by_top * (high - height + 1)).floor()
    x = left + (by_left * (wide - width + 1)).floor()
    first = fits.int().argmax(dim=1)
    chosen = torch.stack([y, x, height, width], dim=2)[torch.arange(len(boxes)), first]
    middle_height = torch.minimum(high, (wide / ASPECT[0]).round())
    middle_width = torch.minimum(wide, (high * ASPECT[1]).round())
    middle = torch.cat(
        [top + ((high - middle_height) / 2).floor(), left + ((wide - middle_width) / 2).floor(),
         middle_height, middle_width], dim=1,
    )  # fmt: skip
    return torch.where(fits.any(dim=1, keepdim=True), chosen, middle).long()


def _without_padding(images: Tensor, boxes: Tensor) -> Tensor:
    """Float images [0, 255] whose padding has the mean colour of the picture, so that it shifts no contrast."""
    side, pixels = images.shape[-1], images.float()
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        if height < side or width < side:
            picture = pixels[row, :, top : top + height, left : left + width].clone()
            pixels[row] = picture.mean(dim=(1, 2))[:, None, None]
            pixels[row, :, top : top + height, left : left + width] = picture
    return pixels
