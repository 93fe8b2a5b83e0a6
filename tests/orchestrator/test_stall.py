"""A run that stands still says why, and one that never can go on ends with the reason. The clock is a list's number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.stall import AGAIN_SECONDS, QUIET_SECONDS, StallCheck, cluster_words
from orchestrator.grid.schema import Run
from orchestrator.record.leases import acquire, holder
from orchestrator.record.store import Store, open_store
from tests.orchestrator.made_up import graph, stage


class Case:
    """A frontier of a pretrain and its cell, its check, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.store: Store = open_store(str(folder), create=True)
        self.frontier = Frontier(graph(stage("a" * 24, kind="pretrain"), stage("b" * 24, "a" * 24)))
        self.said: list[str] = []
        self.now = 0.0
        self.check = StallCheck(self.frontier, self.store, "mine", self.said.append, self.there, lambda: self.now)

    def there(self, kinds: Mapping[str, int]) -> str:
        return f"asked of {dict(kinds)}"

    def after(self, seconds: float) -> list[str]:
        self.now += seconds
        self.check.look()
        told, self.said[:] = list(self.said), []
        return told


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "runs")


def test_a_stage_that_no_worker_begins_is_told_and_told_again_only_later(case: Case) -> None:
    case.frontier.take()
    assert case.after(QUIET_SECONDS - 1) == []
    assert case.after(2) == ["nothing runs: 1 pretrain wait for a worker; asked of {'pretrain': 1}"]
    assert case.after(60) == [] and len(case.after(AGAIN_SECONDS)) == 1
    assert case.frontier.stopped is None  # an autoscaler may bring a node yet


def test_a_worker_that_beats_is_no_stall(case: Case) -> None:
    [taken] = case.frontier.take()
    lease = acquire(case.store, taken.key, {**holder("mine"), "kind": "pretrain", "name": "x"})
    assert lease is not None
    for step in range(5):
        lease.renew(step, 9)
        assert case.after(QUIET_SECONDS) == []
    assert len(case.after(QUIET_SECONDS)) == 1  # its beat stands still


def test_a_stage_that_ends_starts_the_clock_anew(case: Case) -> None:
    case.frontier.take()
    case.after(QUIET_SECONDS - 1)
    case.frontier.succeed("a" * 24)
    case.frontier.take()
    assert case.after(2) == [] and case.after(QUIET_SECONDS - 3) == [] and len(case.after(4)) == 1


def test_what_another_run_holds_is_told_with_its_holder(case: Case) -> None:
    [taken] = case.frontier.take()
    other = {**holder("theirs"), "kind": "pretrain", "name": "conrec | pets", "node": "gpu7", "pid": 12}
    assert acquire(case.store, taken.key, other) is not None
    case.frontier.defer(taken.key)
    [told] = case.after(QUIET_SECONDS + 1)
    assert "in work in another run: pretrain conrec | pets (on gpu7, process 12); this run waits for it" in told
    assert case.frontier.stopped is None


def test_a_run_in_which_nothing_can_proceed_ends_with_the_reason(case: Case) -> None:
    case.frontier.running.clear()
    case.frontier.take()
    case.frontier.running.clear()  # lost: nobody has it, nobody gives it back
    assert case.after(QUIET_SECONDS + 1) == []
    assert case.frontier.stopped == "nothing can proceed: 1 pretrain, 1 finetune wait for what never ends"
    assert case.frontier.done


def test_the_words_for_a_cluster_say_what_is_asked_and_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    run = Run.model_validate({"resources": {"finetune": {"cpus": 16}}})
    assert cluster_words(run)({"finetune": 3}) == (
        "a finetune asks for 16 CPU and 0 GPU; the cluster has 1 node, the largest with 8 CPU and 0 GPU; "
        "no node is large enough: lower run.resources, or add nodes"
    )
    assert cluster_words(Run())({"finetune": 3}).endswith("others may be using them")
