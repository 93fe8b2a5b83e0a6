"""table.md: GitHub's tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.results.layout import Block, Sheet, Shown, arrange
from orchestrator.results.notes import notes
from orchestrator.results.table import Table

SPECIAL = re.compile(r"([\\`*_<>|\[\]])")


def markdown(table: Table) -> str:
    """Title, table (ours and published) and footnotes."""
    plan, sheet = table.plan, arrange(table)
    parts = [f"## {_escape(plan.get('title') or plan['grid'])}"]
    parts.append(_escape(f"Grid {plan['grid']}, profile {plan['profile']}, plan {plan['plan']}"))
    for block in sheet.blocks:
        parts += [f"**{block.title}**"] if block.title else []
        parts.append(_grid(sheet, block))
    parts.append("\n".join(f"- {_escape(note)}" for note in notes(table)))
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
    number = f"{cell.mean} ± {cell.std}" if cell.std else cell.mean
    number = f"**{number}**" if cell.bold else number
    return f"{number} {cell.mark}".rstrip()


def _escape(text: str) -> str:
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
