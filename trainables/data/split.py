"""Which images train and which evaluate: nested over fractions, the same for every scenario."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

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
    if not listing.annotated:
        raise DataError(f"{listing.reader} ({listing.folder}): no image has a mask; finetuning needs masks")
    source = listing.pool or listing.train
    n = _size(listing, len(source), fraction, n_train)
    train = tuple(_order(listing, source, seed)[:n])
    chosen = set(train)
    evaluation = tuple(number for number in listing.pool if number not in chosen) or listing.evaluation
    if not evaluation:
        raise DataError(f"{listing.reader} ({listing.folder}): its evaluation part is empty")
    return Split(train, evaluation)


def _order(listing: Listing, numbers: tuple[int, ...], seed: int) -> list[int]:
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
