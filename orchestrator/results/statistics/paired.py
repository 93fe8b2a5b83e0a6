"""Two rows of a table over what they share, and many such pairs with Holm's correction."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.results.statistics.estimates import PAIRED, PAIRED_SOURCE, Estimate, paired
from orchestrator.results.statistics.spread import Interval, bootstrap_mean, finite

HOLM = "Holm's correction"
HOLM_SOURCE = "Holm 1979, Scand. J. Stat. 6(2)"

Unit = tuple[Hashable, Hashable, int]  # data set, fraction, seed
Values = Mapping[Unit, float | None]


@dataclass(frozen=True)
class Comparison:
    """Row `one` minus row `other`, over the seeds that have a value of both in every shared column.

    `estimate` is None where the rows share no seed. `p_holm` is None where nothing can be tested.
    """

    one: str
    other: str
    columns: int
    estimate: Estimate | None
    bootstrap: Interval | None
    p: float | None
    p_holm: float | None = None
    method: str = f"{PAIRED}, {HOLM}"
    source: str = f"{PAIRED_SOURCE}; {HOLM_SOURCE}"


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values in the order given; None stays None and does not count."""
    order = sorted((p, n) for n, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, n) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[n] = largest
    return adjusted


def differences(one: Values, other: Values) -> tuple[dict[int, float], int, int]:
    """For each seed the mean difference over the shared columns; how many columns; how many seeds were left out.

    Only seeds that both rows have in every shared column count, so that each mean is over the same columns.
    """
    shared = _columns(one) & _columns(other)
    seeds = {seed for *_, seed in (*one, *other)}
    found: dict[int, float] = {}
    for seed in sorted(seeds):
        pairs = [(one.get((*column, seed)), other.get((*column, seed))) for column in shared]
        steps = [a - b for a, b in pairs if a is not None and b is not None and len(finite((a, b))) == 2]
        if steps and len(steps) == len(shared):
            found[seed] = sum(steps) / len(steps)
    return found, len(shared), len(seeds) - len(found)


def compare(one: Values, other: Values, names: tuple[str, str] = ("", ""), *, level: float = 0.95) -> Comparison:
    """Two rows. The units are seeds: columns of one seed are averaged first, as they need not be independent."""
    found, columns, _ = differences(one, other)
    estimate = paired(found.values())
    p = None if estimate is None else estimate.p_different()
    return Comparison(*names, columns, estimate, bootstrap_mean(found.values(), level=level), p)


def _columns(row: Values) -> set[tuple[Hashable, Hashable]]:
    return {(dataset, fraction) for (dataset, fraction, _), value in row.items() if value is not None}
