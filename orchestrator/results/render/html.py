"""table.html, and the tables of the report: semantic markup that a screen reader can walk, everything escaped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.results.layout import Block, Labels, Sheet, Shown
from orchestrator.results.pages import Page, as_page
from orchestrator.results.table import Table

Place = tuple[Shown, Shown | None, str]  # ours, published, difference


@dataclass(frozen=True)
class Label:
    """A heading over `span` columns or rows; `published` where the paper's heading says something else."""

    text: str
    span: int
    published: str = ""


@dataclass(frozen=True)
class Row:
    """The headings that begin at a row, and its cells."""

    labels: tuple[Label, ...]
    cells: tuple[Place, ...]


def html(shown: Table | Page) -> str:
    """A complete page with the one table, ours and published in each cell."""
    page, template = as_page(shown), environment().get_template("alone.html")
    return template.render(title=page.title, origin=page.origin, style=style(), table=html_table(page, "table")) + "\n"


def html_table(shown: Table | Page, identifier: str, *, without: Collection[str] = ()) -> Markup:
    """The table alone, for a page that brings `style()`.

    Args:
        identifier: the caption's id, unique in the page.
        without: footnotes that the page tells elsewhere.
    """
    page = as_page(shown)
    sheet = page.sheet
    return Markup(  # noqa: S704 - rendered with autoescape
        environment()
        .get_template("table.html")
        .render(
            id=identifier,
            caption=page.caption,
            sheet=sheet,
            heading=heading(sheet.ours, sheet.published),
            bodies=_bodies(sheet),
            notes=[note for note in page.notes if note not in without],
        )
    )


@cache
def environment() -> Environment:
    """Jinja2 with autoescape on; a name that a template does not get is an error."""
    loader = PackageLoader("orchestrator.results.render", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


@cache
def style() -> Markup:
    """The style sheet of all pages."""
    source, _, _ = environment().loader.get_source(environment(), "style.css")  # type: ignore[union-attr]
    return Markup(source)  # noqa: S704 - our own file


def heading(ours: Block, published: Block | None) -> list[list[Label]]:
    """The levels of the column headings, each label once over all columns that share it and what stands above it."""
    theirs = published.columns if published else ours.columns
    levels = []
    for level in range(len(ours.columns[0]) if ours.columns else 1):
        runs = groupby(zip(ours.columns, theirs, strict=True), lambda pair: pair[0][: level + 1])  # noqa: B023
        levels.append([_label(list(members), level) for _, members in runs])
    return levels


def _label(pairs: Sequence[tuple[Labels, Labels]], level: int) -> Label:
    text, other = pairs[0][0][level], pairs[0][1][level]
    same = text.partition(" (")[0]
    shorter = other.removeprefix(same).strip() or other
    return Label(text, len(pairs), shorter if other != text else "")


def _bodies(sheet: Sheet) -> list[list[Row]]:
    """The rows, a table body for each data set; what the rows of a body share at the left stands once."""
    numbers = iter(range(len(sheet.rows)))
    return [[Row(labels, _cells(sheet, next(numbers))) for labels in body] for body in row_labels(sheet)]


def row_labels(sheet: Sheet) -> list[list[tuple[Label, ...]]]:
    """The headings that begin at each row, by table body."""
    limits = [0, *sorted(sheet.breaks), len(sheet.rows)]
    return [[_begun(sheet.rows[first:last], n - first) for n in range(first, last)] for first, last in pairwise(limits)]


def _begun(rows: Sequence[Labels], n: int) -> tuple[Label, ...]:
    """The headings that begin at row `n`; all but the innermost may span rows below that say the same."""
    labels = []
    for level in range(len(rows[n])):
        same = [row[: level + 1] == rows[n][: level + 1] for row in rows]
        last = level == len(rows[n]) - 1
        if last or n == 0 or not same[n - 1]:
            labels.append(Label(rows[n][level], 1 if last else [*same[n:], False].index(False)))
    return tuple(labels)


def _cells(sheet: Sheet, n: int) -> tuple[Place, ...]:
    ours = sheet.ours.cells[n]
    if sheet.published is None:
        return tuple((cell, None, "") for cell in ours)
    return tuple(zip(ours, sheet.published.cells[n], sheet.differences[n], strict=True))
