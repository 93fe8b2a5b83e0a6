"""Finetunes trained as one: who goes together, when it pays, and what becomes of each where one of them fails."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orchestrator.execute.frontier import Frontier
from orchestrator.execute.fusing import Fusing
from orchestrator.execute.outcome import Job, Outcome
from orchestrator.execute.run_stage import run_fused, run_stage
from orchestrator.grid.schema import Run
from orchestrator.plan.stages import Stage
from orchestrator.record.leases import acquire, holder
from orchestrator.record.store import Store, open_store
from tests.chaos.processes import descendants, kill
from tests.orchestrator.made_up import graph, planned
from tests.orchestrator.test_run import ROOT, command, environment, executed, metrics, run
from trainables.data import open_dataset
from trainables.data.survey import survey
from trainables.downstream import finetune as finetune_module
from trainables.downstream import fused as fused_module
from trainables.randomness import derive

FUSED = ["--set", "backend.fused=true"]
OPTIONS = {"count": 40, "size": 32}
FINGERPRINT = survey(open_dataset("shapes", Path(), OPTIONS)).fingerprint


def cell(name: str, *, seed: int = 0, n_train: int = 8, cost: float = 1.0, fused: bool = True, **more: object) -> Stage:
    """A finetune of six steps."""
    dials = {"steps": 6, "batch": 4, "input_size": 32, "report_every": 3, "curve_images": 4, **more}
    spec = {
        "scenario": "random-init",
        "frozen": False,
        "network": {"name": "conrec-unet", "width": 4},
        "data": {"reader": "shapes", "options": OPTIONS, "fraction": None, "n_train": n_train},
        "finetune": dials,
        "backend": {"fused": fused},
        "seed": seed,
    }
    return Stage(f"{name:0>24}", "finetune", spec, {}, FINGERPRINT, name, {}, cost)


def ended(stage: Stage, seconds: float, *, together: int = 1, resumed: bool = False) -> Outcome:
    return Outcome(stage.key, "succeeded", seconds=seconds, fused=together, resumed=resumed)


# Which way ----------------------------------------------------------------------------------------------------------


def test_both_ways_are_tried_then_the_faster_one_goes_on() -> None:
    cells, fusing = [cell(f"c{n}", cost=10) for n in range(8)], Fusing("measured")
    assert fusing.pays(cells[0]) and fusing.most(cells[0], Run(fused_cells=16, pack=8)) == 8
    assert fusing.most(cells[0], Run(fused_cells=3, pack=8)) == 3 and fusing.most(cells[0], Run(pack=1)) == 2
    assert Fusing("always").most(cells[0], Run(fused_cells=16, pack=8)) == 16
    fusing.handed_out(cells[:2], 1.0, fused=True)
    assert not fusing.pays(cells[2])  # nothing is known yet, and two went fused
    fusing.handed_out(cells[2:4], 0.25, fused=False)
    fusing.learn(cells[0], ended(cells[0], 30, together=2))
    assert fusing.pays(cells[4])  # as many went either way
    fusing.handed_out(cells[4:5], 1.0, fused=True)
    assert not fusing.pays(cells[5])
    fusing.learn(cells[2], ended(cells[2], 100, resumed=True))  # not all of its time
    assert not fusing.pays(cells[5])
    fusing.learn(cells[2], ended(cells[2], 100))  # 100 s on a quarter: 25 s of a device
    assert not fusing.pays(cells[5])
    fusing.learn(cells[4], ended(cells[4], 10, together=2))  # 40 s for two, against 25 for one
    assert fusing.pays(cells[5]) and fusing.most(cells[5], Run(fused_cells=16, pack=8)) == 16


def test_what_may_not_be_fused_never_is() -> None:
    assert not Fusing("always").pays(cell("a", fused=False))
    assert not Fusing("always").pays(replace(cell("a"), kind="probe"))
    fusing = Fusing("always")
    fusing.refuse([cell("a").key])
    assert not fusing.pays(cell("a")) and fusing.pays(cell("b"))


def test_cells_of_equal_shape_go_together_whatever_their_parents_and_however_long() -> None:
    shape = Fusing("always").shape
    stages = [
        replace(cell("a", seed=1, cost=1000), parents={"pretrain": "p"}),
        cell("b", seed=2, cost=1000, n_train=9),
        cell("c", steps=7, cost=900),
        cell("d", n_train=3, cost=900),  # a batch of three
        cell("e", seed=3, cost=800),
    ]
    frontier = Frontier(graph(*stages), finished=["p"])
    assert frontier.next == stages[0]
    assert [stage.name for stage in frontier.take(most=8)] == ["a"]  # 1000 s are too long to travel with others
    frontier.give_back(stages[0].key)
    assert [stage.name for stage in frontier.take(most=8, shape=shape)] == ["a", "b", "e"]
    assert frontier.ready == 2
    assert Frontier({}).next is None


def test_only_finetunes_that_can_be_fused_have_it_in_their_key() -> None:
    plain, fused = (planned("smoke", overrides=o) for o in ([], ["backend.fused=true"]))
    changed = set(plain.stages) ^ set(fused.stages)
    kinds = {(plain.stages | fused.stages)[key].kind for key in changed}
    assert kinds == {"finetune"} and len(changed) == 2 * len(plain.cells)
    lars = [planned("smoke", overrides=["finetune.optimizer=lars", *o]) for o in ([], ["backend.fused=true"])]
    assert set(lars[0].stages) == set(lars[1].stages)


# In a worker --------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Job:
    open_store(str(tmp_path / "runs"), create=True)
    return Job(
        str(tmp_path / "runs"), str(tmp_path), run="here", checkpoint_seconds=0, cache_dir=str(tmp_path / "cache")
    )


def store_of(job: Job) -> Store:
    return open_store(job.store)


def test_each_cell_commits_on_its_own_with_its_part_of_the_time(job: Job) -> None:
    gentle = {"optimizer": "sgd", "learning_rate": 1e-3, "momentum": 0.0}  # does not multiply the last digits
    cells = [cell(f"c{n}", seed=n, n_train=5 + n, **gentle) for n in range(3)]
    began = time.time()
    outcomes = run_fused([(stage, 0) for stage in cells], job)
    passed = time.time() - began
    assert {outcome.key for outcome in outcomes} == {stage.key for stage in cells}
    assert all(o.outcome == "succeeded" and o.executed and o.fused == 3 for o in outcomes)
    assert 0 < sum(outcome.seconds for outcome in outcomes) <= passed + 0.01
    commits = store_of(job).commits(stage.key for stage in cells)
    assert [commits[stage.key]["facts"]["n_train"] for stage in cells] == [5, 6, 7]
    for stage in cells:
        alone = run_stage(stage, replace(job, again=True))
        assert commits[stage.key]["metrics"]["dice"] == pytest.approx(alone.metrics["dice"], abs=1e-4)
        history = json.loads(store_of(job).artifact(commits[stage.key]["artifacts"]["history"]))
        assert [point["step"] for point in history] == [0, 3, 6]
    assert len({round(commits[stage.key]["metrics"]["dice"], 3) for stage in cells}) == 3
    again = run_fused([(stage, 0) for stage in cells], job)
    assert not any(outcome.executed for outcome in again)


def test_a_cell_at_fault_fails_alone_and_one_held_elsewhere_is_left_alone(job: Job) -> None:
    good = [cell(f"g{n}", seed=n) for n in range(2)]
    lone = cell("n", n_train=4000)
    held = cell("h", seed=9)
    assert acquire(store_of(job), held.key, holder("another")) is not None
    outcomes = {o.key: o for o in run_fused([(s, 0) for s in (*good, lone, held)], job)}
    assert [outcomes[s.key].outcome for s in (*good, lone, held)] == ["succeeded", "succeeded", "failed", "elsewhere"]
    assert "4000" in (outcomes[lone.key].error or "")


def test_cells_that_diverge_leave_the_others(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four, by weights that are not finite; they were counted as trained together all the same."""
    cells = [cell(f"d{n}", seed=n) for n in range(4)]
    whole = finetune_module.build_network

    def broken(settings, out_channels):
        network = whole(settings, out_channels)
        if torch.initial_seed() in seeds:
            torch.nn.init.constant_(next(network.parameters()), float("nan"))
        return network

    seeds = {derive(n, "init") for n in (1, 3)}
    monkeypatch.setattr(finetune_module, "build_network", broken)
    outcomes = {o.key: o for o in run_fused([(stage, 0) for stage in cells], job)}
    assert [outcomes[s.key].outcome for s in cells] == ["succeeded", "failed", "succeeded", "failed"]
    assert all("not finite" in (outcomes[cells[n].key].error or "") for n in (1, 3))
    assert [outcomes[cells[n].key].fused for n in (0, 2)] == [4, 4]
    assert set(store_of(job).commits(stage.key for stage in cells)) == {cells[0].key, cells[2].key}


