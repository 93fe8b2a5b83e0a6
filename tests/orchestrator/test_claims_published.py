"""The claims of both papers on the papers' own means and stds: as the paper says, and told where they are not."""

from __future__ import annotations

import pytest

from orchestrator.grid.claims import parse_claims
from orchestrator.grid.load import builtin_grids, load_request
from orchestrator.results.claims import Finding, evaluate
from orchestrator.results.claims.facts import Facts, facts_of_references
from orchestrator.results.claims.written import claims_md, in_short
from orchestrator.results.references import load
from tests.orchestrator.results_made_up import plan

TABLES = [name for name in builtin_grids() if load_request(name).grid.claims and load_request(name).grid.references]
# What the papers' own numbers do not bear out. All other claims with a std hold; those without have the order stated.
NOT_BORNE_OUT = {
    "p1-c2": ("fails", 0),  # SimCLR is below a random start on Flowers
    "p1-c5": ("undecided", 0),  # SimCLR is above a random start on Pets
    "p2-c4": ("not testable", 4),  # trained, ResNet50 is ahead of self-attention: 4 of 6 comparisons
    "p2-c8": ("not testable", 1),  # colorization is ahead of BYOL for one of two networks
}
# As stated, but three runs with these stds cannot show it.
OPEN = {"p1-c18", "p1-c33"}
SINGLE = {"p1-c12"}  # one run of the random start in Table 3


def findings(name: str) -> dict[str, Finding]:
    grid = load_request(name).grid
    claims = parse_claims(grid.claims)
    beside = {other: load(other) for claim in claims for other in getattr(claim, "beside", [])}
    published = facts_of_references(load(grid.references or name), grid.table.model_dump(), beside)
    nothing = Facts((), grid.table.value[0])
    return {finding.claim.id: finding for finding in evaluate(claims, nothing, published)}


@pytest.mark.parametrize("name", TABLES)
def test_claims_come_out_as_the_paper_says(name: str) -> None:
    for key, finding in findings(name).items():
        printed = finding.published
        parts = len(printed.parts)
        assert parts, (key, printed.reason)
        if key in NOT_BORNE_OUT:
            assert (printed.answer, printed.stated) == NOT_BORNE_OUT[key], key
            assert printed.stated < parts
            continue
        assert printed.stated == parts, (key, printed)
        expected = "not testable" if name.startswith("p2") or key in SINGLE else "undecided" if key in OPEN else "holds"
        assert printed.answer == expected, (key, printed.answer, printed.p)


def test_every_table_with_results_has_claims() -> None:
    assert {"p1-table2", "p1-table3", "p1-table4", "p1-table5", "p1-table6"} <= set(TABLES)
    assert {"p2-table2", "p2-table3", "p2-table4", "p2-table5"} <= set(TABLES)
    every = {key for name in TABLES for key in findings(name)}
    assert {*NOT_BORNE_OUT, *OPEN, *SINGLE} <= every


def test_the_output_says_that_simclr_is_below_random_on_flowers() -> None:
    found = findings("p1-table2")
    told = in_short(found["p1-c2"].published)
    assert told == "fails, not as stated"
    text = claims_md(list(found.values()), plan([]))
    assert f"| {told} |" in text
    assert "-0.733 [-1.27, -0.199] points" in text  # by hand: (-1.4 - 0.6 - 0.2) / 3, Welch over six groups
    assert "The paper's own table says the opposite" in text


def test_published_verdicts_say_how_they_were_found() -> None:
    found = findings("p1-table2")["p1-c7"].published
    assert "Welch" in found.method and "unpaired" in found.method and "n = 3 assumed" in found.method
    assert "Schuirmann 1987" in found.source and "Satterthwaite" in found.source
    single = findings("p2-table3")["p2-c5"].published
    assert (single.answer, single.reason) == ("not testable", "2 of 2 groups have one run or no std")


def test_a_std_printed_as_zero_is_rounding() -> None:
    """Random on Flowers at 20 %: 94.3 ± 0.0 stands for a std below 0.05."""
    facts = facts_of_references(load("p1-table2"), {"value": ["dice"], "unit": "percent"})
    (group,) = [g for g in facts.groups if g.axes["model"] == "Random" and g.axes["dataset"] == "flowers17"
                and g.axes["fraction"] == 0.2]  # fmt: skip
    assert group.printed is not None and group.printed.std == pytest.approx(0.05)
