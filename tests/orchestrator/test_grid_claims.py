"""Claims of a grid: what is read, and one message with file and line for each fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.grid.claims import Difference, Rank, Strongest, parse_claims
from orchestrator.grid.errors import GridError
from orchestrator.grid.load import builtin_grids, load_request
from tests.orchestrator.made_up import GRID, write_grid

CLAIM = """\
claims:
  - id: c1
    statement: ConRec beats a random start.
    source: P1 §3
    test: difference
    rows: {model: ConRec}
    against: {scenario: random-init}
    over: {fraction: [5%, 0.2]}
"""
# What is replaced, by what; the line of the message; what else it says.
WRONG = {
    "no test": ("    test: difference\n", "", 15, "claims.0.test: no test None; allowed: convergence, difference"),
    "unknown test": ("difference", "diference", 18, "claims.0.test: no test 'diference'; did you mean 'difference' or"),
    "unknown key": ("    over:", "    ovr:", 21, "unknown key 'claims.0.ovr'; did you mean 'over'?"),
    "unknown axis": ("{model: ConRec}", "{modle: ConRec}", 19, "'claims.0.rows.modle'; did you mean 'model'"),
    "unknown model": ("ConRec}", "ConRecc}", 19, "claims.0.rows.model: the grid has no such model: 'ConRecc'; did you"),
    "unknown scenario": (
        "random-init}",
        "random}",
        20,
        "against.scenario: the grid has no such scenario: 'random'; did",
    ),
    "unknown fraction": ("0.2]", "0.3]", 21, "over.fraction: the grid has no such fraction: 0.3; did you mean '0.2'?"),
    "unknown metric": ("{fraction: [5%, 0.2]}", "{metric: iou}", 21, "no such metric: 'iou'; allowed: dice"),
    "no such row": (
        "{model: ConRec}",
        "{model: ConRec, scenario: random-init}",
        19,
        "rows: no row of the grid has all",
    ),
    "no margin of equality": ("test: difference", "test: equivalence", 15, "claims.0.margin is missing"),
    "margin zero": (
        "test: difference",
        "test: equivalence\n    margin: 0",
        19,
        "margin: expected greater than 0, but got 0",
    ),
    "a word for the margin": (
        "    over:",
        "    margin: much\n    over:",
        21,
        "claims.0.margin: expected a number, but got 'much'",
    ),
    "alpha of one": ("    over:", "    alpha: 1\n    over:", 21, "claims.0.alpha: expected less than 0.5, but got 1"),
    "no statement": ("    statement: ConRec beats a random start.\n", "", 15, "claims.0.statement is missing"),
    "empty source": ("source: P1 §3", "source: ''", 17, "claims.0.source: expected some words, but got none"),
    "a blank in the id": ("id: c1", "id: c 1", 15, "claims.0.id: expected at most 100 letters, digits, dots"),
    "unknown grid beside": (
        "    over:",
        "    beside: [p1-tabel2]\n    over:",
        21,
        "no built-in grid 'p1-tabel2'; did you mean",
    ),
    "unknown place": (
        "test: difference",
        "test: strongest\n    at: middle",
        19,
        "at: expected 'smallest' or 'largest' of the",
    ),
    "unknown data set": (
        "test: difference",
        "test: strongest\n    along: dataset\n    at: pets",
        20,
        "at: the grid has no such dataset: 'pets'; did you mean",
    ),
    "no match of ranks": ("test: difference", "test: rank", 15, "claims.0.match is missing"),
    "a claim that is a word": ("  - id: c1\n", "  - c1\n  - id: c1\n", 15, "claims.0: expected a mapping (key: value)"),
    "the same id": (CLAIM[8:], CLAIM[8:] * 2, 22, "claims.0 and claims.1 have the same id 'c1'; change one"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_is_named_with_its_line(tmp_path: Path, fault: str) -> None:
    old, new, line, says = WRONG[fault]
    assert old in CLAIM
    name = write_grid(tmp_path, GRID + CLAIM.replace(old, new, 1))
    with pytest.raises(GridError) as caught:
        load_request(name)
    text = str(caught.value)
    assert text.startswith(f"{name}:{line}: "), text
    assert says in text, text
    assert "\n" not in text and "pydantic" not in text


LOOKS = GRID.replace("seeds: [0, 1]", "seeds: {looks: [3, 5], until: claims}") + CLAIM


def test_seeds_by_looks_are_those_of_the_last_one(tmp_path: Path) -> None:
    grid = load_request(write_grid(tmp_path, LOOKS), only=["fraction=0.2"]).grid
    assert grid.seeds == [0, 1, 2, 3, 4]
    assert grid.looks is not None and (grid.looks.looks, grid.looks.rule) == ([3, 5], "pocock")
    assert load_request(write_grid(tmp_path, LOOKS), overrides=["seeds=[1]"]).grid.looks is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[3, 5]", "[5, 3]", "seeds: expected two looks or more, each with more seeds than the one before, not [5, 3]"),
        ("[3, 5]", "[3]", "seeds: expected two looks or more, each with more seeds"),
        ("[3, 5]", "[1, 3]", "seeds.looks.0: expected greater than or equal to 2, but got 1"),
        ("looks:", "look:", "unknown key 'seeds.look'; did you mean 'looks'?"),
        ("until: claims", "until: ever", "seeds.until: expected 'claims', but got 'ever'"),
        ("until: claims", "rule: haybittle", "seeds.rule: expected 'pocock' or 'obrien-fleming', but got 'haybittle'"),
        (CLAIM, "", "seeds: looks go on until claims are decided; add `claims:`, or list the seeds"),
    ],
)
def test_wrong_looks_are_named_with_their_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    name = write_grid(tmp_path, LOOKS.replace(old, new, 1))
    with pytest.raises(GridError) as caught:
        load_request(name)
    assert str(caught.value).startswith(f"{name}:13: ") and says in str(caught.value)


def test_what_a_claim_says(tmp_path: Path) -> None:
    request = load_request(write_grid(tmp_path, GRID + CLAIM))
    (claim,) = parse_claims(request.grid.claims)
    assert isinstance(claim, Difference)
    assert (claim.rows.model, claim.over.fraction, claim.margin, claim.alpha) == (["ConRec"], [0.05, 0.2], 0.0, 0.05)


@pytest.mark.parametrize("override", ["rows.1.model=Other", "columns.0.fractions=[0.5]", "network.name=classic-unet"])
def test_a_row_changed_by_hand_is_no_fault_of_the_claim(tmp_path: Path, override: str) -> None:
    """The result will say that there is nothing to test."""
    load_request(write_grid(tmp_path, GRID + CLAIM), overrides=[override])


def test_a_claim_changed_by_hand_is_checked(tmp_path: Path) -> None:
    name = write_grid(tmp_path, GRID + CLAIM)
    with pytest.raises(GridError, match=r"--set claims\.0\.rows\.model=Conrek: .* no such model: 'Conrek'"):
        load_request(name, overrides=["claims.0.rows.model=Conrek"])
    (claim,) = parse_claims(load_request(name, overrides=["claims.0.margin=-2"]).grid.claims)
    assert isinstance(claim, Difference) and claim.margin == -2


def test_only_keeps_the_claims(tmp_path: Path) -> None:
    request = load_request(write_grid(tmp_path, GRID + CLAIM), only=["model=ConRec"])
    assert len(request.grid.claims) == 1


def test_claims_of_the_built_in_grids() -> None:
    claims = {name: parse_claims(load_request(name).grid.claims) for name in builtin_grids()}
    for name in (
        "p1-table2",
        "p1-table3",
        "p1-table4",
        "p1-table5",
        "p1-table6",
        *(f"p2-table{n}" for n in range(2, 6)),
    ):
        assert claims[name], name
    everything = [claim for found in claims.values() for claim in found]
    ids = [claim.id for claim in everything]
    assert len(set(ids)) == len(ids) >= 48
    assert all(claim.id.startswith(name[:2]) and claim.source.startswith(name[:2].upper())
               for name, found in claims.items() for claim in found)  # fmt: skip
    assert {Strongest, Rank, Difference} <= {type(claim) for claim in everything}
