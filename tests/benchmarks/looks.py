"""Error rates of the tests of claims, and what looking several times saves.

    python -m tests.benchmarks.looks [--studies 400] [--repeats 20000]

Nominal against observed, with the Monte Carlo error (one standard error). Everything runs the product's own code.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.grid.claims import Claim, Equivalence, parse_claims
from orchestrator.grid.load import load_request
from orchestrator.results.claims.contrasts import contrasts
from orchestrator.results.claims.evaluate import evaluate, groups_to_go_on
from orchestrator.results.claims.facts import Facts, Group, facts_of_references
from orchestrator.results.references import load
from orchestrator.results.statistics.estimates import paired
from orchestrator.results.statistics.looks import Looks, Rule, answer, follow
from orchestrator.results.statistics.margins import Kind, judge
from orchestrator.results.statistics.spread import bootstrap_mean

ALPHA, SIZES = 0.05, (3, 5, 10, 20)
RULES: tuple[Rule, ...] = ("pocock", "obrien-fleming")
MARGINS: dict[Kind, float] = {"difference": 0.0, "equivalence": 1.0}
ON_MARGIN: tuple[tuple[Kind, float], ...] = (("difference", 0.0), ("equivalence", 1.0))
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
SHAPES: dict[str, Draw] = {  # mean 0, std 1
    "normal": lambda rng, size: rng.standard_normal(size),
    "skewed": lambda rng, size: 1 - rng.exponential(size=size),
    "heavy tails": lambda rng, size: rng.standard_t(4, size) / np.sqrt(2),
}


@dataclass(frozen=True)
class Rate:
    """A share of repeats with its Monte Carlo error."""

    count: int
    of: int

    def __str__(self) -> str:
        share = self.count / self.of
        return f"{share:.4f} ± {np.sqrt(max(share * (1 - share), 1 / self.of) / self.of):.4f}"

    def within(self, nominal: float, errors: float = 3.0) -> bool:
        """Whether it is at most nominal, less what chance allows."""
        return self.count / self.of <= nominal + errors * float(np.sqrt(nominal * (1 - nominal) / self.of))


def one_look_errors(repeats: int, seed: int = 0) -> Iterator[tuple[str, str, Rate, Rate]]:
    """Wrong "holds" and wrong "fails" of one test at n seeds, the truth on the margin: where both are most frequent."""
    rng = np.random.default_rng(seed)
    for shape, draw in SHAPES.items():
        for kind, truth in ON_MARGIN:
            for n in SIZES:
                found = Counter(one_look(row, kind, MARGINS[kind]) for row in truth + draw(rng, (repeats, n)))
                yield f"{kind}, {shape}", str(n), Rate(found["holds"], repeats), Rate(found["fails"], repeats)


def one_look(values: Sequence[float] | np.ndarray, kind: Kind, margin: float) -> str:
    """The answer of one test over all values."""
    estimate = paired(values)
    assert estimate is not None
    return judge([estimate], kind, margin, ALPHA).answer


def by_looks(values: Sequence[float] | np.ndarray, kind: Kind, margin: float, rule: Rule) -> tuple[str, int]:
    """The answer of the looks, and how many seeds it took."""
    looks = Looks(SIZES, rule)
    for size in SIZES:
        part = follow(list(values[:size]), looks, kind, margin, ALPHA)
        if part.look is not None:
            return answer([part]), size
    return "undecided", SIZES[-1]


def look_errors(repeats: int, seed: int = 1) -> Iterator[tuple[str, str, Rate, Rate]]:
    """The same over all looks together."""
    rng = np.random.default_rng(seed)
    for shape, draw in SHAPES.items():
        for rule in RULES:
            for kind, truth in ON_MARGIN:
                drawn = truth + draw(rng, (repeats, SIZES[-1]))
                found = Counter(by_looks(row, kind, MARGINS[kind], rule)[0] for row in drawn)
                yield f"{kind}, {shape}", rule, Rate(found["holds"], repeats), Rate(found["fails"], repeats)


def coverage(repeats: int, seed: int = 2) -> Iterator[tuple[int, Rate, Rate]]:
    """How often 95 % intervals of a mean hold the truth: by t, and by BCa bootstrap."""
    rng = np.random.default_rng(seed)
    for n in SIZES:
        hits = [0, 0]
        for values in rng.standard_normal((repeats, n)):
            estimate, boot = paired(values), bootstrap_mean(values, resamples=999)
            assert estimate is not None and boot is not None
            low, high = estimate.interval(0.95) or (0.0, 0.0)
            hits[0] += low <= 0 <= high
            hits[1] += boot.low <= 0 <= boot.high
        yield n, Rate(hits[0], repeats), Rate(hits[1], repeats)


@dataclass
class Tally:
    """What looks gave against 20 seeds everywhere."""

    claims: int = 0
    off: int = 0
    agree: int = 0
    agree_off: int = 0
    opposite: int = 0
    wrong: int = 0
    wrong_full: int = 0
    runs: int = 0
    full_runs: int = 0
    runs_off: int = 0  # where claims have cells of their own
    full_runs_off: int = 0

    def lines(self) -> list[str]:
        """The tally as the study's result."""
        most, share = SIZES[-1], self.runs / self.full_runs
        agree, agree_off = Rate(self.agree, self.claims), Rate(self.agree_off, self.off)
        return [
            f"  claims {self.claims}, of them off their margins {self.off}",
            f"  agree with {most} seeds everywhere: off margins {agree_off}, all {agree}",
            f"  opposite verdicts (holds against fails): {Rate(self.opposite, self.claims)}",
            f"  wrong verdicts: by looks {Rate(self.wrong, self.claims)},"
            f" with {most} seeds {Rate(self.wrong_full, self.claims)}",
            f"  runs {self.runs} of {self.full_runs}: {share:.3f}{self._off()}",
        ]

    def _off(self) -> str:
        return f"; of claims off their margins: {self.runs_off / self.full_runs_off:.3f}" if self.full_runs_off else ""

    def add(self, looks: str, full: str, truth: str, off: bool) -> None:
        """One claim with both verdicts and the truth."""
        self.claims += 1
        self.off += off
        self.agree += looks == full
        self.agree_off += off and looks == full
        self.opposite += {looks, full} == {"holds", "fails"}
        self.wrong += looks != "undecided" and looks != truth
        self.wrong_full += full != "undecided" and full != truth


