"""The statistics against scipy, statsmodels and a bootstrap by hand; and few, equal or missing values."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from orchestrator.results.statistics import across, estimates, margins, paired, ranks, spread

A = [0.831, 0.802, 0.815, 0.844, 0.799]
B = [0.812, 0.795, 0.818, 0.821, 0.780]
COLUMN = ("pets", 0.05)


def row(values, *columns):
    return {(*column, seed): value for column in columns or [COLUMN] for seed, value in enumerate(values)}


# Against libraries


def test_bootstrap_is_that_of_scipy() -> None:
    found = spread.bootstrap_mean(A, level=0.9, resamples=999, seed=7)
    theirs = stats.bootstrap(
        (np.asarray(A),), np.mean, confidence_level=0.9, n_resamples=999, rng=np.random.default_rng(7)
    ).confidence_interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_bootstrap_by_hand() -> None:
    """BCa from its formula [Efron 1987] over all 5^5 resamples, instead of some of them drawn."""
    found = spread.bootstrap_mean(A, level=0.9, resamples=40_000)
    means = np.sort([np.mean(drawn) for drawn in product(A, repeat=5)])
    below = (np.sum(means < np.mean(A)) + np.sum(means <= np.mean(A))) / (2 * len(means))
    bias = stats.norm.ppf(below)
    left_out = np.asarray([np.mean(A[:n] + A[n + 1 :]) for n in range(5)])
    lean = left_out.mean() - left_out
    acceleration = np.sum(lean**3) / (6 * np.sum(lean**2) ** 1.5)
    z = bias + stats.norm.ppf([0.05, 0.95])
    low, high = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=4e-4)  # resampling error at 40,000


def test_paired_t_is_that_of_scipy() -> None:
    found = paired.compare(row(A), row(B))
    theirs = stats.ttest_rel(A, B)
    assert found.estimate is not None
    assert (found.p, found.estimate.effect) == pytest.approx((theirs.pvalue, np.mean(A) - np.mean(B)))
    interval = theirs.confidence_interval(0.9)
    assert found.estimate.interval(0.9) == pytest.approx((interval.low, interval.high))
    assert found.estimate.p_above(0.0) == pytest.approx(stats.ttest_rel(A, B, alternative="greater").pvalue)


def test_welch_from_printed_values_is_that_of_scipy() -> None:
    found = estimates.from_summaries([estimates.Term(1, 85.7, 1.8, 3), estimates.Term(-1, 84.4, 0.6, 3)])
    theirs = stats.ttest_ind_from_stats(85.7, 1.8, 3, 84.4, 0.6, 3, equal_var=False)
    assert found.effect == pytest.approx(1.3)
    assert found.p_different() == pytest.approx(theirs.pvalue)


def test_a_contrast_of_four_groups_by_hand() -> None:
    """Satterthwaite's degrees of freedom for a difference of differences."""
    terms = [estimates.Term(w, m, s, n) for w, m, s, n in ((1, 5, 1, 3), (-1, 2, 2, 4), (-1, 4, 1, 5), (1, 3, 3, 6))]
    found = estimates.from_summaries(terms)
    parts = [1 / 3, 4 / 4, 1 / 5, 9 / 6]
    df = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3 + parts[2] ** 2 / 4 + parts[3] ** 2 / 5)
    assert (found.effect, found.se, found.df) == pytest.approx((2, math.sqrt(sum(parts)), df))


@pytest.mark.parametrize("margin", [0.005, 0.02, 0.05])
def test_equivalence_is_the_tost_of_statsmodels(margin: float) -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    estimate = estimates.paired(np.subtract(A, B))
    assert estimate is not None
    theirs = weightstats.ttost_paired(np.asarray(A), np.asarray(B), -margin, margin)[0]
    assert margins.judge([estimate], "equivalence", margin, 0.05).p == pytest.approx(theirs)


def test_equivalence_is_where_the_interval_lies_within_the_margin() -> None:
    estimate = estimates.paired(np.subtract(A, B))
    assert estimate is not None
    low, high = estimate.interval(0.9) or (0, 0)
    assert margins.judge([estimate], "equivalence", high * 1.001, 0.05).answer == "holds"
    assert margins.judge([estimate], "equivalence", high * 0.999, 0.05).answer == "undecided"
    assert margins.judge([estimate], "difference", low * 0.999, 0.05).answer == "holds"
    assert margins.judge([estimate], "difference", high * 1.001, 0.05).answer == "fails"


