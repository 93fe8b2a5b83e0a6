"""How long training is, in optimiser steps: of epochs, of the lengths that a study tries, and up to its rungs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from orchestrator.grid.schema import Tune
from trainables.data import Listing
from trainables.data.suited import LEAST_IMAGES, held_out, suited
from trainables.settings import PRETEXT_SETTINGS


def steps_of(dials: Mapping[str, Any], images: int) -> int:
    """Optimiser steps: `steps`, or those of the `epochs` where they are asked for and the images are known.

    Args:
        images: those that are trained on.
    """
    if dials.get("epochs") and images:
        return math.ceil(Fraction(str(dials["epochs"])) * images / int(dials["batch"]))
    return int(dials.get("steps", 0))


def seen_by(pretext: Mapping[str, Any], listing: Listing) -> int:
    """How many images of a dataset a pretext sees: those with the mask or label that it needs."""
    return len(suited(listing, PRETEXT_SETTINGS[pretext["method"]].needs))


def trained_on(pretext: Mapping[str, Any], pretrain: Mapping[str, Any], images: int) -> int:
    """How many of the images that a pretext sees train it; the others are held out for its validation."""
    share = pretext.get("validation_share")
    wanted = min(pretrain["validation_images"], images // 10) if share is None else round(share * images)
    return images - held_out(images, wanted) if images > LEAST_IMAGES else 0


def in_steps(pretext: Mapping[str, Any], pretrain: Mapping[str, Any], listing: Listing | None) -> dict[str, Any]:
    """The complete `pretrain` section with its epochs as steps, for what counts in steps.

    Args:
        listing: the data that the pretext sees; without it, as the data are absent, the steps stay what they were.
    """
    if pretrain["epochs"] is None:
        return dict(pretrain)
    images = 0 if listing is None else trained_on(pretext, pretrain, seen_by(pretext, listing))
    return {**pretrain, "steps": steps_of(pretrain, images), "epochs": None}


def lengths(tune: Tune, full: int, every: int) -> tuple[int, ...]:
    """The steps that `tune.lengths` stands for, ascending, each at a point of the curve as far as there are such.

    Args:
        full: steps of the grid's own pretraining; length 1 is just that.
        every: steps between two points of the curve.
    """
    found = set()
    for share in tune.lengths:
        steps = round(share * full)
        on_curve = round(steps / every) * every
        found.add(full if share == 1 else max(1, on_curve or steps))
    return tuple(sorted(found))


def rungs(tune: Tune, longest: int, every: int) -> tuple[int, ...]:
    """The steps at which a trial may be given up: `least` x factor^k of the longest, each at a point of the curve."""
    if tune.pruning is None:
        return ()
    found, share = set[int](), tune.pruning.least
    while share < 0.999:
        found.add(max(1, round(share * longest / every)) * every)
        share *= tune.pruning.factor
    return tuple(sorted(step for step in found if step < longest))
