"""Looking several times while seeds come in, with the error rate of one look: alpha is spent over the looks.

Each look may spend what the rule's function alpha*(t) has grown since the last one, t being the share of the most seeds
that there are [Lan & DeMets 1983, Biometrika 70(3)]. Where the spread is known, the bound of each look follows from
sums of independent increments by numerical integration [Armitage, McPherson & Rowe 1969, J. R. Stat. Soc. A 132(2)]:
`levels`. Claims are tested by t, with few seeds and a spread of their own: `t_levels`, exact for normal differences.
`tests/benchmarks/results/looks.txt` has the observed rates.

Each statement is made of one-sided hypotheses (`margins.to_hold`, `margins.to_fail`), each with an alpha of its own.
What was shown at one look stays shown: the chance ever to show what is false is at most that alpha, at whatever look
sampling ends. So a part of a claim that is shown needs no further seeds, although others do.

pocock spends evenly, obrien-fleming nearly nothing before the half: with looks at 3, 5, 10 and 20 seeds and alpha 0.05
their levels are 0.011, 0.0083, 0.016, 0.025 and 0.0000004, 0.00009, 0.0055, 0.047. So pocock is the rule that saves
seeds, and obrien-fleming the one that loses nothing at the last look.

A t test of few seeds trusts that differences lie evenly about their mean. Where they are as skewed as exponential ones
it errs up to three times as often, with one look as with several: no rule of looks mends that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from orchestrator.results.statistics.estimates import Estimate, paired
from orchestrator.results.statistics.margins import Answer, Hypothesis, Kind, to_fail, to_hold
from orchestrator.results.statistics.repeated_t import repeated_t_levels

Rule = Literal["pocock", "obrien-fleming"]
DEFAULT: Rule = "pocock"
NAMES: dict[Rule, str] = {
    "pocock": "alpha spending, Pocock type",
    "obrien-fleming": "alpha spending, O'Brien-Fleming type",
}
SOURCE = (
    "Lan & DeMets 1983, Biometrika 70(3); exact for repeated t tests, cf. Jennison & Turnbull 1991, Biometrika 78(1)"
)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(384)
_FAR = 8.5  # standard deviations; nothing lies beyond


def _pocock(alpha: float, t: float) -> float:
    return alpha * math.log(1 + (math.e - 1) * t)


def _obrien_fleming(alpha: float, t: float) -> float:
    return 2 * float(special.ndtr(float(special.ndtri(alpha / 2)) / math.sqrt(t)))


_RULES: dict[Rule, Callable[[float, float], float]] = {"pocock": _pocock, "obrien-fleming": _obrien_fleming}


@dataclass(frozen=True)
class Looks:
    """Seeds at each look, ascending; the last is the most that is ever run."""

    sizes: tuple[int, ...] = (3, 5, 10, 20)
    rule: Rule = DEFAULT

    @property
    def method(self) -> str:
        """The rule by its name, for the output."""
        return f"{NAMES[self.rule]}, looks at {', '.join(map(str, self.sizes))} seeds"


def spent(rule: Rule, alpha: float, t: float) -> float:
    """alpha*(t): how much of alpha may be spent until the share `t` of all seeds is there."""
    return _RULES[rule](alpha, min(t, 1.0)) if t > 0 else 0.0


@lru_cache(maxsize=4096)
def levels(shares: tuple[float, ...], alpha: float, rule: Rule = DEFAULT) -> tuple[float, ...]:
    """The level of the one-sided p at each look, for a spread that is known.

    Args:
        shares: of all information at each look, ascending, at most 1.
        alpha: one-sided error rate over all looks together.
    """
    found: list[float] = []
    before, used = _Density(np.zeros(1), np.ones(1), 0.0), 0.0
    for t in shares:
        may = spent(rule, alpha, t) - used
        bound = before.bound(t, may)
        found.append(float(special.ndtr(-bound)))
        before, used = before.after(t, bound), used + max(may, 0.0)
    return tuple(found)


@lru_cache(maxsize=4096)
def t_levels(sizes: tuple[int, ...], most: int, alpha: float, rule: Rule = DEFAULT) -> tuple[float, ...]:
    """The level of the one-sided p of a t test at each look.

    Args:
        sizes: values at each look, ascending, at least 2.
        most: the most there ever are, when all of alpha may be spent.
    """
    return repeated_t_levels(sizes, lambda size: spent(rule, alpha, size / most))


@dataclass(frozen=True)
class _Density:
    """Where a Brownian motion that has crossed no bound yet is at time `t`: nodes with their probability mass."""

    nodes: npt.NDArray[np.float64]
    mass: npt.NDArray[np.float64]
    t: float

    def bound(self, t: float, may: float) -> float:
        """The z above which the motion is at `t` with probability `may`."""
        if may <= 1e-15:
            return math.inf
        low, high = -_FAR, _FAR
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if self._crosses(t, middle) > may else (low, middle)
        return high

    def after(self, t: float, bound: float) -> _Density:
        """The density at `t` below the bound."""
        root = math.sqrt(t)
        top = min(bound, _FAR) * root
        nodes = (top + _FAR * root) / 2 * _NODES + (top - _FAR * root) / 2
        scale = math.sqrt(t - self.t)
        kernel = np.exp(-0.5 * ((nodes[:, None] - self.nodes) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
        return _Density(nodes, (top + _FAR * root) / 2 * _WEIGHTS * (kernel @ self.mass), t)

    def _crosses(self, t: float, z: float) -> float:
        distance = (z * math.sqrt(t) - self.nodes) / math.sqrt(t - self.t)
        return float(self.mass @ special.ndtr(-distance))


@dataclass(frozen=True)
class Part:
    """Where one part of a claim stands after the looks so far.

    shown: all that must be shown for it to hold is shown; against: that it does not hold is shown.
    look: the number of the look that decided it, from 1; None while it is open.
    interval: repeated confidence interval at the last look [Jennison & Turnbull 1989, J. R. Stat. Soc. B 51(3)].
    """

    estimate: Estimate | None
    shown: bool
    against: bool
    look: int | None
    interval: tuple[float, float] | None


def follow(
    values: Sequence[float | None], looks: Looks, kind: Kind, margin: float, alpha: float, parts: int = 1
) -> Part:
    """Go through the looks that the values of one part allow.

    Args:
        values: the paired differences in the order of the seeds; None or nan: the seed has no value, though it ran.
            A look is taken when all its seeds are in the list; its share of information counts those with a value.
        parts: of the claim, among which alpha is shared out for showing the opposite.
    """
    state, sizes = _Following(kind, margin, alpha, parts, looks), list[int]()
    for number, size in enumerate((s for s in looks.sizes if s <= len(values)), start=1):
        estimate = paired(values[:size])
        if estimate is None or estimate.n <= max(sizes, default=1):
            continue  # nothing new to look at, or no spread
        sizes.append(estimate.n)
        state.look(number, estimate, tuple(sizes))
    return state.part()


class _Following:
    def __init__(self, kind: Kind, margin: float, alpha: float, parts: int, looks: Looks) -> None:
        self.alpha, self.looks = alpha, looks
        self.needed, self.against = to_hold(kind, margin), to_fail(kind, margin, parts)
        self.open = [True] * len(self.needed)
        self.shown_against = False
        self.decided: int | None = None
        self.estimate: Estimate | None = None
        self.interval: tuple[float, float] | None = None

    def look(self, number: int, estimate: Estimate, sizes: tuple[int, ...]) -> None:
        """Take one look; a part that is decided stays so."""
        self.estimate = estimate
        self.interval = estimate.interval(1 - 2 * self._level(sizes, 1.0))
        if self.decided is not None:
            return
        still_open = zip(self.open, self.needed, strict=True)
        self.open = [still and not self._rejects(h, sizes) for still, h in still_open]
        self.shown_against = any(self._rejects(h, sizes) for h in self.against)
        if self.shown_against or not any(self.open):
            self.decided = number

    def _rejects(self, hypothesis: Hypothesis, sizes: tuple[int, ...]) -> bool:
        assert self.estimate is not None
        p = hypothesis.p(self.estimate)
        return p is not None and p <= self._level(sizes, hypothesis.share)

    def _level(self, sizes: tuple[int, ...], share: float) -> float:
        return t_levels(sizes, self.looks.sizes[-1], self.alpha * share, self.looks.rule)[-1]

    def part(self) -> Part:
        """Where it stands now. Both at once cannot be shown but by two wrong steps; then neither is."""
        shown = not any(self.open)
        if shown and self.shown_against:
            return Part(self.estimate, False, False, None, self.interval)
        return Part(self.estimate, shown, self.shown_against, self.decided, self.interval)


def answer(parts: Iterable[Part]) -> Answer:
    """The claim's answer from its parts."""
    all_ = list(parts)
    if any(part.against for part in all_):
        return "fails"
    return "holds" if all_ and all(part.shown for part in all_) else "undecided"
