"""What a pretext is trained on: images with the targets it needs, from a dataset or from a prepare stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.context import Context, StageError
from trainables.data import open_dataset, survey
from trainables.data.cube_sizes import shrink_cubes
from trainables.data.listing import IGNORE
from trainables.data.stack import load_stack
from trainables.data.suited import TARGETS, class_count, suited, too_little
from trainables.devices import fit, move
from trainables.pretexts._base import ImageBatch

TRAINING, VALIDATION = 0, 1  # of `Samples.part`
_CHUNK = 256  # images resized at a time


@dataclass(frozen=True)
class Samples:
    """N images on the CPU, or but for boxes and part on the device (`near`).

    images uint8 [N, 3, S, S]; boxes int64 [N, 4]; masks uint8 [N, S, S], labels int64 [N] and colored uint8
    [N, 3, S, S] where asked for; part int64 [N] (0 training, 1 validation) where the data say it; classes: of the masks
    or labels, 0 without either; source and place: for messages. Methods of volumes have cubes [N, X, Y, Z] as images.
    """

    images: Tensor
    boxes: Tensor
    masks: Tensor | None = None
    labels: Tensor | None = None
    colored: Tensor | None = None
    part: Tensor | None = None
    classes: int = 0
    source: str = ""
    place: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, size: int, device: torch.device) -> ImageBatch:
        """The images `rows` (on the CPU) with their targets on `device`; `size` is the side of the views to make."""
        there = move(rows, self.images.device)

        def taken(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else move(tensor[there], device)

        return ImageBatch(
            move(self.images[there], device),
            self.boxes[rows],
            size,
            masks=taken(self.masks),
            labels=taken(self.labels),
            colored=taken(self.colored),
        )

    def near(self, device: torch.device) -> Samples:
        """The same, on a GPU where they fit: batches are then taken from them there, and no step copies images."""
        parts = {name: getattr(self, name) for name in ("images", "masks", "labels", "colored")}
        held: dict[str, Any] = {name: tensor for name, tensor in parts.items() if tensor is not None}
        if not fit(held.values(), device):
            return self
        return replace(self, **{name: tensor.to(device) for name, tensor in held.items()})


def load_samples(
    data: Mapping[str, Any],
    needs: frozenset[str],
    size: int,
    least: int,
    context: Context,
    with_object: bool = False,
) -> Samples:
    """All images that pretraining sees. One tensor for training and validation, so that workers share its memory.

    Args:
        data: reader and options; `prepared: true` where a prepare stage gives the tensors (role "data").
        needs: of the pretext's settings. Images of a dataset without the needed mask or label are left out.
        size: side of the images in pixels.
        least: the least number of images.
        with_object: of prepared images with masks and a label 0 or 1, those with label 1 alone.

    Raises:
        StageError: too few images, or none with what the method needs.
        DataError: the dataset is missing or faulty (`trainables.data`).
    """
    prepared = bool(data.get("prepared"))
    samples = _prepared(data, needs, size, context, with_object) if prepared else _listed(data, needs, size, context)
    if problem := too_little(samples.source, samples.place, len(samples), samples.classes, needs, least):
        raise StageError(problem)
    return samples


def _listed(data: Mapping[str, Any], needs: frozenset[str], size: int, context: Context) -> Samples:
    listing = open_dataset(data["reader"], context.data_root, data.get("options"), cache_dir=context.cache_dir)
    source, place = data["reader"], str(listing.folder)
    if made := sorted(needs & {"colored", "cubes"}):
        raise StageError(f"{source}: the pretext needs {TARGETS[made[0]]}; expected those of a prepare stage")
    numbers = suited(listing, needs)
    found = survey(listing, cache_dir=context.cache_dir, planned=context.fingerprint)
    found.check()
    context.check_data(data["reader"], found.fingerprint)
    stack = load_stack(
        listing,
        numbers,
        size,
        masks="masks" in needs,
        fingerprint=found.fingerprint,
        cache_dir=context.cache_dir,
    )
    labels = torch.tensor([listing.labels[n] for n in numbers]) if "labels" in needs else None
    return Samples(
        stack.images,
        stack.boxes,
        masks=stack.masks if "masks" in needs else None,
        labels=labels,
        classes=class_count(listing, needs),
        source=source,
        place=place,
    )


def _prepared(
    data: Mapping[str, Any], needs: frozenset[str], size: int, context: Context, with_object: bool
) -> Samples:
    source = f"prepared {data['reader']}"
    try:
        tensors = context.weights("data")
    except KeyError:
        raise StageError(f"{source}: expected the tensors of a prepare stage, but none were given") from None
    wanted = sorted(needs) if "cubes" in needs else ["images", *sorted(needs)]
    if lacking := [name for name in wanted if name not in tensors]:
        raise StageError(f"{source}: expected tensors {', '.join(wanted)}, but got {', '.join(sorted(tensors))}, "
                         f"without {lacking[0]}")  # fmt: skip
    if "cubes" in needs:
        return _cubes(tensors, size, source)
    chosen = with_object and "masks" in needs and _binary(tensors)
    least = int(chosen)  # -1: an image without a label
    if (chosen or "labels" in needs) and bool((tensors["labels"] < least).any()):
        rows = (tensors["labels"] >= least).nonzero()[:, 0]
        tensors = {name: t[rows] for name, t in tensors.items()}
    images = tensors["images"]
    whole = torch.tensor([0, 0, *images.shape[-2:]])
    samples = Samples(
        images,
        tensors.get("boxes", whole.repeat(len(images), 1)),
        masks=tensors["masks"] if "masks" in needs else None,
        labels=tensors["labels"] if "labels" in needs else None,
        colored=tensors["colored"] if "colored" in needs else None,
        part=tensors.get("part"),
        classes=_seen_classes(tensors, needs),
        source=source,
        place="the prepare stage (patches: with-object)" if chosen else "the prepare stage",
    )
    side = images.shape[-1]
    # Targets go with images of the very size. For views, a smaller image has no more to show when it is made larger.
    return _resized(samples, size) if (size != side if needs else size < side) else samples


def _binary(tensors: Mapping[str, Tensor]) -> bool:
    """Whether each image has a label that says if it shows the one object of the masks, as car patches have."""
    return "labels" in tensors and _seen_classes(tensors, frozenset({"labels"})) == 2 == _seen_classes(
        tensors, frozenset({"masks"})
    )


def _cubes(tensors: Mapping[str, Tensor], size: int, source: str) -> Samples:
    """Cubes with a longest side of at most `size` voxels."""
    cubes = shrink_cubes(tensors["cubes"], size)
    no_boxes = torch.zeros(len(cubes), 4, dtype=torch.int64)
    return Samples(cubes, no_boxes, part=tensors.get("part"), source=source, place="the prepare stage")


def _seen_classes(tensors: Mapping[str, Tensor], needs: frozenset[str]) -> int:
    """Prepared tensors name no classes, so the largest number counts; two at least."""
    for need in ("masks", "labels"):
        if need in needs:
            counted = tensors[need][tensors[need] != IGNORE] if need == "masks" else tensors[need]
            return max(2, int(counted.max()) + 1 if counted.numel() else 0)
    return 0


def _resized(samples: Samples, size: int) -> Samples:
    """Images bilinearly with antialias, masks by the nearest pixel, as `trainables.data.stack` does."""
    scaled = (samples.boxes * size / samples.images.shape[-1]).round().long()
    return replace(
        samples,
        images=_pixels(samples.images, size),
        boxes=torch.cat([scaled[:, :2], scaled[:, 2:].clamp(min=1)], dim=1),
        masks=None if samples.masks is None else _nearest(samples.masks, size),
        colored=None if samples.colored is None else _pixels(samples.colored, size),
    )


def _pixels(images: Tensor, size: int) -> Tensor:
    pieces: Sequence[Tensor] = torch.split(images, _CHUNK)
    resized = (F.interpolate(p.float(), (size, size), mode="bilinear", antialias=True) for p in pieces)
    return torch.cat([p.round().clamp(0, 255).byte() for p in resized])


def _nearest(masks: Tensor, size: int) -> Tensor:
    return F.interpolate(masks[:, None], (size, size), mode="nearest-exact")[:, 0]
