"""table.tex: a booktabs table to paste into a paper; needs only `booktabs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from orchestrator.results.layout import CONSTANT_MARK, Block, Labels, Sheet, Shown, arrange
from orchestrator.results.notes import notes
from orchestrator.results.table import Table

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "—": "---", CONSTANT_MARK: r"$\dagger$",
}  # fmt: skip


def latex(table: Table) -> str:
    """A `table` environment: header comment, caption, booktabs tabular (ours above or beside published), footnotes."""
    plan, sheet = table.plan, arrange(table)
    lines = [
        *_comment(table),
        r"\begin{table}[t]",
        r"\centering\small",
        rf"\caption{{{escape(plan.get('title') or plan['grid'])}}}",
        rf"\label{{tab:{plan['grid']}}}",
        rf"\begin{{tabular}}{{{'l' * len(sheet.index)}{'r' * len(sheet.blocks[0].columns)}}}",
        r"\toprule",
        *_body(sheet),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        *(f"{escape(note)}\\par" for note in notes(table)),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text with every character that LaTeX would read as a command made literal."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def _comment(table: Table) -> Iterator[str]:
    plan = table.plan
    seeds = sorted({group.n_asked for group in table.groups if not group.constant and group.n_asked}) or [0]
    n = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    facts = {
        "grid": plan["grid"],
        "profile": plan["profile"],
        "plan": plan["plan"],
        "n": f"{n} (seeds asked for in a group)",
        "made by": plan.get("command") or "",
        "needs": r"\usepackage{booktabs}",
    }
    for name, value in facts.items():
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
    number = rf"{cell.mean} \pm {cell.std}" if cell.std else cell.mean
    number = rf"$\mathbf{{{number}}}$" if cell.bold else f"${number}$"
    return f"{number} {escape(cell.mark)}" if cell.mark else number
