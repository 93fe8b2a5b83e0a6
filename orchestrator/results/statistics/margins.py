"""Against a margin: is an effect above it, is it within it, and is it surely not. Three answers, never two.

A statement may have several parts ("in each column"). It holds when each part holds at alpha: an intersection-union
test, which needs no correction. It fails when some part surely does not hold, at alpha shared out among the parts
(Bonferroni; Holm's first step, the only one that "some part" needs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.results.statistics.estimates import Estimate

Kind = Literal["difference", "equivalence"]
Side = Literal["above", "below"]
Answer = Literal["holds", "fails", "undecided"]

SOURCES: dict[Kind, str] = {
    "difference": "one-sided tests against the margin (non-inferiority where it is negative)",
    "equivalence": "two one-sided tests, TOST: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15(6)",
}
SEVERAL = (
    "each part at alpha to hold: intersection-union, Berger 1982, Technometrics 24(4); any part at alpha/parts to fail"
)


@dataclass(frozen=True)
class Hypothesis:
    """What is to be shown of an effect: that it lies on one side of a bound. `share` of alpha it may spend."""

    side: Side
    bound: float
    share: float = 1.0

    def p(self, estimate: Estimate) -> float | None:
        """p of the opposite; None where there is no spread."""
        return estimate.p_above(self.bound) if self.side == "above" else estimate.p_below(self.bound)


@dataclass(frozen=True)
class Judged:
    """`p`: the largest of those that must be small for the statement to hold."""

    answer: Answer
    p: float | None


def to_hold(kind: Kind, margin: float) -> tuple[Hypothesis, ...]:
    """All of these must be shown of each part."""
    if kind == "difference":
        return (Hypothesis("above", margin),)
    return Hypothesis("above", -margin), Hypothesis("below", margin)


def to_fail(kind: Kind, margin: float, parts: int = 1) -> tuple[Hypothesis, ...]:
    """One of these is enough, of any part; together they spend alpha."""
    if kind == "difference":
        return (Hypothesis("below", margin, 1 / parts),)
    return Hypothesis("above", margin, 0.5 / parts), Hypothesis("below", -margin, 0.5 / parts)


def judge(parts: Sequence[Estimate], kind: Kind, margin: float, alpha: float) -> Judged:
    """The answer of a statement about the effects of `parts`; undecided where one has no spread.

    Args:
        kind: difference: each effect is above `margin`; equivalence: each lies within -margin .. margin.
        alpha: error rate of a wrong "holds", and of a wrong "fails".
    """
    needed = list(_ps(parts, to_hold(kind, margin)))
    known = [p for p in needed if p is not None]
    p = max(known) if known and len(known) == len(needed) else None
    if p is not None and p <= alpha:
        return Judged("holds", p)
    against = to_fail(kind, margin, len(parts))
    if any(q is not None and q <= alpha * h.share for h in against for q in _ps(parts, (h,))):
        return Judged("fails", p)
    return Judged("undecided", p)


def stated(parts: Sequence[Estimate], kind: Kind, margin: float) -> list[bool]:
    """Of each part, whether its effect alone, certain or not, is as stated."""
    if kind == "difference":
        return [part.effect > margin for part in parts]
    return [abs(part.effect) < margin for part in parts]


def _ps(parts: Sequence[Estimate], hypotheses: Sequence[Hypothesis]) -> Iterator[float | None]:
    return (h.p(part) for part in parts for h in hypotheses)