def test_holm_is_that_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    ps = [0.03, 0.0004, 0.9, 0.012, 0.03, 0.2]
    assert paired.holm(ps) == pytest.approx(multitest.multipletests(ps, method="holm")[1])
    with_gaps = paired.holm([None, *ps[:3], None, *ps[3:]])
    assert [p for p in with_gaps if p is not None] == pytest.approx(paired.holm(ps))
    assert with_gaps[0] is None and with_gaps[4] is None


def test_interquartile_mean_is_the_trimmed_one_of_scipy() -> None:
    for n in (1, 2, 3, 4, 5, 7, 12, 50):
        values = np.random.default_rng(n).normal(size=n)
        assert across.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_probability_of_improvement_is_mann_whitneys_u() -> None:
    one, other = {"a": A, "b": [1.0, 2.0, 3.0]}, {"a": B, "b": [2.0, 2.0, 5.0]}
    shares = [stats.mannwhitneyu(one[k], other[k]).statistic / (len(one[k]) * len(other[k])) for k in one]
    assert across.probability_of_improvement(one, other) == pytest.approx(np.mean(shares))
    interval = across.improvement_interval(one, other)
    assert interval is not None and 0 <= interval.low <= np.mean(shares) <= interval.high <= 1
    assert "Agarwal" in interval.source


def test_interval_of_the_probability_of_improvement_by_hand() -> None:
    """Runs of both are drawn again within each data set; the edges agree within the error of the drawing."""
    one, other = {"a": A, "b": [1.0, 2.0, 3.0]}, {"a": B, "b": [2.0, 2.0, 5.0]}
    rng, drawn = np.random.default_rng(5), []
    for _ in range(4000):
        again = [(rng.choice(one[k], len(one[k])), rng.choice(other[k], len(other[k]))) for k in one]
        drawn.append(np.mean([stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in again]))
    found = across.improvement_interval(one, other, resamples=20_000)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.03)


def test_interval_of_the_interquartile_mean_by_hand() -> None:
    """Stratified: runs are drawn again within their data set."""
    scores = {"a": A, "b": [0.5, 0.6, 0.4]}
    rng = np.random.default_rng(3)
    drawn = [np.asarray(v)[rng.integers(len(v), size=(2000, len(v)))] for v in scores.values()]
    means = [stats.trim_mean(np.concatenate(row), 0.25) for row in zip(*drawn, strict=True)]
    found = across.iqm_interval(scores, seed=3)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


@pytest.mark.parametrize("second", [[1.0, 4.0, 3.0, 2.0], [2.0, 2.0, 1.0, 5.0], [4.0, 3.0, 2.0, 1.0]])
def test_rank_correlations_are_those_of_scipy(second: list[float]) -> None:
    first = [1.0, 2.0, 3.0, 4.0]
    assert ranks.agreement(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)
    assert ranks.agreement(first, second, "spearman") == pytest.approx(stats.spearmanr(first, second).statistic)


# Few, equal and missing values


def test_one_value_has_no_spread() -> None:
    assert spread.bootstrap_mean([0.5]) is None
    single = estimates.paired([0.2])
    assert single is not None
    assert (single.effect, single.interval(0.9), single.p_above(0), single.testable) == (0.2, None, None, False)
    assert margins.judge([single], "difference", 0, 0.05) == margins.Judged("undecided", None)


def test_two_values_have_one_degree_of_freedom() -> None:
    two = estimates.paired([1.0, 3.0])
    assert two is not None and two.df == 1
    low, high = two.interval(0.95) or (0, 0)
    assert (low, high) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)
    assert spread.bootstrap_mean([1.0, 3.0]) is None


