"""A difference and how sure it is. Both ways give the same kind of `Estimate`, so that one set of tests serves both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from orchestrator.results.statistics.spread import finite

PAIRED = "paired t"
PAIRED_SOURCE = "Student 1908, Biometrika 6(1)"
WELCH = "Welch t from means and stds, unpaired"
WELCH_SOURCE = "Welch 1938, Biometrika 29(3/4); degrees of freedom: Satterthwaite 1946, Biometrics Bulletin 2(6)"
EQUAL = "no spread at all: the interval is one point"
NOISE = 1e-12  # relative; below it a spread is rounding of the sums


@dataclass(frozen=True)
class Estimate:
    """An effect with its standard error. `se` and `df` are None where there is one unit only: nothing can be tested.

    n: independent units (paired), or the smallest number of runs of a group (summaries).
    left_out: units without a finite value on each side.
    """

    effect: float
    se: float | None
    df: float | None
    n: int
    method: str
    source: str
    note: str = ""
    left_out: int = 0

    @property
    def testable(self) -> bool:
        """Whether there is a spread to test with."""
        return self.se is not None

    def p_above(self, bound: float) -> float | None:
        """p of "the true effect is at most `bound`", one-sided; None without a spread."""
        if self.se is None or self.df is None:
            return None
        if self.se == 0:
            return 0.0 if self.effect > bound else 1.0
        return float(special.stdtr(self.df, -(self.effect - bound) / self.se))

    def p_below(self, bound: float) -> float | None:
        """p of "the true effect is at least `bound`", one-sided; None without a spread."""
        return replace(self, effect=-self.effect).p_above(-bound)

    def p_different(self, bound: float = 0.0) -> float | None:
        """Two-sided p of "the true effect is `bound`"."""
        above, below = self.p_above(bound), self.p_below(bound)
        return None if above is None or below is None else min(1.0, 2 * min(above, below))

    def interval(self, level: float) -> tuple[float, float] | None:
        """Two-sided t interval; None without a spread."""
        if self.se is None or self.df is None:
            return None
        if self.se == 0:
            return self.effect, self.effect
        half = -float(special.stdtrit(self.df, (1 - level) / 2)) * self.se
        return self.effect - half, self.effect + half


@dataclass(frozen=True)
class Term:
    """One group of a contrast as a paper prints it: weight, mean, sample std (None: not printed) and number of runs."""

    weight: float
    mean: float
    std: float | None
    n: int


def paired(values: Iterable[float | None]) -> Estimate | None:
    """From one difference for each unit (seed). None where no unit has a finite value."""
    asked = list(values)
    there = finite(asked)
    left_out = len(asked) - len(there)
    if not there:
        return None
    n, effect = len(there), float(np.mean(there))
    if n == 1:
        return Estimate(effect, None, None, 1, PAIRED, PAIRED_SOURCE, "one unit, no spread", left_out)
    std = float(np.std(there, ddof=1))
    if std <= NOISE * max(1.0, max(map(abs, there))):
        return Estimate(effect, 0.0, n - 1.0, n, PAIRED, PAIRED_SOURCE, EQUAL, left_out)
    return Estimate(effect, std / math.sqrt(n), n - 1.0, n, PAIRED, PAIRED_SOURCE, "", left_out)


def from_summaries(terms: Sequence[Term]) -> Estimate:
    """The sum of weight x mean over independent groups, by the summaries that a paper prints.

    Published values give no pairs, so groups count as independent although their runs may share subsets: the interval
    is wider than that of the runs themselves where sharing helps. A group of one run without a std leaves nothing to
    test with.
    """
    effect = math.fsum(term.weight * term.mean for term in terms)
    used = [term for term in terms if term.weight]
    n = min((term.n for term in used), default=0)
    single = [term for term in used if term.std is None or term.n < 2]
    if single:
        some = f"{len(single)} of {len(used)} groups have one run or no std"
        return Estimate(effect, None, None, n, WELCH, WELCH_SOURCE, some)
    parts = [(term.weight**2 * (term.std or 0.0) ** 2 / term.n, term.n - 1) for term in used]
    variance = math.fsum(part for part, _ in parts)
    if variance == 0:
        return Estimate(effect, 0.0, float(n - 1), n, WELCH, WELCH_SOURCE, EQUAL)
    df = variance**2 / math.fsum(part**2 / dof for part, dof in parts)
    return Estimate(effect, math.sqrt(variance), df, n, WELCH, WELCH_SOURCE)
