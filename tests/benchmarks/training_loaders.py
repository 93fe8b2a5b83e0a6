"""Photographs from files by DataLoaders and torchvision's transforms, for the peers of `training_step`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.training_work import PHOTOS, Setup
from trainables.pretexts.photometric import blur_radius

Batches = Iterator[Any]


def files(setup: Setup) -> list[tuple[Path, Path, int]]:
    """(image, mask, label) of every photograph."""
    images = sorted((setup.folder / PHOTOS / "images").iterdir())
    names = sorted({path.name.partition("_")[0] for path in images})
    masks = setup.folder / PHOTOS / "masks"
    return [(path, masks / f"{path.stem}.png", names.index(path.name.partition("_")[0])) for path in images]


class Photos(Dataset[Any]):
    """Decoded at every access, as datasets of torchvision are; `prepare` of (image, mask, label) gives an example."""

    def __init__(self, setup: Setup, prepare: Callable[..., Any], count: int | None = None) -> None:
        self._files, self._prepare = files(setup)[:count], prepare

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Any:
        image, mask, label = self._files[number]
        with Image.open(image) as picture:
            return self._prepare(picture.convert("RGB"), mask, label)


def batches(setup: Setup, data: Dataset[Any], workers: int) -> Batches:
    """Shuffled batches for ever."""
    loader = DataLoader(
        data, setup.batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=setup.device.type == "cuda",
    )  # fmt: skip
    while True:
        yield from loader


def to(setup: Setup, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.to(setup.device, non_blocking=True) for tensor in tensors]


class FlipAndCrop:
    """torchvision's v2 operators on image and mask together: what finetuning does to both."""

    def __init__(self, size: int, *, masks: bool) -> None:
        from torchvision.transforms import v2

        self._size, self._masks = size, masks
        self._operators = v2.Compose(
            [
                v2.Resize(size, antialias=True),
                v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True),
                v2.RandomHorizontalFlip(0.5),
            ]
        )

    def __call__(self, image: Image.Image, mask: Path, label: int) -> tuple[Tensor, Any]:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as F

        picture = tv_tensors.Image(F.pil_to_tensor(image))
        if not self._masks:
            return F.to_dtype(self._operators(picture), torch.float32, scale=True), label
        with Image.open(mask) as truth:
            found = tv_tensors.Mask((F.pil_to_tensor(truth.convert("L"))[0] > 0).byte())
        picture, found = self._operators(picture, found)
        return F.to_dtype(picture, torch.float32, scale=True).as_subclass(Tensor), found.as_subclass(Tensor)


class TwoViews:
    """torchvision's v2 operators image by image: [augmented, cropped] of two views, cropped without the colours."""

    def __init__(self, size: int) -> None:
        from torchvision.transforms import v2

        self._crop = v2.Compose(
            [v2.ToImage(), v2.RandomResizedCrop(size, (0.1, 1.0), antialias=True), v2.RandomHorizontalFlip(0.5)]
        )
        self._float = v2.ToDtype(torch.float32, scale=True)
        blur = v2.GaussianBlur(2 * blur_radius(size) + 1, (0.1, 2.0))
        colours = v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)
        self._colours = v2.Compose([colours, v2.RandomGrayscale(0.2), self._float, v2.RandomApply([blur], 0.5)])

    def __call__(self, image: Image.Image, mask: Path, label: int) -> list[Tensor]:
        cropped = [self._crop(image) for _ in range(2)]
        both = [self._colours(view) for view in cropped] + [self._float(view) for view in cropped]
        return [view.as_subclass(Tensor) for view in both]


class OfImage:
    """A transform of the image alone."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self._transform = transform

    def __call__(self, image: Image.Image, mask: Path, label: int) -> Tensor:
        return self._transform(image).as_subclass(Tensor)
