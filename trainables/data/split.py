"""Which images train and which evaluate: nested over fractions, the same for every scenario."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise

from trainables.data.listing import DataError, Listing


@dataclass(frozen=True)
class Split:
    """Image numbers of a listing: `train` in drawn order, `evaluation` in the listing's order."""

    train: tuple[int, ...]
    evaluation: tuple[int, ...]


def split(listing: Listing, fraction: float | None, n_train: int | None, seed: int) -> Split:
    """Draw the training images of a cell [P1 §2.1: 1 %, 5 %, 20 % train, the rest evaluates].

    The images are put in an order that depends on (reader, image name, seed) only, and the first n of it train. So
    smaller fractions are part of larger ones, and all scenarios of a column get the same images.

    Args:
        listing: with a pool, all of it that does not train evaluates; with official parts, n images of the training
            part train, and the official evaluation part evaluates.
        fraction: share of the pool (or of the official training part), rounded half up.
        n_train: the number of images itself; goes before `fraction`. Neither: all of the official training part.

    Raises:
        DataError: no image would train or evaluate, or more are asked for than there are.
    """
    n = training_size(listing, fraction, n_train)
    train = tuple(drawn_order(listing, listing.pool or listing.train, seed)[:n])
    chosen = set(train)
    evaluation = tuple(number for number in listing.pool if number not in chosen) or listing.evaluation
    return Split(train, evaluation)


def training_size(listing: Listing, fraction: float | None, n_train: int | None) -> int:
    """How many images `split` lets train, with its checks; planning needs no more, and drawing them takes a while."""
    if not listing.annotated:
        raise DataError(f"{listing.reader} ({listing.folder}): no image has a mask; finetuning needs masks")
    n = _size(listing, len(listing.pool or listing.train), fraction, n_train)
    if not (listing.pool or listing.evaluation):
        raise DataError(f"{listing.reader} ({listing.folder}): its evaluation part is empty")
    return n


def split_labels(listing: Listing, seed: int, shares: Sequence[float] = (0.7, 0.1, 0.2)) -> tuple[tuple[int, ...], ...]:
    """Divide the labelled images into parts, each class in the same proportions [P2 §V-B: 70 / 10 / 20 thousand].

    Args:
        shares: of the parts; they sum to 1. Together a part has shares[k] of all labelled images, rounded.

    Returns:
        For each part the image numbers in drawn order, class by class.

    Raises:
        DataError: no image has a label, or a part would be empty.
    """
    limits = [sum(shares[: k + 1]) for k in range(len(shares))]
    if abs(limits[-1] - 1) > 1e-9 or min(shares) <= 0:
        raise DataError(f"{listing.reader}: shares must be above 0 and sum to 1, but got {shares}")
    parts: list[list[int]] = [[] for _ in shares]
    before = 0
    for label in sorted({label for label in listing.labels if label is not None}):
        members = drawn_order(listing, tuple(n for n, of in enumerate(listing.labels) if of == label), seed)
        # Cut where the shares of all images up to this class end, so that rounding does not add up over the classes.
        after = before + len(members)
        ends = [_round(limit * after) - _round(limit * before) for limit in limits]
        for part, first, last in zip(parts, (0, *ends), ends, strict=False):
            part += members[first:last]
        before = after
    if empty := [k for k, part in enumerate(parts) if not part]:
        raise DataError(
            f"{listing.reader} ({listing.folder}): part {empty[0]} of {before} labelled images is empty; expected more"
        )
    return tuple(tuple(part) for part in parts)


def probe_size(listing: Listing, fraction: float | None, shares: tuple[float, float, float]) -> int:
    """How many images `split_probe` lets train, with its checks; planning needs no more."""
    count = sum(label is not None for label in listing.labels)
    where = f"{listing.reader} ({listing.folder})"
    if count == 0:
        raise DataError(f"{where}: no image has a label; a probe needs labels")
    if min(shares) <= 0:
        raise DataError(f"{where}: the parts that validate and evaluate leave nothing to train; expected less than 1")
    ends = [_round(limit * count) for limit in (0, shares[0], shares[0] + shares[1], 1)]
    n = _round((fraction or 1) * ends[1])
    if min(n, *(last - first for first, last in pairwise(ends))) < 1:
        raise DataError(f"{where}: {count} labelled images are too few for parts of {', '.join(map(str, shares))}")
    return n


def split_probe(
    listing: Listing, fraction: float | None, shares: tuple[float, float, float], seed: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What trains, validates and evaluates a probe: `split_labels`, and of its first part a `fraction`, if given.

    Smaller fractions are part of larger ones, as in `split`; the other parts are the same for all.

    Raises:
        DataError: no image has a label, or a part would be empty.
    """
    n = probe_size(listing, fraction, shares)
    training, validation, evaluation = split_labels(listing, seed, shares)
    return tuple(drawn_order(listing, training, seed)[:n]), validation, evaluation


def _round(value: float) -> int:
    return int(Decimal(str(round(value, 9))).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def hold_out(parts: Split, share: float) -> Split:
    """Only the training images: the last `share` of them, in drawn order, evaluates what the others train.

    Raises:
        DataError: fewer than two training images, of which none is left for one of the two.
    """
    held = held_count(len(parts.train), share)
    return Split(parts.train[:-held], parts.train[-held:])


def held_count(images: int, share: float) -> int:
    """How many of the training images `hold_out` holds out, with its check."""
    held = max(1, round(share * images))
    if held >= images:
        raise DataError(f"{share:g} of the training images are to be held out, but there are {images} of them")
    return held


def why_not_validated(source: str, listing: Listing, images: int, share: float) -> str | None:
    """Why a finetune that looks at a validation part has none; None where it has one.

    Args:
        source: name of the data set.
        images: how many train. share: of them, those that validate where the data set has no part for that.
    """
    if listing.validation:
        return None
    if not share:
        return (
            f"finetune: {source} has no validation part, which keep: best, plateau and patience look at; "
            "expected keep: last without the others, a validation_share, or a dataset with one (lidc-nodules, nodules)"
        )
    try:
        held_count(images, share)
    except DataError as error:
        return str(error)
    return None


def drawn_order(listing: Listing, numbers: tuple[int, ...], seed: int) -> list[int]:
    """The numbers in drawn order. Sorting by a digest needs no generator whose stream a library might change."""

    def digest(number: int) -> bytes:
        return hashlib.sha256(
            f"{listing.reader}\0{seed}\0{listing.images[number]}".encode(errors="surrogateescape")
        ).digest()

    return sorted(numbers, key=digest)


def _size(listing: Listing, available: int, fraction: float | None, n_train: int | None) -> int:
    """How many images train."""
    where = f"{listing.reader} ({listing.folder})"
    if n_train is not None:
        n, asked = n_train, f"n_train {n_train}"
    elif fraction is not None:
        if not 0 < fraction <= 1:
            raise DataError(f"{where}: fraction must be above 0 and at most 1, but got {fraction}")
        exact = Decimal(str(fraction)) * available
        n = int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
        asked = f"{float(Decimal(str(fraction)) * 100):g} % of {available} images"
    elif listing.pool:
        raise DataError(f"{where}: it has no official parts, so a fraction or n_train is needed")
    else:
        n, asked = available, f"all of {available} images"
    if n < 1:
        raise DataError(f"{where}: {asked} is {n} images; at least 1 must train: raise the fraction or add images")
    if listing.pool and n >= available:
        raise DataError(f"{where}: {asked} leaves none of the {available} annotated images to evaluate; take fewer")
    if n > available:
        raise DataError(f"{where}: {asked} is more than the {available} images of the training part; take fewer")
    return n