def test_where_memory_is_short_the_halves_go_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tried = fused_module.finetune_fused, list[int]()

    def at_most_two(specs, contexts):
        tried.append(len(specs))
        if len(specs) > 2:
            raise torch.OutOfMemoryError("made up: more than two do not fit")
        return whole(specs, contexts)

    monkeypatch.setattr(fused_module, "finetune_fused", at_most_two)
    outcomes = run_fused([(cell(f"c{n}", seed=n), 0) for n in range(5)], job)
    assert tried == [5, 3, 2, 2]  # three, of which two and one; two
    assert len(outcomes) == 5 and all(outcome.outcome == "succeeded" for outcome in outcomes)
    assert sorted(outcome.fused for outcome in outcomes) == [1, 2, 2, 2, 2]


def test_who_loses_a_lease_leaves_the_others(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell(f"c{n}", seed=n) for n in range(3)]
    whole, saves = Store.save_checkpoint, list[str]()

    def taken_over(self: Store, key: str, *args) -> None:
        whole(self, key, *args)
        saves.append(key)
        if len(saves) == 4:  # somebody else takes the second cell for dead
            assert acquire(self, cells[1].key, holder("another"), over=1) is not None

    monkeypatch.setattr(Store, "save_checkpoint", taken_over)
    outcomes = {o.key: o for o in run_fused([(stage, 0) for stage in cells], job)}
    assert [outcomes[s.key].outcome for s in cells] == ["succeeded", "elsewhere", "succeeded"]
    assert all(outcomes[cells[n].key].resumed for n in (0, 2))


