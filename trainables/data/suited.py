"""Whether a data set is enough to pretrain on: images with the targets that a method needs, and classes. No torch.

The pretrain stage and planning ask here, so that what planning lets through is not refused after hours in a queue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trainables.data.listing import Listing

LEAST_IMAGES = 2  # for training and for validation: an image alone has nothing to be contrasted with
TARGETS = {"masks": "masks", "labels": "image labels", "colored": "colorised images", "cubes": "cubes"}


def suited(listing: Listing, needs: Collection[str]) -> tuple[int, ...]:
    """Numbers of the images that pretraining sees: those with the mask or label that the method needs."""
    return tuple(
        number
        for number in listing.pretrain
        if not ("masks" in needs and listing.masks[number] is None)
        and not ("labels" in needs and listing.labels[number] is None)
    )


def held_out(images: int, wanted: int) -> int:
    """How many of `images` validate where `wanted` shall: both parts have at least LEAST_IMAGES."""
    return min(max(LEAST_IMAGES, wanted), images - LEAST_IMAGES)


def class_count(listing: Listing, needs: Collection[str]) -> int:
    """How many classes the masks have, else the labels; 0 where neither is needed."""
    if "masks" in needs:
        return len(listing.classes)
    known = [label for label in listing.labels if label is not None] if "labels" in needs else []
    return max(len(listing.label_names), max(known, default=-1) + 1)


def too_little(
    source: str, place: str, images: int, classes: int, needs: Collection[str], least: int = 2 * LEAST_IMAGES
) -> str | None:
    """Why so many images of so many classes are not enough to pretrain on; None where they are.

    Args:
        source: what the images come from; place: where that lies.
        needs: of the method's settings.
        least: the least number of images, half of which validate.
    """
    if images < least:
        having = f" with {' and '.join(TARGETS[need] for need in sorted(needs))}" if needs else ""
        return (
            f"{source}: pretraining needs at least {least} images{having}, {least // 2} of them for validation, "
            f"but {place} has {images}"
        )
    if {"masks", "labels"} & set(needs) and classes < 2:
        return f"{source}: expected at least 2 classes, but {place} has {classes}"
    return None


def why_not_pretrained(source: str, listing: Listing, needs: Collection[str]) -> str | None:
    """Why a method cannot be pretrained on a data set as it is; None where it can. `source`: as in `too_little`."""
    if listing.kind != "pictures":
        return f"{source}: holds volumes; expected a dataset of pictures here"
    images, classes = len(suited(listing, needs)), class_count(listing, needs)
    return too_little(source, str(listing.folder), images, classes, needs)


def why_not_prepared(source: str, listing: Listing, dials: Mapping[str, Any]) -> str | None:
    """Why what is made of a data set will not be enough to pretrain on, whatever is drawn; None where it may be.

    Args:
        source: as in `too_little`.
        dials: of the prepare stage, complete (`trainables.settings.datasets`).
    """
    if problem := _why_not_made(source, listing, dials["kind"]):
        return problem
    if dials["kind"] == "cubes":
        return _too_few_volumes(source, listing, int(dials["cubes"]))
    place = str(listing.folder)
    if dials["kind"] == "car-patches":  # at most one of each picture
        pictures = listing.train if dials["exclude_val"] else listing.annotated
        return too_little(source, place, len(pictures), len(listing.classes), ("masks",))
    return too_little(source, place, len(listing.pretrain), 0, ())


def _why_not_made(source: str, listing: Listing, kind: str) -> str | None:
    """Why a preparation cannot make anything of such a data set, in the words of its stage."""
    if kind == "cubes":
        holds = f"cubes: {source} holds pictures; expected volumes, such as luna16 or nodules"
        return holds if listing.kind == "pictures" else None
    if kind == "car-patches" and listing.annotated and (len(listing.classes) != 2 or listing.kind != "pictures"):
        return f"car-patches: {source} is no task of one class; expected one, such as cityscapes-car"
    if listing.kind != "pictures":
        return f"{kind}: {source} ({listing.folder}) has no pictures to pretrain on; expected some"
    return None


def _too_few_volumes(source: str, listing: Listing, cubes: int) -> str | None:
    """Volumes come in two parts. A scan gives up to `cubes` cubes, any other volume is one."""
    held = set(listing.validation)
    volumes, least = (len(set(listing.pretrain) - held), len(held)), LEAST_IMAGES
    if min(volumes) * (cubes if listing.kind == "scans" else 1) >= least:
        return None
    return (
        f"{source}: pretraining needs at least {least} cubes for training and {least} for validation, but "
        f"{listing.folder} has {volumes[0]} and {volumes[1]} {'scans' if listing.kind == 'scans' else 'volumes'}"
    )
