"""Seeds by looks: who gets the next ones, what is saved, and that the store alone says where a run stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator.execute.driver import Report
from orchestrator.grid.load import Request, load_request
from orchestrator.look_rounds import Rounds, merged
from orchestrator.plan.build import Plans
from orchestrator.plan.diff import Diff, diff
from orchestrator.plan.expand import expand
from orchestrator.plan.stages import Cell
from orchestrator.record.store import Store, open_store
from tests.orchestrator.made_up import GRID, present, write_grid
from tests.orchestrator.results_made_up import commit

ABOUT = "statement: s, source: s, test: difference, rows: {model: ConRec}, against: {model: Random}"
CLAIMS = f"""\
claims:
  - {{id: clear, {ABOUT}, over: {{fraction: 0.2}}}}
  - {{id: close, {ABOUT}, over: {{fraction: 0.05}}}}
"""
LOOKS = GRID.replace("seeds: [0, 1]", "seeds: {looks: [3, 5, 10], until: claims}") + CLAIMS
Value = Callable[[Cell], float | None]


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return load_request(write_grid(tmp_path, LOOKS))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs"), create=True)


def planned(request: Request) -> Plans:
    return Plans((expand(request.grid, request.profile, present),), (), ())


def clear_and_close(cell: Cell) -> float:
    """A lead of 20 points at 20 %, of nothing at 5 %."""
    luck = np.random.default_rng((cell.seed, int(100 * (cell.fraction or 0)), len(cell.model))).standard_normal()
    return 0.5 + 0.01 * float(luck) + (0.2 if cell.model == "ConRec" and cell.fraction == 0.2 else 0.0)


def run(request: Request, store: Store, value: Value) -> tuple[Rounds, list[Counter[str]]]:
    """As `run_grid` does it, every stage a commit: the rounds, and what each of them ran."""
    rounds, plans, ran = Rounds([request], store), planned(request), []

    def compare(part: Plans) -> Diff:
        failed = dict.fromkeys(store.failures(k for plan in part.plans for k in plan.stages), "no")
        return diff(part.plans, store.finished(), failed)

    part, found = rounds.until_something_to_do(plans, compare)
    while found.planned:
        cells = {cell.key: cell for plan in part.plans for cell in plan.cells}
        ran.append(Counter(f"{c.model} {c.fraction}" for key in found.planned if (c := cells.get(key))))
        for key in found.planned:
            reached = value(cells[key]) if key in cells else 0.0
            if reached is None:
                store.fail({"key": key, "outcome": "failed", "cause": "stage", "error": "no"})
            else:
                store.commit(commit(key, dice=reached))
        if not rounds.advance(part):
            break
        part, found = rounds.until_something_to_do(plans, compare)
    return rounds, ran


def test_claims_count_before_the_first_look(request_: Request, store: Store) -> None:
    (told,) = Rounds([request_], store).record()
    assert (told["claims"], told["decided"]) == (2, 0)


def test_only_cells_of_open_claims_get_further_seeds(request_: Request, store: Store) -> None:
    rounds, ran = run(request_, store, clear_and_close)
    close = {"Random 0.05", "ConRec 0.05"}
    assert set(ran[0].values()) == {3} and len(ran[0]) == 4
    assert [set(round_) for round_ in ran[1:]] == [close, close]
    assert [set(round_.values()) for round_ in ran[1:]] == [{2}, {5}]
    (told,) = rounds.record()
    assert told == {
        "grid": "mine",
        "sizes": [3, 5, 10],
        "released": 26,
        "most": 40,
        "claims": 2,
        "decided": 1,
        "saved": 14,
    }
    (line,) = rounds.lines()
    assert "26 of at most 40 runs" in line and "14 saved so far; 1 of 2 claims decided" in line


def test_the_same_command_finds_its_look_again(request_: Request, store: Store) -> None:
    first, _ = run(request_, store, clear_and_close)
    again, ran = run(request_, store, clear_and_close)
    assert ran == []
    assert again.record() == first.record()


def test_a_plan_holds_what_is_released_and_what_it_needs(request_: Request, store: Store) -> None:
    plans = planned(request_)
    (part,) = Rounds([request_], store).released(plans).plans
    assert [cell.seed for cell in part.cells] == [0, 1, 2] * 4
    kinds = Counter(stage.kind for stage in part.stages.values())
    assert (kinds["finetune"], kinds["pretrain"]) == (12, 1)
    assert {parent for s in part.stages.values() for parent in s.parents.values()} <= part.stages.keys()


def test_groups_without_any_value_get_no_further_seeds(request_: Request, store: Store) -> None:
    rounds, ran = run(request_, store, lambda cell: None if cell.model == "ConRec" else 0.5)
    assert len(ran) == 1 and rounds.record()[0]["released"] == 12


def test_a_failed_seed_is_one_less_and_stops_nothing(request_: Request, store: Store) -> None:
    rounds, ran = run(request_, store, lambda cell: None if cell.seed == 1 else clear_and_close(cell))
    assert len(ran) == 3 and rounds.record()[0]["decided"] == 1


def test_a_grid_with_listed_seeds_is_left_alone(tmp_path: Path, store: Store) -> None:
    request = load_request(write_grid(tmp_path, GRID))
    rounds, plans = Rounds([request], store), planned(request)
    assert not rounds and rounds.released(plans) == plans and not rounds.advance(plans)
    assert rounds.record() == [] and list(rounds.lines()) == []


def test_a_row_with_seeds_of_its_own_keeps_them(tmp_path: Path, store: Store) -> None:
    text = LOOKS.replace("model: Random}\n", "model: Random, seeds: [7]}\n", 1)
    request = load_request(write_grid(tmp_path, text))
    (part,) = Rounds([request], store).released(planned(request)).plans
    assert Counter(cell.model for cell in part.cells) == {"Random": 2, "ConRec": 6}


def test_rounds_add_up() -> None:
    first = Report(succeeded=4, executed={"finetune": 3, "pretrain": 1}, failed={"a": "no"}, wasted=1)
    second = Report(succeeded=6, executed={"finetune": 2}, failed={"b": "no"}, interrupted=True, not_in_mlflow=1)
    both = merged(first, second)
    assert (both.succeeded, both.executed, set(both.failed)) == (6, {"finetune": 5, "pretrain": 1}, {"a", "b"})
    assert (both.wasted, both.interrupted, both.not_in_mlflow) == (1, True, 1)