# Whole runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_trains_cells_as_one_and_finds_what_it_finds_alone(tmp_path: Path) -> None:
    some = ["--only", "fraction=0.2", "--only", "scenario=random-init", "--only", "scenario=seg-enc"]
    totals = run(tmp_path / "alone", *some, "--executor", "inline")
    alone = store_metrics(tmp_path / "alone")
    together = run(tmp_path / "runs", *some, *FUSED, "--set", "run.fusing=always")
    assert executed(together) == executed(totals)
    found, store = store_metrics(tmp_path / "runs"), open_store(str(tmp_path / "runs"))
    facts = [record["facts"] for record in store.commits(store.finished()).values() if record["kind"] == "finetune"]
    assert max(fact.get("fused", 1) for fact in facts) > 1
    assert found.keys() == alone.keys()
    for name, dice in alone.items():
        assert found[name] == pytest.approx(dice, abs=0.02), name


def store_metrics(folder: Path) -> dict[str, float]:
    """Dice by the names of the cells."""
    store = open_store(str(folder))
    commits = store.commits(store.finished()).values()
    return {record["name"]: record["metrics"]["dice"] for record in commits if record["kind"] == "finetune"}


@pytest.mark.durable
def test_a_worker_killed_while_it_trains_several_loses_none(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    long = ["--set", "finetune.steps=120", "--set", "finetune.report_every=60", "--set", "run.checkpoint_seconds=1"]
    some = ["--only", "scenario=random-init", *long, *FUSED, "--set", "run.fusing=always"]
    process = subprocess.Popen(
        command(folder, *some), cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not list(folder.glob("checkpoints/**/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert process.poll() is None, "it ended before a checkpoint was written"
    workers = [p for p in descendants(process.pid) if "Trainable.train" in p.command]
    assert workers
    kill(workers[0])
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    totals = json.loads(out)
    assert (totals["failed"], totals["blocked"], totals["wasted"]) == (0, 0, 0)
    assert len(metrics(open_store(str(folder)))) == totals["succeeded"] == totals["cells"]
