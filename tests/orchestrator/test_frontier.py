"""Parents first, the longest path first, packs that starve nobody, and a failure that stops only what needs it."""

from __future__ import annotations

import random

import pytest

from orchestrator.execute.frontier import Frontier
from orchestrator.plan.stages import Stage
from tests.orchestrator.made_up import graph, stage


def keys(pack: list[Stage]) -> list[str]:
    return [s.key for s in pack]


def test_children_wait_for_all_their_parents() -> None:
    frontier = Frontier(graph(stage("a"), stage("b"), stage("c", "a", "b")))
    assert {keys(frontier.take())[0], keys(frontier.take())[0]} == {"a", "b"}
    assert frontier.take() == []
    frontier.succeed("a")
    assert frontier.take() == [] and not frontier.done
    frontier.succeed("b")
    assert keys(frontier.take()) == ["c"]
    frontier.succeed("c")
    assert frontier.done


def test_a_diamond_runs_its_end_once() -> None:
    frontier = Frontier(graph(stage("a"), stage("b", "a"), stage("c", "a"), stage("d", "b", "c")))
    order = []
    while pack := frontier.take():
        order += keys(pack)
        frontier.succeed(order[-1])
    assert order[0] == "a" and order[-1] == "d" and sorted(order) == ["a", "b", "c", "d"]


def test_the_longest_path_goes_first_not_the_dearest_stage() -> None:
    frontier = Frontier(
        graph(stage("dear", cost=5), stage("root", cost=1), stage("next", "root", cost=3), stage("end", "next", cost=3))
    )
    assert keys(frontier.take()) == ["root"]
    assert keys(frontier.take()) == ["dear"]
    frontier.succeed("root")
    assert keys(frontier.take()) == ["next"]


def test_imports_go_before_what_trains_for_hours() -> None:
    """They take moments, and tell at once of a wrong file; among themselves the longest path goes first."""
    made = graph(
        stage("long", kind="pretrain", cost=9000), stage("below", "long", cost=90),
        stage("file", kind="import"), stage("other file", kind="import"),
        stage("cell", "file"), stage("other cell", "other file", cost=5),
    )  # fmt: skip
    frontier = Frontier(made)
    packs = [frontier.take(slots=1, most=8) for _ in range(3)]
    assert [keys(pack) for pack in packs] == [["other file"], ["file"], ["long"]]
    assert frontier.urgency(packs[0]) > frontier.urgency(packs[1]) > frontier.urgency(packs[2])
    frontier.succeed("other file")
    frontier.succeed("long")
    assert keys(frontier.take()) == ["below"]  # what needs an import is as urgent as it is long


def test_equal_stages_go_in_the_order_of_the_plan() -> None:
    frontier = Frontier(graph(*(stage(f"s{n}") for n in (3, 1, 2))))
    assert [keys(frontier.take())[0] for _ in range(3)] == ["s3", "s1", "s2"]


def test_finished_parents_count_as_done_and_strays_are_an_error() -> None:
    assert keys(Frontier(graph(stage("b", "a")), finished=["a"]).take()) == ["b"]
    with pytest.raises(ValueError, match="neither finished nor to run"):
        Frontier(graph(stage("b", "a")))


def test_a_pack_holds_siblings_only() -> None:
    frontier = Frontier(
        graph(*(stage(f"x{n}", "x") for n in range(3)), *(stage(f"y{n}", "y") for n in range(3)), stage("z")),
        finished=["x", "y"],
    )
    packs = [frontier.take(slots=1, most=8) for _ in range(3)]
    assert [keys(p) for p in packs] == [["x0", "x1", "x2"], ["y0", "y1", "y2"], ["z"]]
    assert len(frontier.running) == 7


def test_kinds_do_not_mix_and_parents_of_others_travel_alone() -> None:
    frontier = Frontier(
        graph(
            stage("p1", kind="pretrain", cost=9), stage("p2", kind="pretrain", cost=9), stage("f1"), stage("f2"),
            stage("c1", "p1"), stage("c2", "p2"),
        )
    )  # fmt: skip
    packs = [keys(frontier.take(slots=1, most=8)) for _ in range(3)]
    assert packs == [["p1"], ["p2"], ["f1", "f2"]]  # p2 is not held up behind p1


