"""Whether two orders of the same rows agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from orchestrator.results.statistics.spread import Interval

Coefficient = Literal["kendall", "spearman"]
SOURCES: dict[Coefficient, str] = {
    "kendall": "Kendall 1945, Biometrika 33(3), tau-b",
    "spearman": "Spearman 1904, Am. J. Psychol. 15(1)",
}
METHOD = "percentile bootstrap over seeds"
LEAST_SEEDS = 5  # three seeds give 10 different resamples: no interval worth the name

Row = Sequence[float]  # one value for each seed


def agreement(first: Sequence[float], second: Sequence[float], coefficient: Coefficient = "kendall") -> float | None:
    """Rank correlation of the values of the same rows, -1 .. 1; None below two rows, or where one list is all ties."""
    if len(first) < 2:
        return None
    if coefficient == "kendall":
        pairs = [(i, j) for j in range(len(first)) for i in range(j)]
        a = np.sign([first[i] - first[j] for i, j in pairs])
        b = np.sign([second[i] - second[j] for i, j in pairs])
    else:
        a, b = (_ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else None


def agreement_interval(
    columns: Mapping[str, tuple[Sequence[Row], Sequence[Row]]],
    coefficient: Coefficient = "kendall",
    *,
    level: float,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Interval, list[float]] | None:
    """Interval of the mean agreement over columns, and the resampled values; None below five seeds.

    Args:
        columns: for each column the values of the rows in the one and in the other setting, each row a list by seed.
            Seeds are drawn again together for all rows and columns, since they share subsets.
    """
    seeds = min((len(row) for pair in columns.values() for rows in pair for row in rows), default=0)
    if seeds < LEAST_SEEDS:
        return None
    rng = np.random.default_rng(seed)
    pairs = [tuple(np.asarray([row[:seeds] for row in rows]) for rows in pair) for pair in columns.values()]
    drawn: list[float] = []
    for _ in range(resamples):
        chosen = rng.integers(seeds, size=seeds)
        found = [agreement(a[:, chosen].mean(1), b[:, chosen].mean(1), coefficient) for a, b in pairs]
        there = [value for value in found if value is not None]
        drawn += [float(np.mean(there))] if there else []
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, METHOD, SOURCES[coefficient]), drawn


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Ranks from 1, ties sharing the mean of theirs."""
    found = np.asarray(values, dtype=float)
    return np.asarray([(found < v).sum() + ((found == v).sum() + 1) / 2 for v in found], dtype=float)
