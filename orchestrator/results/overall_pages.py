"""The comparison of a table's rows as pages for every format, and as CSV files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.results.collected import Collected
from orchestrator.results.comparison_pages import ALPHA, p_text, signed
from orchestrator.results.labels import value_label
from orchestrator.results.layout import MINUS, Block, Labels, Sheet, Shown, printed
from orchestrator.results.notes import departures
from orchestrator.results.overall import LEVEL, CellSummary, Overall, PairSummary, RowSummary, overall
from orchestrator.results.pages import Page
from orchestrator.results.render.comma import csv_text
from orchestrator.results.render.latex import latex
from orchestrator.results.render.markdown import markdown
from orchestrator.results.statistics.across import IMPROVEMENT, IQM, SOURCE
from orchestrator.results.statistics.estimates import PAIRED, PAIRED_SOURCE
from orchestrator.results.statistics.paired import HOLM, HOLM_SOURCE
from orchestrator.results.statistics.spread import BCA, BCA_SOURCE, Interval
from orchestrator.results.table import IDENTITY

FEW = 5  # seeds; below them resampling says too little
SHARE = 2  # decimals of a probability
INTERVAL = f"{100 * LEVEL:g} % interval"


def overall_files(found: Collected) -> dict[str, str]:
    """The statistics of a plan's table by file name; none where fewer than two rows have a value."""
    told = overall(found)
    pages = overall_pages(found, told)
    files = {"cells_intervals.csv": intervals_csv(found, told)} if told.cells else {}
    if pages:
        files |= {"rows.csv": rows_csv(found, told), "pairs.csv": pairs_csv(found, told)}
        for name, page in zip(("rows", "pairs"), pages, strict=True):
            files |= {f"{name}.md": markdown(page), f"{name}.tex": latex(page)}
    return files


def overall_pages(found: Collected, told: Overall) -> tuple[Page, Page] | None:
    """Every row over all columns, and every two rows compared; None where fewer than two rows have a value."""
    if not told.pairs:
        return None
    several = len({row.metric for row in told.rows}) > 1
    return _rows_page(found, told, several), _pairs_page(found, told, several)


def _rows_page(found: Collected, told: Overall, several: bool) -> Page:
    decimals = found.table.decimals
    columns = ("Interquartile mean", INTERVAL, "Runs")
    cells = tuple(tuple(_row_cells(row, decimals)) for row in told.rows)
    names = tuple(_named(several, row.metric, row.name) for row in told.rows)
    used = min((row.columns for row in told.rows), default=0)
    which = f"the {used} of {told.columns} columns that all rows have" if used < told.columns else "all columns"
    notes = [f"{_upper(IQM)} [{SOURCE}], over {which}.", *caution(told), *departures(found.table)]
    return _page(found, "rows", "rows over all columns", _index(several, "Row"), names, columns, cells, notes)


def _pairs_page(found: Collected, told: Overall, several: bool) -> Page:
    decimals = found.table.decimals
    columns = ("Difference", INTERVAL, "Bootstrap", "Seeds", "p (Holm)", "Beats it")
    cells = tuple(tuple(_pair_cells(pair, decimals)) for pair in told.pairs)
    names = tuple(_named(several, pair.metric, pair.compared.one, pair.compared.other) for pair in told.pairs)
    every = "every two rows" if told.all_pairs else "every row against the first one"
    notes = [
        f"Differences: mean over the columns that both rows have, paired over the seeds; {PAIRED} [{PAIRED_SOURCE}]; "
        f"{HOLM} over {every} [{HOLM_SOURCE}]. Bold: p < {ALPHA:g} after it. Bootstrap: {BCA} [{BCA_SOURCE}].",
        f"Beats it: how likely a run of the row is better than one of the other; {IMPROVEMENT}, {INTERVAL} [{SOURCE}].",
        *caution(told),
        *departures(found.table),
    ]
    title = "every two rows" if told.all_pairs else "rows against the first"
    return _page(found, "pairs", title, _index(several, "Row", "Against"), names, columns, cells, notes)


def _page(
    found: Collected, name: str, what: str, index: Labels, rows: tuple[Labels, ...], columns: Labels, cells: Any,
    notes: Sequence[str],
) -> Page:  # fmt: skip
    plan = found.plan
    unit = {"percent": "in percent", "fraction": "as fractions"}.get(found.table.unit, found.table.unit)
    metrics = ", ".join(value_label("metric", metric) for metric in plan["table"]["value"])
    sheet = Sheet(index, rows, Block("", tuple((c,) for c in columns), cells), None, (), frozenset())
    facts = {"grid": plan["grid"], "profile": plan["profile"], "plan": plan["plan"]}
    origin = f"Grid {plan['grid']}, profile {plan['profile']}, plan {plan['plan']}"
    title, caption = f"{plan.get('title') or plan['grid']}: {what}", f"{_upper(what)}: {metrics} {unit}."
    return Page(f"{plan['grid']}-{name}", title, origin, facts, sheet, tuple(notes), caption)


def _index(several: bool, *names: str) -> Labels:
    return ("Metric", *names) if several else names