@pytest.mark.parametrize(("ready", "slots", "most"), [(10, 4, 8), (3, 4, 8), (100, 4, 8), (5, 2, 8), (8, 8, 8)])
def test_packs_leave_work_for_every_slot(ready: int, slots: int, most: int) -> None:
    frontier = Frontier(graph(*(stage(f"s{n}") for n in range(ready))))
    sizes = [len(frontier.take(slots=slots, most=most)) for _ in range(min(slots, ready))]
    assert min(sizes) >= 1 and max(sizes) <= most
    assert sizes[0] == min(most, -(-ready // (2 * slots)))
    assert len(frontier.running) == sum(sizes)


def test_a_failure_blocks_exactly_what_is_below_it() -> None:
    frontier = Frontier(
        graph(
            stage("a"), stage("b"), stage("ab", "a", "b"), stage("b1", "b"), stage("ab1", "ab"), stage("ab2", "ab"),
        )
    )  # fmt: skip
    frontier.take(), frontier.take()
    assert sorted(frontier.fail("a", "boom")) == ["ab", "ab1", "ab2"]
    assert set(frontier.blocked.values()) == {"its parent 'stage a' failed: boom"}
    frontier.succeed("b")
    assert keys(frontier.take()) == ["b1"] and frontier.take() == []
    assert not frontier.done
    frontier.succeed("b1")
    assert frontier.done and frontier.failed == {"a": "boom"} and frontier.succeeded == {"b", "b1"}


def test_two_failures_block_a_common_child_once() -> None:
    frontier = Frontier(graph(stage("a"), stage("b"), stage("c", "a", "b")))
    frontier.take(), frontier.take()
    assert frontier.fail("a", "first") == ["c"]
    assert frontier.fail("b", "second") == []
    assert frontier.done and "first" in frontier.blocked["c"]


def test_what_is_given_back_is_ready_again_once() -> None:
    frontier = Frontier(graph(stage("a"), stage("b", "a")))
    frontier.take()
    frontier.give_back("a")
    frontier.give_back("a")  # it does not run any more
    frontier.give_back("b")  # it never ran
    assert frontier.ready == 1 and not frontier.running
    assert keys(frontier.take()) == ["a"] and frontier.take() == []


@pytest.mark.parametrize("ending", ["succeed", "fail"])
def test_a_late_report_of_a_stage_given_back_counts_once(ending: str) -> None:
    frontier = Frontier(graph(stage("a"), stage("b", "a")))
    frontier.take()
    frontier.give_back("a")
    for _ in range(2):
        frontier.succeed("a") if ending == "succeed" else frontier.fail("a", "late")
    assert keys(frontier.take()) == (["b"] if ending == "succeed" else [])
    frontier.fail("a", "after all")  # the first report counts
    assert ("a" in frontier.succeeded) == (ending == "succeed") and ("a" in frontier.failed) != (
        "a" in frontier.succeeded
    )


def test_an_empty_frontier_is_done() -> None:
    assert Frontier({}).done and Frontier({}).take() == []


def _random_forest(draw: random.Random) -> dict[str, Stage]:
    stages: list[Stage] = []
    for number in range(draw.randint(1, 40)):
        parents = draw.sample([s.key for s in stages], draw.randint(0, min(2, len(stages)))) if stages else []
        kind = "pretrain" if not parents and draw.random() < 0.5 else "finetune"
        stages.append(stage(f"s{number}", *parents, kind=kind, cost=draw.choice([0.0, 1.0, 1.0, 10.0])))
    return graph(*stages)


@pytest.mark.parametrize("seed", range(300))
def test_random_forests_end_whole(seed: int) -> None:
    """Workers take packs, run their stages in order, fail, die and lose stages; at the end each stage ended once."""
    draw = random.Random(seed)
    stages = _random_forest(draw)
    slots, most = draw.randint(1, 5), draw.randint(1, 6)
    frontier = Frontier(stages)
    workers: list[list[Stage]] = []
    ended: dict[str, str] = {}
    turns = 0
    while not frontier.done:
        turns += 1
        assert turns < 5000, "the frontier hangs"
        while len(workers) < slots and (pack := frontier.take(slots=slots - len(workers), most=most)):
            assert 1 <= len(pack) <= most
            assert len({(s.kind, tuple(s.parents.items())) for s in pack}) == 1
            for s in pack:
                assert s.key not in ended
                assert all(ended[parent] == "succeeded" for parent in s.parents.values())
            workers.append(pack)
        assert workers, "nothing runs, yet not all have ended"
        assert {s.key for pack in workers for s in pack} == frontier.running
        worker = draw.choice(workers)
        current, fate = worker.pop(0), draw.random()
        if fate < 0.1:  # the worker dies; all it held is given back
            for lost in [current, *worker]:
                frontier.give_back(lost.key)
            worker.clear()
        elif fate < 0.25:
            ended[current.key] = "failed"
            for key in frontier.fail(current.key, "boom"):
                assert key not in ended
                ended[key] = "blocked"
        else:
            ended[current.key] = "succeeded"
            frontier.succeed(current.key)
        workers = [w for w in workers if w]
    assert ended.keys() == stages.keys() and not frontier.running
    for key, how in ended.items():
        parents = {ended[parent] for parent in stages[key].parents.values()}
        assert (how == "blocked") == bool(parents & {"failed", "blocked"})
    assert frontier.succeeded == {k for k, how in ended.items() if how == "succeeded"}
