"""The prepare stage of the car / no-car patches: one square crop of each picture, with many car pixels or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trainables.context import Context, Result, StageError
from trainables.data import Listing, open_dataset, survey
from trainables.data.decode import read_image, read_mask
from trainables.data.listing import OBJECT
from trainables.data.threads import in_threads
from trainables.randomness import generator
from trainables.settings import parse
from trainables.settings.datasets import PatchSettings

WITHOUT, WITH = 0, 1  # labels
TRAINING, VALIDATION = 0, 1  # parts
_CHUNK = 64  # pictures between two signs of progress


@dataclass(frozen=True)
class Patch:
    """A crop that keeps the rule: its place in the picture in pixels, and image and mask at the final size."""

    number: int
    label: int
    crop: tuple[int, int, int]  # top, left, side
    image: NDArray[np.uint8]  # [S, S, 3]
    mask: NDArray[np.uint8]  # [S, S]


def prepare_patches(spec: Mapping[str, Any], context: Context) -> Result:
    """Cut the patches that car segmentation and car classification are trained on [P1 §5.1].

    A coin says for each picture whether a patch with or without cars is wanted. Then square crops at random places and
    of random sides are drawn until one has at least `target_share` car pixels, or none at all; both are also true of
    the patch as stored. A picture without such a crop is dropped and counted. Pixels that are not counted (255) are no
    cars. All draws depend on the seed and on the picture's name only.

    Args:
        spec: data (reader, options: a binary segmentation task), prepare (`PatchSettings`), seed.

    Returns:
        As tensors images uint8 [N, 3, S, S], masks uint8 [N, S, S], labels int64 [N] (1 car, 0 no car), boxes int64
        [N, 4] (the whole patch), part int64 [N] (0 training, 1 validation), sources int64 [N] (number of the picture)
        and crops int64 [N, 3] (top, left and side in it). Facts: pictures, patches, with and without cars, dropped of
        either kind, training and validation, pictures of the evaluation part among the sources.

    Raises:
        StageError: the task is not binary; nothing qualifies; `exclude_val` on a set without official parts.
        DataError: the dataset is missing or faulty.
    """
    settings, seed = parse(PatchSettings, spec["prepare"]), int(spec["seed"])
    listing = _open(spec["data"], context)
    numbers = _pictures(listing, settings)
    found: list[tuple[int, Patch | None]] = []
    for first in range(0, len(numbers), _CHUNK):
        chunk = numbers[first : first + _CHUNK]
        found += in_threads(lambda number: draw_patch(listing, number, settings, seed), chunk)
        context.progress(first + len(chunk), len(numbers))
    patches = [patch for _, patch in found if patch is not None]
    if len(patches) < 2:
        raise StageError(
            f"car-patches: {len(patches)} of {len(numbers)} pictures of {listing.folder} gave a patch; expected two or "
            "more: lower prepare.target_share, or widen prepare.smallest and prepare.largest"
        )
    part = _part(len(patches), settings.train_share, seed)
    return Result({}, _tensors(patches, part, settings.size), _facts(listing, found, patches, part))


def draw_patch(listing: Listing, number: int, settings: PatchSettings, seed: int) -> tuple[int, Patch | None]:
    """(label that the coin gave, the patch or None where no draw qualified)."""
    random = generator(seed, "car-patches", listing.images[number])
    label = WITH if torch.rand(1, generator=random).item() < 0.5 else WITHOUT
    mask = read_mask(listing, number)
    height, width = mask.shape
    short = min(height, width)
    sums = np.zeros((height + 1, width + 1), np.int64)  # of the pixels above and left, so that any crop is four reads
    sums[1:, 1:] = (mask == OBJECT).cumsum(0).cumsum(1)
    hopeless = label == WITH and sums[-1, -1] == 0
    for _ in range(0 if hopeless else settings.tries):
        a, b, c = torch.rand(3, dtype=torch.float64, generator=random).tolist()
        side = max(1, min(short, round(short * (settings.smallest + (settings.largest - settings.smallest) * a))))
        top, left = int(b * (height - side + 1)), int(c * (width - side + 1))
        inside = sums[top + side, left + side] - sums[top, left + side] - sums[top + side, left] + sums[top, left]
        if not _keeps_rule(label, int(inside), side * side, settings):
            continue
        box = (left, top, left + side, top + side)
        small = _resized(Image.fromarray(mask), box, settings.size, Image.Resampling.NEAREST)
        if _keeps_rule(label, int((small == OBJECT).sum()), settings.size**2, settings):
            image = _resized(read_image(listing, number), box, settings.size, Image.Resampling.BILINEAR)
            return label, Patch(number, label, (top, left, side), image, small)
    return label, None


def _keeps_rule(label: int, inside: int, area: int, settings: PatchSettings) -> bool:
    return inside >= settings.target_share * area if label == WITH else inside == 0


def _resized(
    picture: Image.Image, box: tuple[int, int, int, int], size: int, how: Image.Resampling
) -> NDArray[np.uint8]:
    """The crop `box` (left, top, right, bottom) of a picture, brought to `size`."""
    return np.asarray(picture.crop(box).resize((size, size), how))


def _open(data: Mapping[str, Any], context: Context) -> Listing:
    listing = open_dataset(data["reader"], context.data_root, data.get("options"), cache_dir=context.cache_dir)
    if len(listing.classes) != 2 or not listing.annotated or listing.kind != "pictures":
        raise StageError(f"car-patches: {data['reader']} is no task of one class; expected one, such as cityscapes-car")
    found = survey(listing, cache_dir=context.cache_dir, planned=context.fingerprint)
    found.check()
    context.check_data(data["reader"], found.fingerprint)
    return listing


def _pictures(listing: Listing, settings: PatchSettings) -> tuple[int, ...]:
    """The pictures that give a patch each."""
    if not settings.exclude_val:
        return listing.annotated
    if not listing.train:
        raise StageError(f"car-patches: exclude_val is set, but {listing.folder} has no official parts")
    return listing.train


def _part(count: int, train_share: float, seed: int) -> torch.Tensor:
    """0 for training, 1 for validation: a random split by patch."""
    order = torch.randperm(count, generator=generator(seed, "car-patches", "part"))
    trained = min(count - 1, max(1, round(train_share * count)))
    part = torch.full((count,), VALIDATION, dtype=torch.int64)
    part[order[:trained]] = TRAINING
    return part


def _tensors(patches: list[Patch], part: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    images = torch.from_numpy(np.stack([patch.image for patch in patches])).permute(0, 3, 1, 2).contiguous()
    return {
        "images": images,
        "masks": torch.from_numpy(np.stack([patch.mask for patch in patches])),
        "labels": torch.tensor([patch.label for patch in patches]),
        "boxes": torch.tensor([[0, 0, size, size]]).repeat(len(patches), 1),
        "part": part,
        "sources": torch.tensor([patch.number for patch in patches]),
        "crops": torch.tensor([patch.crop for patch in patches]),
    }


def _facts(
    listing: Listing, found: list[tuple[int, Patch | None]], patches: list[Patch], part: torch.Tensor
) -> dict[str, Any]:
    evaluated = set(listing.evaluation)
    return {
        "pictures": len(found),
        "patches": len(patches),
        "with_target": sum(patch.label == WITH for patch in patches),
        "without_target": sum(patch.label == WITHOUT for patch in patches),
        "dropped": len(found) - len(patches),
        "dropped_with_target": sum(patch is None and label == WITH for label, patch in found),
        "dropped_without_target": sum(patch is None and label == WITHOUT for label, patch in found),
        "training": int((part == TRAINING).sum()),
        "validation": int((part == VALIDATION).sum()),
        "from_evaluation_part": sum(patch.number in evaluated for patch in patches),
        "target": listing.target,
    }