def made_up_study(studies: int, rule: Rule, seed: int = 3) -> Tally:
    """Claims on cells of their own, half differences, half equivalences within 2 std; effects uniform in -4 .. 4 std.

    Off its margin: by at least one std of the paired differences.
    """
    rng, tally = np.random.default_rng(seed), Tally()
    for _ in range(studies * 20):
        kind: Kind = "difference" if rng.random() < 0.5 else "equivalence"
        margin, effect = (0.0 if kind == "difference" else 2.0), float(rng.uniform(-4, 4))
        values = effect + rng.standard_normal(SIZES[-1])
        distance = effect if kind == "difference" else margin - abs(effect)
        found, seeds = by_looks(values, kind, margin, rule)
        full = one_look(values, kind, margin)
        off = abs(distance) >= 1
        tally.add(found, full, "holds" if distance > 0 else "fails", off)
        tally.runs += 2 * seeds
        tally.full_runs += 2 * SIZES[-1]
        tally.runs_off += 2 * seeds * off
        tally.full_runs_off += 2 * SIZES[-1] * off
    return tally


def study_like_paper(grid: str, studies: int, rule: Rule, seed: int = 4, shared: float = 0.5) -> Tally:
    """A grid's own claims on runs whose true means and stds are the published ones.

    Half of the variance of a run is the luck of its subset, which all rows of a column share. Cells get the seeds of
    the next look while a claim about them is open.
    """
    asked = load_request(grid).grid
    claims = [c for c in parse_claims(asked.claims) if c.test in ("difference", "equivalence", "strongest")]
    truth = facts_of_references(load(grid), asked.table.model_dump())
    rng, tally = np.random.default_rng(seed), Tally()
    true = {claim.id: _truth(claim, truth, shared) for claim in claims}
    for _ in range(studies):
        everything = _runs(truth, rng, shared)
        full = {f.claim.id: f.ours.answer for f in evaluate(claims, everything)}
        looks, used = _look_study(claims, everything, rule)
        for claim in claims:
            holds, off = true[claim.id]
            tally.add(looks[claim.id], full[claim.id], "holds" if holds else "fails", off)
        tally.runs += used
        tally.full_runs += SIZES[-1] * len(everything.groups)
    return tally


