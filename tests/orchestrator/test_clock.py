"""A clock of the host that is set back while stages run: durations stay what they were."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execute.outcome import Job, Outcome
from orchestrator.execute.run_stage import run_fused, run_stage
from orchestrator.record.store import open_store
from tests.orchestrator.test_fusing import cell
from trainables.context import Result, StageError
from trainables.downstream import fused as fused_module
from trainables.stages import STAGES

PAUSE = 0.05


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """On a host whose clock is an hour earlier at each look."""
    store, real, looks = open_store(str(tmp_path / "runs"), create=True), time.time, list[None]()

    def set_back() -> float:
        looks.append(None)
        return real() - 3600 * len(looks)

    monkeypatch.setattr(time, "time", set_back)
    return Job(store.uri, str(tmp_path), run="here", cache_dir=str(tmp_path / "cache"))


def took_as_long(outcome: Outcome) -> bool:
    return PAUSE / 2 <= outcome.seconds < 60


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_the_seconds_of_a_stage(end: str, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*given: Any) -> Result:
        time.sleep(PAUSE)
        if end == "failed":
            raise StageError("made up")
        return Result({}, {}, {})

    monkeypatch.setitem(STAGES, "finetune", trained)
    stage, store = cell("a"), open_store(job.store)
    outcome = run_stage(stage, job)
    assert outcome.outcome == end and took_as_long(outcome)
    kept = {"succeeded": store.commits, "failed": store.failures}[end]([stage.key])
    assert kept[stage.key]["seconds"] == outcome.seconds


def test_the_seconds_of_cells_that_are_trained_as_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def together(specs: Any, contexts: Any) -> list[Result]:
        time.sleep(2 * PAUSE)
        return [Result({}, {}, {}) for _ in specs]

    monkeypatch.setattr(fused_module, "finetune_fused", together)
    outcomes = run_fused([(cell("a"), 0), (cell("b", seed=1), 0)], job)
    assert [outcome.outcome for outcome in outcomes] == ["succeeded"] * 2
    assert all(took_as_long(outcome) for outcome in outcomes)
