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
Floats = npt.NDArray[np.float64]


def interquartile_mean(values: Iterable[float | None]) -> float | None:
    """Mean of the middle half of all values: a quarter of them, rounded down, is cut off at each end."""
    there = np.asarray(finite(values))
    return float(_middle(there)) if len(there) else None


def probability_of_improvement(one: Scores, other: Scores) -> float | None:
    """How likely a run of `one` beats a run of `other`, ties half, mean over the data sets that both have.

    Runs are not paired here: all of one are set against all of the other, the Mann-Whitney U over n x m.
    """
    means = [_wins(a, b).mean() for a, b in _shared(one, other)]
    return float(np.mean(means)) if means else None


def iqm_interval(scores: Scores, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval | None:
    """The interval of the interquartile mean over all runs of all data sets; None where no data set has two runs."""
    groups = [np.asarray(found) for values in scores.values() if (found := finite(values))]
    if not any(len(group) > 1 for group in groups):
        return None
    rng = np.random.default_rng(seed)
    drawn = [group[rng.integers(len(group), size=(resamples, len(group)))] for group in groups]
    return _percentile(_middle(np.concatenate(drawn, axis=1)), level, IQM)


def improvement_interval(
    one: Scores, other: Scores, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """The interval of `probability_of_improvement`; None where no data set has two runs of either."""
    shared = _shared(one, other)
    if not any(len(a) > 1 or len(b) > 1 for a, b in shared):
        return None
    rng = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    for a, b in shared:
        # How often each run is drawn is all that counts: the mean over a resample is a weighted mean of the same wins.
        ours, theirs = (rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples) / len(x) for x in (a, b))
        drawn += ((ours @ _wins(a, b)) * theirs).sum(axis=1)
    return _percentile(drawn / len(shared), level, IMPROVEMENT)


def _shared(one: Scores, other: Scores) -> list[tuple[Floats, Floats]]:
    """The runs of both in each data set where both have some."""
    pairs = [(np.asarray(finite(one[name])), np.asarray(finite(other[name]))) for name in one if name in other]
    return [(a, b) for a, b in pairs if len(a) and len(b)]


def _middle(values: Floats) -> Floats:
    """The interquartile mean along the last axis."""
    cut = values.shape[-1] // 4
    middle: Floats = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return middle


def _wins(one: Floats, other: Floats) -> Floats:
    """1 where a run of `one` beats a run of `other`, 0.5 for a tie."""
    gaps = one[:, None] - other[None, :]
    return np.asarray((gaps > 0) + 0.5 * (gaps == 0))


def _percentile(drawn: Floats, level: float, method: str) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, method, SOURCE)
