"""Every result table of both papers, digit for digit and in every format, from cells that have its means and stds."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.results.layout import arrange
from orchestrator.results.references import load
from orchestrator.results.render.comma import table_csv
from orchestrator.results.render.html import html
from orchestrator.results.render.latex import latex
from orchestrator.results.render.markdown import markdown
from orchestrator.results.render.terminal import terminal
from orchestrator.results.table import Table
from tests.orchestrator.results_published import RESULT_TABLES, published_table

Columns = tuple[list[str], list[str]]  # ours and published, in the order of the table
MARKUP = re.compile(r"\*\*|\\mathbf|\$\\dagger\$|†|[${}]")


def plain(field: str) -> str:
    """A cell without its markup: `85.7 ± 1.8`."""
    return " ".join(MARKUP.sub("", field).replace(r"\pm", "±").split())


def apart(table: Table, rows: list[list[str]]) -> Columns:
    """Ours and published of rows that hold both: beside each other, or one block below the other."""
    fields = [[plain(field) for field in row] for row in rows]
    if len(arrange(table).blocks) == 1:
        return [f for row in fields for f in row[::2]], [f for row in fields for f in row[1::2]]
    half = len(fields) // 2
    return [f for row in fields[:half] for f in row], [f for row in fields[half:] for f in row]


def of_markdown(table: Table) -> Columns:
    width = len(table.index)
    blocks = [block.splitlines()[2:] for block in markdown(table).split("\n\n") if block.startswith("|")]
    return apart(table, [re.split(r"(?<!\\)\|", line.strip("|"))[width:] for lines in blocks for line in lines])


def of_latex(table: Table) -> Columns:
    body = [line.removesuffix(r" \\").split(" & ") for line in latex(table).splitlines() if line.endswith(r"\\")]
    width = len(table.index)
    return apart(table, [row[width:] for row in body if len(row) > width and row[-1].startswith("$")])


def of_terminal(table: Table) -> Columns:
    stream = io.StringIO()
    terminal(table, stream)
    width = len(arrange(table).blocks[0].columns)
    lines = [re.split(r" {2,}", line.strip())[-width:] for line in stream.getvalue().splitlines()]
    return apart(
        table, [line for line in lines if len(line) == width and re.fullmatch(r"[\d.]+( ± [\d.]+)?†? ?†?", line[-1])]
    )


def of_csv(table: Table) -> Columns:
    rows = list(csv.DictReader(io.StringIO(table_csv(table))))
    pairs = [(plain(r["printed"]), " ± ".join(filter(None, (r["reference_mean"], r["reference_std"])))) for r in rows]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


class Cells(HTMLParser):
    """The texts of spans of class `ours` and `published` inside td."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"ours": [], "published": []}
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("td", "th", "span"):
            self._open.append(dict(attrs).get("class") or tag)
            if self._open[-1] in self.texts and "td" in self._open:
                self.texts[self._open[-1]].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "span"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        kinds = [name for name in self._open if name in self.texts]
        if kinds and "td" in self._open and "unseen" not in self._open:
            self.texts[kinds[-1]][-1] += data


def of_html(table: Table) -> Columns:
    parser = Cells()
    parser.feed(html(table))
    return [plain(t) for t in parser.texts["ours"]], [plain(t) for t in parser.texts["published"]]


FORMATS: dict[str, Callable[[Table], Columns]] = {
    "markdown": of_markdown, "csv": of_csv, "latex": of_latex, "html": of_html, "terminal": of_terminal,
}  # fmt: skip


def test_all_result_tables_of_both_papers_are_there() -> None:
    assert {*RESULT_TABLES} >= {*(f"p1-table{n}" for n in range(2, 7)), *(f"p2-table{n}" for n in range(2, 6))}


@pytest.mark.parametrize("name", RESULT_TABLES)
def test_the_published_table_comes_back_digit_for_digit_in_every_format(name: str) -> None:
    table = published_table(name)
    printed = [f"{r.mean} ± {r.std}" if r.std is not None else f"{r.mean}" for r in load(name)]
    assert table.warnings == ()
    for form, read in FORMATS.items():
        ours, theirs = read(table)
        assert sorted(ours) == sorted(printed), form  # every value once, whatever the layout
        assert ours == theirs, form  # each in its own place


def compiled(folder: Path, *tables: str) -> Path:
    """A PDF of these tables in a plain article.

    Skipped where there is no LaTeX: Debian's packages texlive-latex-base and texlive-latex-recommended have all of it.
    """
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here; apt-get install texlive-latex-recommended")
    head = r"\documentclass{article}\usepackage{booktabs}\usepackage[margin=2cm]{geometry}\begin{document}"
    source = folder / "page.tex"
    source.write_text("\n".join([head, *tables, r"\end{document}"]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", source.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    log = (folder / "page.log").read_text("utf-8", "replace")
    assert done.returncode == 0, log[-3000:]
    assert "Overfull" not in log, [line for line in log.splitlines() if "Overfull" in line]
    return folder / "page.pdf"


def test_latex_compiles_and_no_table_is_wider_than_the_page(tmp_path: Path) -> None:
    pdf = compiled(tmp_path, *(latex(published_table(name)) for name in RESULT_TABLES))
    assert pdf.stat().st_size > 10_000


def test_hostile_text_compiles(tmp_path: Path) -> None:
    from dataclasses import replace

    table = published_table("p1-table6")
    hostile = r"a|b_c & 50% $x$ {y} \input{z} #1 ~^ <b> “ü” … → 模型 ∀ \end{tabular}"
    table = replace(table, plan={**table.plan, "title": hostile, "footnotes": [hostile]})
    compiled(tmp_path, latex(table))