def test_equal_values_are_one_point_and_say_so() -> None:
    same = estimates.paired([0.5, 0.5, 0.5])
    assert same is not None and "no spread" in same.note
    assert (same.interval(0.9), same.p_above(0.4), same.p_above(0.5), same.p_below(0.6)) == ((0.5, 0.5), 0, 1, 0)
    assert margins.judge([same], "equivalence", 0.6, 0.05).answer == "holds"
    rounding = estimates.paired([0.1 + 0.2, 0.3, 0.3])
    assert rounding is not None and rounding.se == 0
    boot = spread.bootstrap_mean([2.0, 2.0, 2.0])
    assert boot is not None and (boot.low, boot.high, boot.note) == (2.0, 2.0, "all values are equal")


def test_values_that_are_no_numbers_are_left_out_and_counted() -> None:
    found = estimates.paired([1.0, math.nan, 2.0, None, math.inf, 3.0])
    assert found is not None
    assert (found.n, found.left_out, found.effect) == (3, 3, 2.0)
    assert estimates.paired([math.nan, None]) is None
    assert across.interquartile_mean([math.nan]) is None


def test_only_shared_seeds_and_columns_are_compared() -> None:
    one = {("pets", 0.05, s): v for s, v in enumerate(A)} | {("pets", 0.2, s): 0.9 for s in range(5)}
    other = {("pets", 0.05, s): v for s, v in enumerate(B[:4])} | {("pets", 0.2, s): 0.8 for s in (1, 2, 3, 4)}
    found, columns, left_out = paired.differences(one, other)
    assert (sorted(found), columns, left_out) == ([1, 2, 3], 2, 2)  # seed 0 lacks one column, seed 4 the other
    assert found[1] == pytest.approx((A[1] - B[1] + 0.1) / 2)
    nothing = paired.compare(row(A), {("voc-cat", None, 0): 0.5})
    assert (nothing.estimate, nothing.p, nothing.columns) == (None, None, 0)


def test_columns_of_a_seed_are_one_unit() -> None:
    """Ten columns with the same difference give no ten times the evidence."""
    columns = [("pets", f / 10) for f in range(1, 11)]
    found = paired.compare(row(A, *columns), row(B, *columns))
    assert found.estimate is not None and found.estimate.n == 5
    assert found.p == pytest.approx(stats.ttest_rel(A, B).pvalue)


def test_a_group_of_one_run_leaves_nothing_to_test() -> None:
    found = estimates.from_summaries([estimates.Term(1, 75.2, 1.13, 3), estimates.Term(-1, 71.54, None, 1)])
    assert found.effect == pytest.approx(3.66)
    assert (found.testable, found.note) == (False, "1 of 2 groups have one run or no std")


def test_rank_intervals_need_five_seeds() -> None:
    def column(n: int) -> dict:
        one = [[0.1 + s / 100 for s in range(n)], [0.3] * n]
        return {"a": (one, [[0.5] * n, [0.2] * n])}

    assert ranks.agreement_interval(column(4), level=0.9) is None
    found = ranks.agreement_interval(column(5), level=0.9)
    assert found is not None and (found[0].low, found[0].high) == (-1, -1)
    assert ranks.agreement([1.0], [2.0]) is None
    assert ranks.agreement([1.0, 1.0], [2.0, 3.0]) is None


# Several parts


def test_a_claim_of_several_parts_holds_with_all_and_fails_with_one() -> None:
    def part(effect: float, se: float = 1.0) -> estimates.Estimate:
        return estimates.Estimate(effect, se, 1e9, 20, "", "")

    assert margins.judge([part(2), part(3)], "difference", 0, 0.05).answer == "holds"
    assert margins.judge([part(2), part(1)], "difference", 0, 0.05).answer == "undecided"
    assert margins.judge([part(-1.8), part(3)], "difference", 0, 0.05).answer == "undecided"  # p 0.036 > 0.05 / 2
    assert margins.judge([part(-2.0), part(3)], "difference", 0, 0.05).answer == "fails"  # p 0.023
    assert margins.stated([part(2), part(-1)], "difference", 0) == [True, False]
    assert margins.stated([part(0.5), part(-1.5)], "equivalence", 1) == [True, False]


def test_every_method_names_its_source() -> None:
    names = [estimates.PAIRED_SOURCE, estimates.WELCH_SOURCE, spread.BCA_SOURCE, paired.HOLM_SOURCE, across.SOURCE]
    for source in (*names, *margins.SOURCES.values(), *ranks.SOURCES.values()):
        assert any(character.isdigit() for character in source) or "margin" in source