def _named(several: bool, metric: str, *names: str) -> Labels:
    return (value_label("metric", metric), *names) if several else names


def _row_cells(row: RowSummary, decimals: int) -> Iterator[Shown]:
    yield Shown(word="—") if row.iqm is None else Shown(_number(row.iqm, decimals))
    yield Shown(_between(row.interval, decimals, _number))
    yield Shown(str(row.runs))


def _pair_cells(pair: PairSummary, decimals: int) -> Iterator[Shown]:
    compared, estimate = pair.compared, pair.compared.estimate
    if estimate is None:
        yield from (Shown(word="—"), Shown(), Shown(), Shown("0"), Shown())
    else:
        sure = compared.p_holm is not None and compared.p_holm < ALPHA
        yield Shown(signed(estimate.effect, decimals), bold=sure)
        inside = estimate.interval(LEVEL)
        yield Shown(f"[{', '.join(signed(edge, decimals) for edge in inside)}]" if inside else "")
        yield Shown(_between(compared.bootstrap, decimals, signed))
        yield Shown(str(estimate.n))
        yield Shown(p_text(compared.p_holm))
    chance = "" if pair.improvement is None else _number(pair.improvement, SHARE)
    yield Shown(f"{chance} {_between(pair.interval, SHARE, _number)}".rstrip()) if chance else Shown(word="—")


def caution(told: Overall) -> Iterator[str]:
    """What few seeds do to a bootstrap; the numbers are those of `tests/benchmarks/results/looks.txt`."""
    seeds = [pair.compared.estimate.n for pair in told.pairs if pair.compared.estimate]
    fewest = min((n for n in seeds if n > 1), default=FEW)
    if fewest < FEW:
        yield (
            f"With {fewest} seeds a bootstrap is too narrow, the t interval is not: of three normal values a 95 % "
            "bootstrap interval of the mean held the truth 7 times of 10."
        )


def rows_csv(found: Collected, told: Overall) -> str:
    """One line for each row and metric."""
    columns = ("row", "metric", "unit", "iqm", "low", "high", "level", "columns", "runs", "method", "method_source")
    rows = (
        [r.name, r.metric, found.table.unit, r.iqm, *_edges(r.interval), LEVEL, r.columns, r.runs, IQM, SOURCE]
        for r in told.rows
    )
    return csv_text(columns, map(_plain, rows))


def pairs_csv(found: Collected, told: Overall) -> str:
    """One line for each pair of rows and metric: the first minus the second."""
    columns = (
        "row", "against", "metric", "unit", "difference", "low", "high", "bootstrap_low", "bootstrap_high", "level",
        "seeds", "columns", "p", "p_holm", "method", "method_source", "improvement", "improvement_low",
        "improvement_high", "improvement_method", "improvement_source",
    )  # fmt: skip
    return csv_text(columns, map(_plain, (_pair_row(found, pair) for pair in told.pairs)))


def _pair_row(found: Collected, pair: PairSummary) -> list[Any]:
    compared, estimate = pair.compared, pair.compared.estimate
    low, high = (estimate.interval(LEVEL) if estimate else None) or (None, None)
    return [
        compared.one, compared.other, pair.metric, found.table.unit, estimate.effect if estimate else None, low, high,
        *_edges(compared.bootstrap), LEVEL, estimate.n if estimate else 0, compared.columns, compared.p,
        compared.p_holm, compared.method, compared.source, pair.improvement, *_edges(pair.interval), IMPROVEMENT,
        SOURCE,
    ]  # fmt: skip


def intervals_csv(found: Collected, told: Overall) -> str:
    """One line for each place of the table that has a value: mean, std and both intervals of the mean."""
    columns = (
        *IDENTITY, "unit", "mean", "std", "n", "level", "t_low", "t_high", "t_method", "t_source", "bootstrap_low",
        "bootstrap_high", "bootstrap_method", "bootstrap_source", "bootstrap_note",
    )  # fmt: skip
    return csv_text(columns, map(_plain, (_cell_row(found, cell) for cell in told.cells)))


def _cell_row(found: Collected, cell: CellSummary) -> list[Any]:
    estimate, boot = cell.estimate, cell.bootstrap
    mean, n = (None, 0) if estimate is None else (estimate.effect, estimate.n)
    edges = (estimate.interval(LEVEL) if estimate else None) or (None, None)
    t = (*edges, "t interval", PAIRED_SOURCE) if edges[0] is not None else (None, None, "", "")
    resampled = (*_edges(boot), boot.method, boot.source, boot.note) if boot else (None, None, "", "", "")
    return [*(cell.axes[axis] for axis in IDENTITY), found.table.unit, mean, cell.std, n, LEVEL, *t, *resampled]


def _plain(row: Sequence[Any]) -> list[Any]:
    return [f"{value:.12g}" if isinstance(value, float) else value for value in row]


def _edges(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _between(interval: Interval | None, decimals: int, number: Any) -> str:
    return "" if interval is None else f"[{number(interval.low, decimals)}, {number(interval.high, decimals)}]"


def _number(value: float, decimals: int) -> str:
    return printed(value, decimals).replace("-", MINUS)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
