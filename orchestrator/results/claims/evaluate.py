"""Verdicts: holds, fails, undecided, or not testable with the reason; on our cells and on the published values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.grid.claims import Claim, Convergence, Equivalence, OfRows, Rank, Similarity, fits
from orchestrator.results.claims.contrasts import Contrast, NotTestable, contrasts, ranked
from orchestrator.results.claims.facts import ASSUMED, Facts, Group, slug, with_steps
from orchestrator.results.statistics.estimates import Estimate
from orchestrator.results.statistics.looks import SOURCE as LOOKS_SOURCE
from orchestrator.results.statistics.looks import Looks, Part, answer, follow
from orchestrator.results.statistics.margins import SEVERAL, SOURCES, Kind, judge, stated, to_fail
from orchestrator.results.statistics.paired import holm
from orchestrator.results.statistics.ranks import LEAST_SEEDS, agreement, agreement_interval
from orchestrator.results.statistics.ranks import METHOD as RANK_METHOD
from orchestrator.results.statistics.ranks import SOURCES as RANK_SOURCES

Answer = Literal["holds", "fails", "undecided", "not testable"]
_NOWHERE: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class PartResult:
    """One part of a claim. `stated`: whether the effect alone, certain or not, is as the claim says."""

    label: str
    effect: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    stated: bool | None = None
    look: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a set of values says of a claim. Effect, interval, n and p are those of the part that decides.

    level: of the interval; None where there is none. stated: how many parts have an effect as the claim says.
    """

    answer: Answer
    reason: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    n: int = 0
    p: float | None = None
    method: str = ""
    source: str = ""
    unit: str = ""
    parts: tuple[PartResult, ...] = ()

    @property
    def stated(self) -> int:
        """How many of the parts have an effect as the claim says."""
        return sum(bool(part.stated) for part in self.parts)


@dataclass(frozen=True)
class Finding:
    """A claim with its verdict on our cells and on the published values.

    p_holm: ours, corrected over all claims of the grid. open_parts: contrasts that further seeds could decide.
    """

    claim: Claim
    ours: Verdict
    published: Verdict
    p_holm: float | None = None
    open_parts: tuple[Contrast, ...] = field(default=(), repr=False)


def evaluate(
    claims: Sequence[Claim], ours: Facts, published: Facts | None = None, looks: Looks | None = None
) -> list[Finding]:
    """Every claim on our cells and on the published values.

    Args:
        looks: where seeds come in by looks: the verdicts on ours spend alpha over them.
    """
    findings = []
    for claim in claims:
        verdict, open_parts = _verdict(claim, ours, looks)
        printed = Verdict("not testable", "the grid names no published values")
        if published is not None:
            printed, _ = _verdict(claim, published, None)
        findings.append(Finding(claim, verdict, printed, None, open_parts))
    adjusted = holm([finding.ours.p for finding in findings])
    return [replace(finding, p_holm=p) for finding, p in zip(findings, adjusted, strict=True)]


def groups_to_go_on(findings: Sequence[Finding]) -> list[Group]:
    """The groups that get the seeds of the next look: those of the open parts of undecided claims, each once.

    A part with a group that has no value at all, all of its cells having failed, is not helped by more of them.
    """
    parts = [[group for _, group in c.terms if group.constant is None] for f in findings for c in f.open_parts]
    helped = [part for part in parts if all(any(v is not None for v in group.values.values()) for group in part)]
    return list({id(group): group for part in helped for group in part}.values())


def _verdict(claim: Claim, facts: Facts, looks: Looks | None) -> tuple[Verdict, tuple[Contrast, ...]]:
    try:
        if isinstance(claim, Similarity):
            return _similarity(claim, facts), ()
        facts = facts.together_with(claim.beside)
        if isinstance(claim, Rank):
            return _rank(claim, facts), ()
        return _of_rows(claim, facts, looks)
    except NotTestable as reason:
        return Verdict("not testable", str(reason)), ()


def _of_rows(claim: OfRows, facts: Facts, looks: Looks | None) -> tuple[Verdict, tuple[Contrast, ...]]:
    groups = list(facts.groups)
    if isinstance(claim, Convergence):
        if facts.published:
            raise NotTestable("the paper shows curves, and prints no steps")
        of_rows = [g for g in groups if fits(claim.rows, g.axes) or fits(claim.against, g.axes)]
        wanted = [g for g in of_rows if fits(claim.over, g.axes) and g.axes["metric"] == facts.metric]
        groups = with_steps(wanted, facts.histories, claim.curve, claim.share)
    found = contrasts(claim, groups, facts.metric, facts.higher_is_better)
    kind: Kind = "equivalence" if isinstance(claim, Equivalence) else "difference"
    estimates = [contrast.estimate() for contrast in found]
    if any(estimate is None for estimate in estimates):
        empty = [c.label for c, e in zip(found, estimates, strict=True) if e is None]
        return Verdict("not testable", f"no seed has a value of both rows: {empty[0]}"), tuple(found)
    there = [estimate for estimate in estimates if estimate is not None]
    unit = "steps" if isinstance(claim, Convergence) else {"percent": "points"}.get(facts.unit, facts.unit)
    if looks is None or facts.published:
        return _one_look(claim, kind, found, there, unit, facts.published), ()
    return _by_looks(claim, kind, found, there, unit, looks)


