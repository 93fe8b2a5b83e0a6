"""table.md: GitHub's tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.results.layout import Block, Sheet, Shown
from orchestrator.results.pages import Page, as_page
from orchestrator.results.table import Table

SPECIAL = re.compile(r"([\\`*_<>|\[\]])")


def markdown(shown: Table | Page) -> str:
    """Title, table (ours and published) and footnotes."""
    page = as_page(shown)
    parts = [f"## {_escape(page.title)}", _escape(page.origin)]
    for block in page.sheet.blocks:
        parts += [f"**{block.title}**"] if block.title else []
        parts.append(_grid(page.sheet, block))
    parts.append("\n".join(f"- {_escape(note)}" for note in page.notes))
    return "\n\n".join(parts) + "\n"


def _grid(sheet: Sheet, block: Block) -> str:
    header = [*map(_escape, sheet.index), *(_escape(", ".join(filter(None, labels))) for labels in block.columns)]
    rows = [[*map(_escape, labels), *map(_cell, cells)] for labels, cells in zip(sheet.rows, block.cells, strict=True)]
    widths = [max(3, *(len(row[n]) for row in (header, *rows))) for n in range(len(header))]
    left = len(sheet.index)
    rule = [("-" * width if n < left else "-" * (width - 1) + ":") for n, width in enumerate(widths)]
    return "\n".join(_line(row, widths, left) for row in (header, rule, *rows))


def _line(row: Iterable[str], widths: list[int], left: int) -> str:
    cells = zip(row, widths, strict=True)
    padded = (text.ljust(width) if n < left else text.rjust(width) for n, (text, width) in enumerate(cells))
    return f"| {' | '.join(padded)} |"


def _cell(cell: Shown) -> str:
    if not cell.mean:
        return cell.word
    number = cell.number
    number = f"**{number}**" if cell.bold else number
    return f"{number} {cell.mark}".rstrip()


def _escape(text: str) -> str:
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