def _look_study(claims: Sequence[Claim], everything: Facts, rule: Rule) -> tuple[dict[str, str], int]:
    """Verdicts, and how many runs they took."""
    seeds = [SIZES[0]] * len(everything.groups)
    for size in (*SIZES[1:], 0):
        held = [
            replace(g, values=dict(list(g.values.items())[:n])) for g, n in zip(everything.groups, seeds, strict=True)
        ]
        facts = replace(everything, groups=tuple(held))
        findings = evaluate(claims, facts, looks=Looks(SIZES, rule))
        wanted = {id(group) for group in groups_to_go_on(findings)}
        if not wanted or not size:
            break
        seeds = [size if id(group) in wanted else n for group, n in zip(held, seeds, strict=True)]
    return {f.claim.id: f.ours.answer for f in findings}, sum(seeds)


def _runs(truth: Facts, rng: np.random.Generator, shared: float) -> Facts:
    luck: dict[tuple[object, ...], np.ndarray] = {}
    groups = []
    for group in truth.groups:
        assert group.printed is not None
        column = (group.axes["dataset"], group.axes["fraction"])
        common = luck.setdefault(column, rng.standard_normal(SIZES[-1]))
        own = rng.standard_normal(SIZES[-1])
        std = group.printed.std or 0.0
        values = group.printed.mean + std * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
        groups.append(Group(group.axes, {n: float(v) for n, v in enumerate(values)}))
    return replace(truth, groups=tuple(groups), published=False)


def _truth(claim: Claim, truth: Facts, shared: float) -> tuple[bool, bool]:
    """Whether it holds, and whether each part is at least one std of its paired differences off the margin."""
    distances = []
    for contrast in contrasts(claim, truth.groups, truth.metric):  # type: ignore[arg-type]
        effect = sum(weight * group.printed.mean for weight, group in contrast.terms if group.printed)
        slack = claim.margin - abs(effect) if isinstance(claim, Equivalence) else effect - claim.margin
        distances.append(slack / _std(contrast.terms, shared))
    return min(distances) > 0, min(map(abs, distances)) >= 1


def _std(terms: Sequence[tuple[float, Group]], shared: float) -> float:
    """Of a contrast for one seed: own luck adds up in squares, that of a column adds up first."""
    own, columns = 0.0, dict[tuple[object, ...], float]()
    for weight, group in terms:
        std = weight * (group.printed.std or 0.0) if group.printed else 0.0
        own += (1 - shared) * std**2
        column = (group.axes["dataset"], group.axes["fraction"])
        columns[column] = columns.get(column, 0.0) + std
    return float(np.sqrt(own + shared * sum(value**2 for value in columns.values())))


def report(repeats: int, studies: int) -> Iterator[str]:
    """The lines of the result."""
    yield f"Error rates at alpha {ALPHA}, {repeats} repeats: observed ± one Monte Carlo standard error; nominal {ALPHA}"
    yield ""
    yield "One look: paired t and TOST, the truth on the margin"
    yield f"  {'test, shape of the differences':34} {'seeds':15}  {'wrong holds':>17}  {'wrong fails':>17}"
    for name, n, holds, fails in one_look_errors(repeats):
        yield f"  {name:34} {n:15}  {holds!s:>17}  {fails!s:>17}"
    yield ""
    yield f"Looks at {SIZES} seeds, all together, the truth on the margin"
    yield f"  {'test, shape of the differences':34} {'rule':15}  {'wrong holds':>17}  {'wrong fails':>17}"
    for name, rule, holds, fails in look_errors(repeats):
        yield f"  {name:34} {rule:15}  {holds!s:>17}  {fails!s:>17}"
    yield ""
    yield "95 % intervals of a mean: how often they hold the truth (nominal 0.95)"
    for size, t, bca in coverage(repeats // 10):
        yield f"  {size:>3} seeds: t {t}, BCa bootstrap {bca}"
    for rule in RULES:
        yield ""
        yield f"Simulated study, rule {rule}: claims on cells of their own, effects uniform in -4 .. 4 std"
        yield from made_up_study(studies, rule).lines()
        for grid in ("p1-table2", "p1-table4", "p1-table5"):
            yield f"Simulated study, rule {rule}: {grid}, its claims, true means and stds as published, {studies} times"
            yield from study_like_paper(grid, studies, rule).lines()


def main() -> None:
    """Print the result and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "looks.txt")
    args = parser.parse_args()
    began, lines = time.monotonic(), []
    for line in report(args.repeats, args.studies):
        print(line, flush=True)
        lines.append(line)
    head = f"python -m tests.benchmarks.looks --repeats {args.repeats} --studies {args.studies}"
    args.out.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