def _one_look(
    claim: OfRows, kind: Kind, found: Sequence[Contrast], there: Sequence[Estimate], unit: str, published: bool
) -> Verdict:
    judged = judge(there, kind, claim.margin, claim.alpha)
    level = 1 - 2 * claim.alpha
    intervals = [estimate.interval(level) for estimate in there]
    parts = _results(
        found, there, intervals, [judge([e], kind, claim.margin, claim.alpha).p for e in there], claim, kind
    )
    source = f"{there[0].source}; {_tests(kind, len(parts))}"
    method = there[0].method + (f", {ASSUMED}" if published and any(e.testable for e in there) else "")
    spreadless = [e for e in there if not e.testable]
    if spreadless and judged.answer == "undecided":
        why = spreadless[0].note if published else "one shared seed has no spread"
        return replace(_deciding(parts, kind, claim, "not testable", unit), reason=why)
    verdict = _deciding(parts, kind, claim, judged.answer, unit)
    return replace(verdict, level=level, method=method, source=source, reason=there[0].note if len(there) == 1 else "")


def _by_looks(
    claim: OfRows, kind: Kind, found: Sequence[Contrast], there: Sequence[Estimate], unit: str, looks: Looks
) -> tuple[Verdict, tuple[Contrast, ...]]:
    followed = [follow(c.ended(), looks, kind, claim.margin, claim.alpha, len(found)) for c in found]
    estimates = [part.estimate or estimate for part, estimate in zip(followed, there, strict=True)]
    ps = [judge([e], kind, claim.margin, claim.alpha).p for e in estimates]
    parts = _results(found, estimates, [part.interval for part in followed], ps, claim, kind)
    parts = [replace(result, look=part.look) for result, part in zip(parts, followed, strict=True)]
    verdict = replace(
        _deciding(parts, kind, claim, answer(followed), unit),
        method=f"{estimates[0].method}; {looks.method}",
        source=f"{estimates[0].source}; {_tests(kind, len(parts))}; {LOOKS_SOURCE}",
        reason=_when(followed, looks),
    )
    still = (
        () if verdict.answer != "undecided" else tuple(c for c, p in zip(found, followed, strict=True) if not p.shown)
    )
    return verdict, still


def _when(followed: Sequence[Part], looks: Looks) -> str:
    """`decided at look 2 (5 seeds)`; empty while it is open."""
    against = [part.look for part in followed if part.against and part.look]
    decided = against or ([part.look for part in followed if part.look] if all(p.shown for p in followed) else [])
    if not decided:
        return ""
    look = min(against) if against else max(decided)
    return f"decided at look {look} ({looks.sizes[look - 1]} seeds)"


def _results(
    found: Sequence[Contrast],
    estimates: Sequence[Estimate],
    intervals: Sequence[tuple[float, float] | None],
    ps: Sequence[float | None],
    claim: OfRows,
    kind: Kind,
) -> list[PartResult]:
    as_said = stated(estimates, kind, claim.margin)
    return [
        PartResult(c.label, e.effect, *(interval or _NOWHERE), p, e.n, said, None, e.note)
        for c, e, interval, p, said in zip(found, estimates, intervals, ps, as_said, strict=True)
    ]


def _deciding(parts: Sequence[PartResult], kind: Kind, claim: OfRows, answer: Answer, unit: str) -> Verdict:
    """The verdict with the numbers of the part that is least as stated."""

    def slack(part: PartResult) -> float:
        effect = part.effect or 0.0
        return effect - claim.margin if kind == "difference" else claim.margin - abs(effect)

    part = min(parts, key=lambda p: (-(p.p or 0.0), slack(p))) if answer != "fails" else min(parts, key=slack)
    return Verdict(answer, "", part.effect, part.low, part.high, None, part.n, part.p, unit=unit, parts=tuple(parts))


def _tests(kind: Kind, parts: int) -> str:
    return SOURCES[kind] + (f"; {SEVERAL}" if parts > 1 or len(to_fail(kind, 0.0)) > 1 else "")


