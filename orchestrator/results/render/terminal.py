"""The table on the terminal, by rich."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.table import Table as Screen
from rich.text import Text

from orchestrator.results.layout import Block, Sheet, Shown
from orchestrator.results.pages import Page, as_page
from orchestrator.results.table import Table

WIDTH_OF_A_PIPE = 400  # a file or pipe has no width: lines must not be cut


def terminal(shown: Table | Page, stream: IO[str]) -> None:
    """Print title, table and footnotes to `stream`; in a narrow terminal cells wrap and no digit is lost."""
    console = Console(file=stream, width=None if stream.isatty() else WIDTH_OF_A_PIPE, highlight=False)
    page = as_page(shown)
    console.print(Text(page.title, style="bold"))
    console.print(Text(page.origin, style="dim"))
    for block in page.sheet.blocks:
        console.print()
        console.print(_screen(page.sheet, block))
    console.print()
    for note in page.notes:
        console.print(Text(f"  {note}", style="dim"))


def _screen(sheet: Sheet, block: Block) -> Screen:
    screen = Screen(title=Text(block.title) if block.title else None, title_justify="left", box=None, pad_edge=False)
    for name in sheet.index:
        screen.add_column(Text(name), overflow="fold")
    for labels in block.columns:
        screen.add_column(Text("\n".join(labels), justify="right"), justify="right", overflow="fold")
    for n, (labels, cells) in enumerate(zip(sheet.rows, block.cells, strict=True)):
        if n in sheet.breaks:
            screen.add_row()
        screen.add_row(*map(Text, labels), *map(_cell, cells))
    return screen


def _cell(cell: Shown) -> Text:
    if not cell.mean:
        return Text(cell.word, style="red" if cell.word in ("failed", "blocked") else "dim")
    text = Text(cell.number, style="bold" if cell.bold else "")
    return text.append(f" {cell.mark}", style="yellow") if cell.mark else text
