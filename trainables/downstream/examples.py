"""What finetuning trains on and evaluates: pictures or volumes with their masks, by part of a dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables.context import Context, StageError
from trainables.data import Listing, Split, hold_out, open_dataset, split, survey
from trainables.data.cube_sizes import shrink_cubes, shrink_masks
from trainables.data.cube_stack import as_images, load_cubes
from trainables.data.split import why_not_validated
from trainables.data.stack import load_stack
from trainables.devices import move
from trainables.downstream.augment import augment, draw_crops
from trainables.downstream.warp import draw_warps, warp
from trainables.settings import FinetuneSettings

# Fixed for pictures, since the digits of a convolution may depend on it.
EVALUATION_BATCH = 32


class Examples(ABC):
    """N pictures or volumes of one size, with `masks` uint8 [N, ...] (0, 1, 255).

    `evaluation_batch`: how many are evaluated at a time.
    """

    masks: Tensor
    evaluation_batch: int

    def __len__(self) -> int:
        return len(self.masks)

    @property
    @abstractmethod
    def sides(self) -> tuple[int, ...]:
        """Sides in pixels or voxels."""

    @abstractmethod
    def inputs(self, rows: slice, device: torch.device) -> Tensor:
        """Some of them as they are, float32 [n, C, ...] in [0, 1] on `device`."""

    @abstractmethod
    def training_batch(
        self, rows: Tensor, settings: FinetuneSettings, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """(inputs, masks) of `rows`, augmented by draws from a CPU generator, on `device`."""

    @abstractmethod
    def subset(self, rows: Tensor) -> Examples:
        """Those of `rows`."""

    def to(self, device: torch.device) -> Examples:
        """The same, kept where training wants them."""
        return self


@dataclass(frozen=True)
class Pictures(Examples):
    """images: uint8 [N, 3, S, S]; boxes: int64 [N, 4] on the CPU, where crops are drawn."""

    images: Tensor
    masks: Tensor
    boxes: Tensor
    evaluation_batch: int = EVALUATION_BATCH

    @property
    def sides(self) -> tuple[int, ...]:
        return tuple(self.images.shape[2:])

    def inputs(self, rows: slice, device: torch.device) -> Tensor:
        return self.images[rows].to(device).float() / 255

    def training_batch(
        self, rows: Tensor, settings: FinetuneSettings, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        crops = draw_crops(len(rows), settings.flip, settings.crop_area, generator)
        there = move(rows, device)
        inputs, masks = augment(self.images[there], self.masks[there], self.boxes[rows], crops)
        return warp(
            inputs, masks, draw_warps(len(rows), settings.vertical_flip, settings.rotation, settings.blur, generator)
        )

    def subset(self, rows: Tensor) -> Pictures:
        return Pictures(self.images[rows], self.masks[rows], self.boxes[rows])

    def to(self, device: torch.device) -> Pictures:
        """Few images: kept on the device."""
        return Pictures(self.images.to(device), self.masks.to(device), self.boxes)


@dataclass(frozen=True)
class Volumes(Examples):
    """cubes: uint8 or float16 [N, X, Y, Z] on the CPU; they train without augmentation [genesis: downstream_tasks].

    The official code evaluates in batches of the training's size, and its metrics depend on them.
    """

    cubes: Tensor
    masks: Tensor
    evaluation_batch: int

    @property
    def sides(self) -> tuple[int, ...]:
        return tuple(self.cubes.shape[1:])

    def inputs(self, rows: slice, device: torch.device) -> Tensor:
        return as_images(self.cubes[rows].to(device))

    def training_batch(
        self, rows: Tensor, settings: FinetuneSettings, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return as_images(move(self.cubes[rows], device)), move(self.masks[rows], device)

    def subset(self, rows: Tensor) -> Volumes:
        return Volumes(self.cubes[rows], self.masks[rows], self.evaluation_batch)


@dataclass(frozen=True)
class Parts:
    """What trains, what evaluates, and what chooses weights (None where that is not asked for)."""

    training: Examples
    evaluation: Examples
    validation: Examples | None


def load_parts(
    data: Mapping[str, Any], settings: FinetuneSettings, seed: int, context: Context, *, validate: bool
) -> Parts:
    """The parts of a dataset for this seed.

    Args:
        data: reader, options, fraction, n_train, held_out, as in the spec of `finetune`.
        validate: the dataset's validation part is wanted.

    Raises:
        StageError: no masks, or no validation part where it is wanted.
        DataError: the dataset is missing, faulty or too small.
    """
    listing = open_dataset(data["reader"], context.data_root, data.get("options"), cache_dir=context.cache_dir)
    found = survey(listing, cache_dir=context.cache_dir, planned=context.fingerprint)
    found.check()
    context.check_data(data["reader"], found.fingerprint)
    parts = split(listing, data.get("fraction"), data.get("n_train"), seed)
    if data.get("held_out") is not None:
        parts = hold_out(parts, data["held_out"])
    validation, share = listing.validation, settings.validation_share
    if validate and (problem := why_not_validated(data["reader"], listing, len(parts.train), share)):
        raise StageError(problem)
    if validate and not validation:
        held = hold_out(parts, share)
        parts, validation = Split(held.train, parts.evaluation), held.evaluation
    load = partial(_load, listing, settings=settings, fingerprint=found.fingerprint, context=context)
    return Parts(load(parts.train), load(parts.evaluation), load(validation) if validate else None)


def _load(
    listing: Listing, numbers: Sequence[int], settings: FinetuneSettings, fingerprint: str, context: Context
) -> Examples:
    if listing.kind != "pictures":
        volumes = load_cubes(listing, numbers, masks=True, fingerprint=fingerprint, cache_dir=context.cache_dir)
        cubes = shrink_cubes(volumes.cubes, settings.input_size)
        return Volumes(cubes, shrink_masks(_needed(volumes.masks), settings.input_size), settings.batch)
    stack = load_stack(
        listing, numbers, size=settings.input_size, masks=True, fingerprint=fingerprint, cache_dir=context.cache_dir
    )
    return Pictures(stack.images, _needed(stack.masks), stack.boxes)


def _needed(masks: Tensor | None) -> Tensor:
    if masks is None:
        raise StageError("finetuning: expected a data set with masks, but this one has none")
    return masks