def _similarity(claim: Similarity, facts: Facts) -> Verdict:
    """The order of single values: each model was trained once, so there is no error rate to state."""
    if facts.published:
        raise NotTestable("the paper shows the matrix as a picture, and prints no values")
    results = facts.analyses.get(claim.analysis, ())
    if not results:
        raise NotTestable(f"no analysis {claim.analysis} of this plan is finished")
    among = [(a, b) for n, a in enumerate(claim.among) for b in claim.among[n + 1 :]]
    across = [(a, b) for a in claim.among for b in claim.than]
    values = {pair: _similar(claim.analysis, pair, results) for pair in (*among, *across)}
    inner, outer = [values[pair] for pair in among], [values[pair] for pair in across]
    low, high = (min(inner), max(outer)) if claim.each else (sum(inner) / len(inner), sum(outer) / len(outer))
    parts = tuple(
        PartResult(f"{a} with {b}", value, n=1, stated=value > high + claim.margin if (a, b) in among else None)
        for (a, b), value in values.items()
    )
    kind = "least alike of the one kind less most alike of the other" if claim.each else "difference of the means"
    return Verdict(
        "holds" if low - high > claim.margin else "fails",
        "one training of each model: no error rate",
        low - high,
        n=len(values),
        method=f"{kind}, order of {claim.analysis.upper()} values",
        source="linear CKA: Kornblith et al. 2019, arXiv:1905.00414",
        parts=parts,
    )


def _similar(analysis: str, pair: tuple[str, str], results: Sequence[object]) -> float:
    names = [f"{analysis}/{slug(a)}/{slug(b)}" for a, b in (pair, pair[::-1])]
    for metrics in results:
        for name in names:
            if isinstance(metrics, dict) and name in metrics:
                return float(metrics[name])
    raise NotTestable(f"the analysis {analysis} has no models {pair[0]} and {pair[1]}")


def _rank(claim: Rank, facts: Facts) -> Verdict:
    columns = ranked(claim, facts.groups, facts.metric)
    means: list[PartResult] = []
    for column, rows in columns.items():
        pairs = [(_value(one), _value(other)) for _, one, other in rows]
        if any(a is None or b is None for a, b in pairs):
            raise NotTestable(f"a row has no value in {column}")
        tau = agreement(
            [a for a, _ in pairs if a is not None], [b for _, b in pairs if b is not None], claim.coefficient
        )
        said = None if tau is None else (tau < claim.margin) == (claim.expect == "differ")
        means.append(PartResult(column, tau, n=len(rows), stated=said))
    known = [part.effect for part in means if part.effect is not None]
    if not known:
        raise NotTestable("all rows are equal")
    effect = sum(known) / len(known)
    source = RANK_SOURCES[claim.coefficient]
    verdict = Verdict("undecided", effect=effect, method=f"{claim.coefficient}, {RANK_METHOD}", source=source)
    verdict = replace(verdict, parts=tuple(means))
    series = {column: _aligned(rows) for column, rows in columns.items()}
    level = 1 - 2 * claim.alpha
    found = None if facts.published else agreement_interval(series, claim.coefficient, level=level)
    if found is None:
        why = "ranks of printed means have no error" if facts.published else f"fewer than {LEAST_SEEDS} seeds"
        return replace(
            verdict, answer="not testable", reason=f"{why}: the order alone is told", method=claim.coefficient
        )
    interval, drawn = found
    below = interval.high < claim.margin
    above = interval.low > claim.margin
    wrong = [d >= claim.margin if claim.expect == "differ" else d <= claim.margin for d in drawn]
    as_said, against = (below, above) if claim.expect == "differ" else (above, below)
    return replace(
        verdict,
        answer="holds" if as_said else "fails" if against else "undecided",
        low=interval.low,
        high=interval.high,
        level=level,
        n=min(len(row) for pair in series.values() for rows in pair for row in rows),
        p=(1 + sum(wrong)) / (1 + len(drawn)),
    )


def _aligned(rows: Sequence[tuple[str, Group, Group]]) -> tuple[list[list[float]], list[list[float]]]:
    """The values of each row in both settings, by the seeds that all of them have."""
    seeds = set.intersection(*({s for s, v in g.values.items() if v is not None} for _, *both in rows for g in both))
    order = sorted(seeds)
    one, other = (
        [[group.values[s] or 0.0 for s in order] for group in side] for side in zip(*(r[1:] for r in rows), strict=True)
    )
    return one, other


def _value(group: Group) -> float | None:
    if group.printed is not None:
        return group.printed.mean
    there = _full(group)
    return sum(there) / len(there) if there else group.constant


def _full(group: Group) -> list[float]:
    return [value for _, value in sorted(group.values.items()) if value is not None]
