"""Over several data sets at once [Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice", NeurIPS]."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.results.statistics.spread import Interval, finite

SOURCE = "Agarwal et al. 2021, NeurIPS 34 (rliable)"
IQM = "interquartile mean, stratified percentile bootstrap"
IMPROVEMENT = "probability of improvement, stratified percentile bootstrap"

Scores = Mapping[str, Sequence[float | None]]  # data set -> one value for each run


def interquartile_mean(values: Iterable[float | None]) -> float | None:
    """Mean of the middle half of all values: a quarter of them, rounded down, is cut off at each end."""
    there = np.sort(np.asarray(finite(values)))
    cut = len(there) // 4
    return float(there[cut : len(there) - cut].mean()) if len(there) else None


def probability_of_improvement(one: Scores, other: Scores) -> float | None:
    """How likely a run of `one` beats a run of `other`, ties half, mean over the data sets that both have.

    Runs are not paired here: all of one are set against all of the other, the Mann-Whitney U over n x m.
    """
    shared = [(finite(one[name]), finite(other[name])) for name in one if name in other]
    means = [_beats(np.asarray(a), np.asarray(b)) for a, b in shared if a and b]
    return float(np.mean(means)) if means else None


def iqm_interval(scores: Scores, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval | None:
    """The interval of the interquartile mean over all runs of all data sets; None where no data set has two runs."""
    groups = [np.asarray(found) for values in scores.values() if (found := finite(values))]
    if not any(len(group) > 1 for group in groups):
        return None
    rng = np.random.default_rng(seed)
    drawn = [interquartile_mean(np.concatenate([_again(group, rng) for group in groups])) for _ in range(resamples)]
    return _percentile([value for value in drawn if value is not None], level, IQM)


def improvement_interval(
    one: Scores, other: Scores, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """The interval of `probability_of_improvement`; None where no data set has two runs of either."""
    shared = [(np.asarray(finite(one[n])), np.asarray(finite(other[n]))) for n in one if n in other]
    shared = [(a, b) for a, b in shared if len(a) and len(b)]
    if not any(len(a) > 1 or len(b) > 1 for a, b in shared):
        return None
    rng = np.random.default_rng(seed)
    drawn = [float(np.mean([_beats(_again(a, rng), _again(b, rng)) for a, b in shared])) for _ in range(resamples)]
    return _percentile(drawn, level, IMPROVEMENT)


def _beats(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    wins = one[:, None] - other[None, :]
    return float(np.mean((wins > 0) + 0.5 * (wins == 0)))


def _again(group: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return group[rng.integers(len(group), size=len(group))]


def _percentile(drawn: Sequence[float], level: float, method: str) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, method, SOURCE)
