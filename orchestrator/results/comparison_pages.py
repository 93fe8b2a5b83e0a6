"""A comparison as a page for every format, and as comparison.csv."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.passwords import without_passwords
from orchestrator.results.collected import Collected
from orchestrator.results.comparison import PLACE, Change, Comparison, Place, Side, compare
from orchestrator.results.labels import axis_label, value_label
from orchestrator.results.layout import MINUS, Block, Sheet, Shown, printed, shown
from orchestrator.results.pages import Page
from orchestrator.results.render.comma import csv_text
from orchestrator.results.render.html import html
from orchestrator.results.render.latex import latex
from orchestrator.results.render.markdown import markdown
from orchestrator.results.statistics.paired import HOLM, HOLM_SOURCE
from orchestrator.results.table import separating

LEVEL, ALPHA = 0.95, 0.05


@dataclass(frozen=True)
class Compared:
    """A comparison ready to be shown: its page, its files by name, and what `--json` says of it."""

    page: Page
    files: Mapping[str, str]
    record: Mapping[str, Any]

    @classmethod
    def of(cls, sets: Sequence[Collected]) -> Compared:
        """Compare all sets with the first.

        Raises:
            ResultsError: they cannot be compared.
        """
        found = compare(sets)
        sides = [{"letter": s.letter, "name": s.name, "plan": s.found.plan["plan"]} for s in found.sides]
        record = {"comparison": {"sides": sides, "warnings": list(found.warnings)}}
        return cls(comparison_page(found), comparison_files(found), record)


def comparison_page(found: Comparison) -> Page:
    """The sets side by side, each further one with its difference from the first."""
    base, *others = found.sides
    axes = _axes(found)
    columns = [(side.letter,) for side in found.sides]
    for side in others:
        letters = f"{side.letter} {MINUS} {base.letter}"
        columns += [(letters,), ("95 % interval",), ("n",), ("p (Holm)",)]
    rows = tuple(_labels(place, axes) for place in found.places)
    cells = tuple(tuple(_cells(found, place)) for place in found.places)
    sheet = Sheet(tuple(map(axis_label, axes)), rows, Block("", tuple(columns), cells), None, (), frozenset())
    names = "; ".join(f"{side.letter}: {side.name}" for side in found.sides)
    plan = base.found.plan
    facts = {"grid": plan["grid"], **{side.letter: side.name for side in found.sides}}
    title = f"{plan.get('title') or plan['grid']}: comparison"
    caption = f"{names}. Differences are over the seeds that both have."
    return Page(f"{plan['grid']}-comparison", title, names, facts, sheet, tuple(_notes(found)), caption)


def _axes(found: Comparison) -> tuple[str, ...]:
    """The axes that the first set shows, and those that tell the places of all sets apart."""
    table = found.sides[0].found.table
    groups = {place: group for side in found.sides for place, group in side.groups.items()}
    sizeless = [replace(group, axes={**group.axes, "n_train": None}) for group in groups.values()]
    index, columns, _ = separating(table.index, table.columns, sizeless)
    return tuple(dict.fromkeys((*index, *columns)))


def comparison_files(found: Comparison) -> dict[str, str]:
    """The comparison in every format, by file name."""
    page = comparison_page(found)
    return {
        "comparison.csv": comparison_csv(found),
        "comparison.md": markdown(page),
        "comparison.tex": latex(page),
        "comparison.html": html(page),
    }


def comparison_csv(found: Comparison) -> str:
    """One row for each place and further set, in the table's unit at full precision."""
    columns = (
        *PLACE, "unit", "base", "other", "base_mean", "base_std", "base_n", "other_mean", "other_std", "other_n",
        "difference", "low", "high", "n_pairs", "p", "p_holm", "same_cells", "method", "method_source",
    )  # fmt: skip
    return csv_text(columns, list(_csv_rows(found)))


def _csv_rows(found: Comparison) -> Iterator[list[Any]]:
    base, *others = found.sides
    unit = base.found.table.unit
    for side, changes in zip(others, found.changes, strict=True):
        for place in found.places:
            change, estimate = changes[place], changes[place].estimate
            low, high = (estimate.interval(LEVEL) if estimate else None) or (None, None)
            p = None if estimate is None or change.same else estimate.p_different()
            numbers = [None if estimate is None else estimate.effect, low, high, estimate.n if estimate else 0, p]
            told = [change.p_holm, change.same, *((estimate.method, estimate.source) if estimate else ("", ""))]
            row = [*place, unit, base.name, side.name, *_group(base, place), *_group(side, place), *numbers, *told]
            yield [f"{value:.12g}" if isinstance(value, float) else value for value in row]


def _group(side: Side, place: Place) -> list[Any]:
    group = side.groups.get(place)
    return [None, None, 0] if group is None else [group.mean, group.std, group.n]


def _labels(place: Place, axes: Sequence[str]) -> tuple[str, ...]:
    known = dict(zip(PLACE, place, strict=True))
    return tuple(value_label(axis, known.get(axis)) for axis in axes)


def _cells(found: Comparison, place: Place) -> Iterator[Shown]:
    decimals = found.sides[0].found.table.decimals
    for side in found.sides:
        group = side.groups.get(place)
        yield shown(group, decimals) if group else Shown(word="—")
    for changes in found.changes:
        yield from _change(changes[place], decimals)


def _change(change: Change, decimals: int) -> Iterator[Shown]:
    """Difference, interval, pairs and p of one row."""
    estimate = change.estimate
    if estimate is None:
        yield from (Shown(word="—"), Shown(), Shown("0"), Shown())
        return
    sure = change.p_holm is not None and change.p_holm < ALPHA
    yield Shown(signed(estimate.effect, decimals), bold=sure)
    interval = None if change.same else estimate.interval(LEVEL)
    yield Shown(f"[{', '.join(signed(edge, decimals) for edge in interval)}]" if interval else "")
    yield Shown(str(estimate.n))
    yield Shown(word="same cells") if change.same else Shown(p_text(change.p_holm))


def signed(value: float, decimals: int) -> str:
    """A difference with its sign at the printed precision; no sign for nothing."""
    text = printed(abs(value), decimals)
    sign = "" if not text.strip("0.") else MINUS if value < 0 else "+"
    return f"{sign}{text}"


def p_text(p: float | None) -> str:
    """A p value for people; "" without one."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _notes(found: Comparison) -> Iterator[str]:
    for side in found.sides:
        plan, store = side.found.plan, without_passwords(side.found.store.uri)
        yield (f"{side.letter}: plan {plan['plan']}, profile {plan['profile']}, store {store}; {side.found.state}.")
    for text in found.warnings:
        yield f"{text[0].upper()}{text[1:]}."
    estimates = [change.estimate for changes in found.changes for change in changes.values() if change.estimate]
    methods = dict.fromkeys(f"{e.method} [{e.source}]" for e in estimates)
    rows = "rows" if len(found.changes) == 1 else "rows of each set"
    yield (
        f"Differences are paired over the seeds that both sets have; {'; '.join(methods) or 'none can be tested'}; "
        f"{HOLM} over the {rows} [{HOLM_SOURCE}]. Bold: p < {ALPHA:g} after it."
    )
