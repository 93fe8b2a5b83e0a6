"""A process that has lost its GPU runs no other stage, and the stage is no loop of dying workers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import RayTaskError

from orchestrator.execute import deaths
from orchestrator.execute.elsewhere import Elsewhere
from orchestrator.execute.frontier import Frontier
from orchestrator.execute.inline import run_inline
from orchestrator.execute.listener import Listener
from orchestrator.execute.outcome import DeviceLost, Job, Outcome
from orchestrator.execute.run_stage import run_fused, run_stage
from orchestrator.plan.stages import Stage
from orchestrator.record.leases import acquire, holder
from orchestrator.record.store import open_store
from tests.orchestrator.losing_worker import ASSERTED
from tests.orchestrator.made_up import graph
from tests.orchestrator.test_fusing import cell
from tests.orchestrator.test_run import ROOT, command, environment
from trainables.downstream import fused as fused_module
from trainables.stages import STAGES

TOLD = "its GPU is lost to it: AcceleratorError: CUDA error: device-side assert triggered (on host"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    open_store(str(tmp_path / "runs"), create=True)
    return Job(
        str(tmp_path / "runs"), str(tmp_path), run="here", checkpoint_seconds=0, cache_dir=str(tmp_path / "cache")
    )


def raising(error: Exception) -> Any:
    def call(*given: Any) -> Any:
        raise error

    return call


def is_free(stage: Stage, job: Job) -> bool:
    lease = acquire(open_store(job.store), stage.key, holder("another"))
    if lease is not None:
        lease.release()
    return lease is not None


def test_a_stage_that_loses_its_device_is_given_back_and_nothing_is_written(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = cell("a")
    monkeypatch.setitem(STAGES, "finetune", raising(torch.AcceleratorError(ASSERTED)))
    with pytest.raises(DeviceLost, match="device-side assert") as told:
        run_stage(stage, job)
    assert str(told.value).startswith(TOLD)
    assert is_free(stage, job) and open_store(job.store).failures([stage.key]) == {}


def test_cells_trained_as_one_are_all_given_back_and_not_halved(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, tried = [cell(f"c{n}", seed=n) for n in range(3)], list[int]()

    def lost(specs: Any, contexts: Any) -> Any:
        tried.append(len(specs))
        raise torch.AcceleratorError(ASSERTED)

    monkeypatch.setattr(fused_module, "finetune_fused", lost)
    with pytest.raises(DeviceLost):
        run_fused([(stage, 0) for stage in cells], job)
    assert tried == [3] and all(is_free(stage, job) for stage in cells)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "device"),
        (torch.AcceleratorError("CUDA error: out of memory\nSearch for"), "device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "device"),
        (MemoryError(), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "stage"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_what_ends_a_stage_alone_is_an_outcome(
    job: Job, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    monkeypatch.setitem(STAGES, "finetune", raising(error))
    outcome = run_stage(cell("a"), job)
    assert (outcome.outcome, outcome.cause) == ("failed", cause)


def test_a_device_that_cannot_be_asked_fails_the_stages_and_not_the_worker(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mistake in `limit_device_memory` once did."""
    monkeypatch.setattr("orchestrator.execute.run_stage.limit_device_memory", raising(ValueError("made up")))
    outcomes = [run_stage(cell("a"), job), *run_fused([(cell(f"c{n}", seed=n), 0) for n in range(3)], job)]
    assert [outcome.outcome for outcome in outcomes] == ["failed"] * 4
    assert {outcome.error for outcome in outcomes} == {"ValueError: made up"}


class Silent:
    """A view that shows nothing."""

    def added(self, stage: Stage) -> None: ...
    def started(self, stage: Stage) -> None: ...
    def ended(self, stage: Stage, outcome: Outcome) -> None: ...
    def preempted(self, stage: Stage, outcome: Outcome) -> None: ...


def test_inline_the_run_stops_with_the_reason_and_the_next_one_tries_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [cell("a", cost=2), cell("b", seed=1)]
    frontier, listener = Frontier(graph(*stages)), Listener(Silent())
    monkeypatch.setitem(STAGES, "finetune", raising(torch.AcceleratorError(ASSERTED)))
    store = open_store(job.store)
    run_inline(frontier, job, listener, Elsewhere(store, job.run, 60))
    assert frontier.stopped is not None and TOLD in frontier.stopped and "'a'" in frontier.stopped
    assert set(listener.outcomes) == {stages[0].key}  # the other one was not begun
    failure = store.failures([s.key for s in stages])[stages[0].key]
    assert (failure["outcome"], failure["cause"]) == ("failed", "worker") and failure["error"].startswith(TOLD)
    monkeypatch.undo()
    assert run_stage(stages[0], replace(job, run="next")).outcome == "succeeded"


def test_a_worker_that_tells_what_ends_it_is_quoted_and_one_that_does_not_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deaths, "node_name", lambda node: "gpu3")
    told = deaths.Inquest(RayTaskError("train", "", DeviceLost(TOLD), ip="here"))
    assert (told.verdict(), told.reason, told.words) == ("process", TOLD, f"its worker process: {TOLD}")
    other = deaths.Inquest(RayTaskError("train", "", ValueError("made up\nin two lines"), ip="here"))
    assert (other.verdict(), other.reason) == ("process", "ValueError: made up")
    silent = deaths.Inquest(None)
    assert (silent.verdict(), silent.words) == ("process", "its worker process on gpu3 died")
    assert silent.reason == "killed, or out of memory"


@pytest.mark.durable
def test_on_ray_each_try_has_a_process_of_its_own_and_the_last_one_tells_why(tmp_path: Path) -> None:
    folder, losses = tmp_path / "runs", tmp_path / "losses"
    losses.mkdir()
    hook = {"RAY_RUNTIME_ENV_HOOK": "tests.orchestrator.losing_worker.runtime_env", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command(folder, "--only", "seed=0", "--only", "fraction=0.2"), cwd=ROOT, capture_output=True, text=True,
        env={**environment(tmp_path), **hook, "LOSSES": str(losses)}, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    totals = json.loads(done.stdout)
    assert (totals["succeeded"], totals["failed"], totals["blocked"]) == (3, 1, 2)  # simclr and its cell, and random
    names = [path.name.split("-") for path in losses.iterdir()]
    tries = [pid for method, pid, _ in names if method == "conrec"]
    assert len(tries) == 3 and len({pid for _, pid, _ in names}) == len(names) == 4
    store = open_store(str(folder))
    [failed] = [f for f in store.failures(store.load_plan("smoke")["stages"]).values() if f["outcome"] == "failed"]
    assert failed["cause"] == "worker" and failed["error"].startswith(f"its worker process died 3 times ({TOLD}")
