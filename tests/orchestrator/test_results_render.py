"""Markdown, LaTeX and terminal: the published tables come back as printed, and nothing can break out of a cell."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from orchestrator.results.cells import tidy
from orchestrator.results.references import load
from orchestrator.results.render.latex import escape, latex
from orchestrator.results.render.markdown import markdown
from orchestrator.results.render.terminal import terminal
from orchestrator.results.table import Table, summarise
from tests.orchestrator.results_made_up import cell, commit, plan, published

P1_TABLE2 = """
1 (random-init) | Random         | 79.1 ± 1.0 | 89.4 ± 0.8 | 94.3 ± 0.0 | 71.7 ± 5.2 | 84.2 ± 0.9 | 88.2 ± 0.3
2 (cls-enc)     | SimCLR         | 77.7 ± 0.4 | 88.8 ± 0.3 | 94.1 ± 0.1 | 79.2 ± 1.1 | 85.1 ± 0.1 | 88.2 ± 0.4
3 (seg-enc-dec) | Reconstruction | 84.4 ± 0.6 | 91.8 ± 0.2 | 95.0 ± 0.1 | 80.5 ± 1.5 | 86.8 ± 0.2 | 89.6 ± 0.3
3 (seg-enc-dec)|ConRec|**85.7 ± 1.8** | **92.2 ± 0.4** | **95.3 ± 0.1** | 83.1 ± 0.5 | **87.5 ± 0.6** | **90.0 ± 0.1**
4 (seg-enc)     | Reconstruction | 84.6 ± 0.2 | 92.0 ± 0.1 | 95.0 ± 0.0 | 81.2 ± 0.1 | 86.9 ± 0.5 | 89.5 ± 0.1
4 (seg-enc)     | ConRec         | 84.7 ± 0.6 | 92.1 ± 0.1 | **95.3 ± 0.1** | **83.3 ± 0.6** | 87.2 ± 0.4 | 89.8 ± 0.2
"""
P1_TABLE3 = """
1 (random-init) | Random         | 71.54 | 71.54 | 74.47 | 74.47
4 (seg-enc)     | Models Genesis | **75.20 ± 1.13** | **75.20 ± 1.13** | **76.94 ± 0.50** | **76.94 ± 0.50**
3 (seg-enc-dec) | Models Genesis | 75.10 ± 0.48 | 75.10 ± 0.48 | 76.78 ± 0.45 | 76.78 ± 0.45
"""
P1_TABLE6 = """
ConRec (1 task)  | 82.5 ± 0.7 | 91.3 ± 0.2 | 94.8 ± 0.1 | 82.4 ± 0.4 | 87.1 ± 0.18 | 89.6 ± 0.1
ConRec (4 tasks) | **85.7 ± 1.8** | **92.2 ± 0.4** | **95.3 ± 0.1** | **83.1 ± 0.5** | **87.5 ± 0.6** | **90.0 ± 0.1**
"""
P2_TABLE2 = """
Lucchi++   | BYOL+colorization | resnet50-unet      | **0.7896** | **0.7896**
Lucchi++   | BYOL+colorization | sasa-resnet50-unet | 0.7325 | 0.7325
Lucchi++   | Random            | classic-unet       | 0.58 | 0.58
Lucchi++   | Classification    | resnet50-unet      | 0.5821 | 0.5821
Kasthuri++ | BYOL+colorization | resnet50-unet      | **0.77** | **0.77**
Kasthuri++ | BYOL+colorization | sasa-resnet50-unet | 0.75 | 0.75
Kasthuri++ | Random            | classic-unet       | 0.55 | 0.55
Kasthuri++ | Classification    | resnet50-unet      | 0.62 | 0.62
"""


def table_of(made: dict[str, Any], commits: dict[str, Any]) -> Table:
    references = load(made["references"]) if made["references"] else []
    return summarise(made, tidy(made, commits, {}), references)


def split_rows(text: str) -> list[list[str]]:
    return [[field.strip() for field in line.strip(" |").split("|")] for line in text.strip().splitlines()]


def markdown_rows(text: str) -> list[list[str]]:
    """The rows of all tables of a page, headings and rules left out."""
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [[re.sub(" +", " ", f.strip()) for f in line.strip("|").split("|")] for t in tables for line in t[2:]]


def latex_rows(text: str) -> list[list[str]]:
    """The body rows of a LaTeX table, with its markup turned into that of markdown."""
    plain = re.sub(r"\$\\mathbf\{(.*?)\}\$", r"**\1**", text).replace(r"\pm", "±").replace("$", "")
    rows = [line.removesuffix(r" \\").split(" & ") for line in plain.splitlines() if line.endswith(r" \\")]
    return [row for row in rows if re.search(r"\d\.\d", row[-1])]


@pytest.mark.parametrize(("name", "text"), [("p1-table3", P1_TABLE3), ("p2-table2", P2_TABLE2)])
def test_narrow_tables_stand_beside_the_published_ones(name: str, text: str) -> None:
    table = table_of(*published(name))
    assert markdown_rows(markdown(table)) == split_rows(text)
    assert latex_rows(latex(table)) == split_rows(text)


@pytest.mark.parametrize(("name", "text"), [("p1-table2", P1_TABLE2), ("p1-table6", P1_TABLE6)])
def test_wide_tables_stand_above_the_published_ones(name: str, text: str) -> None:
    table = table_of(*published(name))
    printed = split_rows(text)
    assert markdown_rows(markdown(table)) == printed + printed
    assert latex_rows(latex(table)) == printed + printed


def test_headings_name_fraction_and_training_images() -> None:
    table = table_of(*published("p1-table2"))
    assert "| Flowers 17, 1 % (8) | Flowers 17, 5 % (42) | Flowers 17, 20 % (170) |" in markdown(table)
    assert r" &  & \multicolumn{3}{c}{Flowers 17} & \multicolumn{3}{c}{Oxford Pets} \\" in latex(table)
    assert r"\cmidrule(lr){3-5}\cmidrule(lr){6-8}" in latex(table)
    assert r"Scenario & Model & 1 \% (8) & 5 \% (42) & 20 \% (170) & 1 \% (74)" in latex(table)


def test_published_headings_have_the_papers_own_sizes() -> None:
    made, commits = published("p1-table2")
    for one in made["cells"]:
        one["n_train"] = 3  # as in a small profile
    text = markdown(table_of(made, commits))
    assert text.count("1 % (3)") == 2
    assert text.count("Oxford Pets, 1 % (74)") == 1


def test_latex_is_balanced_and_says_where_it_comes_from() -> None:
    text = latex(table_of(*published("p1-table2")))
    begun, ended = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert sorted(begun) == sorted(ended) == ["minipage", "table", "tabular"]
    assert text.count("{") == text.count("}")
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    spec = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert spec is not None
    assert len(spec[1]) == 8
    assert {line.count("&") for line in text.splitlines() if re.search(r"\\pm.*\\\\$", line)} == {7}
    assert "% grid: p1-table2\n% profile: paper\n% plan: 20261121T231500Z-ab12cd34\n% n: 3 (seeds" in text


def test_hostile_text_stays_text() -> None:
    name = "a|b_c & 50% $x$ {y} \\input{z} #1 ~^ <b>`q` *w*\n\\end{tabular}"
    cells = [cell(model=name, key="a"), cell(model="b", key="b")]
    made = plan(cells, title=f"T {name}", command="run\n\\evil", footnotes=[name])
    table = table_of(made, {"a": commit("a", dice=0.5), "b": commit("b", dice=0.4)})
    text = latex(table)
    assert r"a|b\_c \& 50\% \$x\$ \{y\} \textbackslash{}input\{z\} \#1" in text
    assert text.count(r"\end{tabular}") == 1
    assert "\n\\evil" not in text
    rows = [line for line in markdown(table).splitlines() if line.startswith("| 1 (random-init)")]
    assert len(rows) == 2
    assert rows[0].startswith(r"| 1 (random-init) | a\|b\_c & 50% $x$ {y} \\input{z}")
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert r"\<b\>\`q\` \*w\*" in rows[0]
    stream = io.StringIO()
    terminal(table, stream)
    assert "a|b_c & 50% $x$ {y} \\input{z}" in stream.getvalue()


def test_markup_of_the_terminal_is_not_read() -> None:
    table = table_of(plan([cell(model="[red]x[/red]", key="a")]), {"a": commit("a", dice=0.5)})
    stream = io.StringIO()
    terminal(table, stream)
    assert "[red]x[/red]" in stream.getvalue()


def test_terminal_loses_no_digit_in_a_pipe() -> None:
    stream = io.StringIO()
    terminal(table_of(*published("p1-table2")), stream)
    got = re.findall(r"\d+\.\d ± \d\.\d", stream.getvalue())
    printed = re.findall(r"\d+\.\d ± \d\.\d", P1_TABLE2)
    assert got == printed + printed


def test_footnotes_say_all_that_differs_from_the_paper() -> None:
    made, commits = published("p1-table2")
    made |= {"profile": "mini", "overrides": ["finetune.steps=60"], "stand_ins": {"flowers102": "flowers17"}}
    made |= {"footnotes": ["The U-Net has width 8."]}
    gone = [c["key"] for c in made["cells"] if c["model"] == "SimCLR"][:4]
    table = table_of(made, {key: record for key, record in commits.items() if key not in gone})
    for text in (markdown(table), latex(table)):
        assert "over seeds, n = 3." in text
        assert "sample standard deviation (ddof = 1)" in text
        assert "mini profile" in text
        assert "rankings at this size prove nothing" in text
        assert "finetune.steps=60" in text
        assert "Stand-in data: Flowers 17 in place of Flowers 102." in text
        assert "The U-Net has width 8." in text
        assert "1 of 36 groups are incomplete" in text
        assert "4 of 108 values are not there: 4 missing" in text
        assert "(2/3)" in text
    assert " — |" in markdown(table)


def test_an_empty_plan_still_renders() -> None:
    table = table_of(plan([]), {})
    assert "Made up" in markdown(table)
    assert r"\end{tabular}" in latex(table)
    terminal(table, io.StringIO())


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("a~b", r"a\textasciitilde{}b"),
        ("x^2", r"x\textasciicircum{}2"),
        ("—", "---"),
        ("[ours] *", "{[}ours{]} {*}"),
    ],
)
def test_escape(raw: str, safe: str) -> None:
    assert escape(raw) == safe
