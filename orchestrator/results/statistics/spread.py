"""Mean, sample standard deviation and bootstrap interval of the values of one group."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_FOR_BOOTSTRAP = 3
BCA = "bias-corrected and accelerated bootstrap"
BCA_SOURCE = "Efron 1987, J. Am. Stat. Assoc. 82(397); scipy.stats.bootstrap"


@dataclass(frozen=True)
class Interval:
    """A confidence interval with the method that made it."""

    low: float
    high: float
    level: float
    method: str
    source: str
    note: str = ""


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are numbers: None, nan and infinities left out, order kept."""
    return [float(v) for v in values if v is not None and math.isfinite(v)]


def bootstrap_mean(
    values: Iterable[float | None], *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Interval | None:
    """BCa interval of the mean; None below three values, where resampling can say nothing.

    Few values give few different resamples (10 for three), so that the interval is too narrow: the note gives their
    number, and `tests/benchmarks/results/looks.txt` how often it held the truth.
    """
    there = finite(values)
    if len(there) < LEAST_FOR_BOOTSTRAP:
        return None
    if max(there) == min(there):
        return Interval(there[0], there[0], level, BCA, BCA_SOURCE, "all values are equal")
    low, high = _bca(there, level, resamples, seed)
    distinct = math.comb(2 * len(there) - 1, len(there))
    note = f"{len(there)} values, {distinct} different resamples" if distinct < resamples else ""
    return Interval(low, high, level, BCA, BCA_SOURCE, note)


def _bca(values: Sequence[float], level: float, resamples: int, seed: int) -> tuple[float, float]:
    from scipy.stats import bootstrap  # a second to import

    data: tuple[npt.NDArray[np.float64]] = (np.asarray(values),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of too few different resamples, which the note tells
        found = bootstrap(
            data, np.mean, confidence_level=level, n_resamples=resamples, method="BCa",
            rng=np.random.default_rng(seed), vectorized=True,
        )  # fmt: skip
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    return (low if math.isfinite(low) else min(values)), (high if math.isfinite(high) else max(values))
