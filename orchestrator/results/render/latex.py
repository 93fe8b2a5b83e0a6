"""table.tex: a booktabs table to paste into a paper; needs only `booktabs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from orchestrator.results.layout import CONSTANT_MARK, MINUS, Block, Labels, Sheet, Shown
from orchestrator.results.pages import Page, as_page
from orchestrator.results.table import Table

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after a row's end they would be its argument
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "—": "---", CONSTANT_MARK: r"$\dagger$", "…": r"\ldots{}", MINUS: "$-$", "→": r"$\rightarrow$",
    "≤": r"$\leq$", "≥": r"$\geq$", "Δ": r"$\Delta$", "α": r"$\alpha$", "\u2009": r"\,", "\u202f": r"\,",
}  # fmt: skip

# Where the class leaves none below a caption, as `article` does, its text stands on the rule.
SPACE = r"\ifdim\belowcaptionskip=0pt \belowcaptionskip=4pt \fi"


def latex(shown: Table | Page) -> str:
    """A `table` environment: header comment, caption, booktabs tabular (ours above or beside published), footnotes."""
    page = as_page(shown)
    sheet = page.sheet
    lines = [
        *_comment(page),
        r"\begin{table}[t]",
        r"\centering\small",
        SPACE,
        rf"\caption{{{escape(page.title)}}}",
        rf"\label{{tab:{page.name}}}",
        rf"\begin{{tabular}}{{{'l' * len(sheet.index)}{'r' * len(sheet.blocks[0].columns)}}}",
        r"\toprule",
        *_body(sheet),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        *(f"{escape(note)}\\par" for note in page.notes),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text with every character that LaTeX would read as a command, or that pdflatex does not know, made literal."""
    return "".join(SPECIAL.get(character) or _known(character) for character in " ".join(text.split()))


def _known(character: str) -> str:
    """A letter of a European language, or quotes and dashes, as they are; another one by its number."""
    number = ord(character)
    plain = 0x20 <= number < 0x7F or 0xA1 <= number < 0x180 or character in "–‘’“”•"
    return character if plain else f"{{[}}U+{number:04X}{{]}}"


def _comment(page: Page) -> Iterator[str]:
    for name, value in {**page.facts, "needs": r"\usepackage{booktabs}"}.items():
        yield f"% {name}: {' '.join(str(value).split())}"


def _body(sheet: Sheet) -> Iterator[str]:
    width = len(sheet.index) + len(sheet.blocks[0].columns)
    shown: tuple[Labels, ...] | None = None
    for block in sheet.blocks:
        if shown is not None:
            yield r"\midrule"
        if block.columns != shown:
            yield from _header(sheet.index, block.columns)
            yield r"\midrule"
            shown = block.columns
        if block.title:
            yield rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(block.title)}}}}} \\"
        yield from _rows(sheet, block)


def _header(index: Labels, columns: Sequence[Labels]) -> Iterator[str]:
    depth = len(columns[0]) if columns else 1
    for level in range(depth):
        spans = [
            (prefix[-1], len(list(members))) for prefix, members in groupby(labels[: level + 1] for labels in columns)
        ]
        last = level == depth - 1
        lead = list(map(escape, index)) if last else [""] * len(index)
        cells = [_spanning(text, span) for text, span in spans]
        yield " & ".join([*lead, *cells]) + r" \\"
        if not last:
            yield "".join(_rules(len(index), [span for _, span in spans]))


def _spanning(text: str, span: int) -> str:
    return escape(text) if span == 1 else rf"\multicolumn{{{span}}}{{c}}{{{escape(text)}}}"


def _rules(start: int, spans: Sequence[int]) -> Iterator[str]:
    for span in spans:
        yield rf"\cmidrule(lr){{{start + 1}-{start + span}}}"
        start += span


def _rows(sheet: Sheet, block: Block) -> Iterator[str]:
    for n, (labels, cells) in enumerate(zip(sheet.rows, block.cells, strict=True)):
        if n in sheet.breaks:
            yield r"\addlinespace"
        yield " & ".join([*map(escape, labels), *map(_cell, cells)]) + r" \\"


def _cell(cell: Shown) -> str:
    if not cell.mean:
        return escape(cell.word)
    number = rf"{cell.mean} \pm {cell.std}" if cell.std else cell.mean.replace(MINUS, "-")
    number = rf"$\mathbf{{{number}}}$" if cell.bold else f"${number}$"
    return f"{number} {escape(cell.mark)}" if cell.mark else number
