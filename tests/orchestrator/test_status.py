"""The view of a run: counts by state, what a key means, and a command that runs one stage again."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import run_grid, status
from orchestrator.grid.load import load_request
from orchestrator.plan.build import plan_record
from orchestrator.plan.stages import Plan
from orchestrator.record.leases import holder
from orchestrator.record.store import Store, open_store
from tests.orchestrator.made_up import GRID, planned, write_grid
from tests.orchestrator.test_run import executed


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Any:
    def call(*argv: str, code: int = 0) -> Any:
        capfd.readouterr()
        assert status.main(list(argv)) == code
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        if code:
            assert out == ""
            return err
        return json.loads(out) if "--json" in argv else out

    return call


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Plan]:
    """A store that holds a plan of the smoke grid (2 pretrainings, 24 cells) and nothing else."""
    store = open_store(str(tmp_path / "runs"), create=True)
    plan = planned("smoke")
    save(store, plan, "20261121T100000000Z-a")
    return store, plan


def save(store: Store, plan: Plan, plan_id: str, name: str = "smoke") -> None:
    request = load_request(name)
    store.save_plan(plan_record(request, plan, plan_id=plan_id, command="cmd", data_root=Path("data")))


def finish(store: Store, plan: Plan, *keys: str) -> None:
    for key in keys:
        ended = {"outcome": "succeeded", "seconds": 2.0, "metrics": {}, "facts": {}, "artifacts": {}}
        store.commit({**plan.stages[key].record(), **ended})


def beat(store: Store, plan: Plan, key: str, age: float = 0.0) -> None:
    now = time.time() - age
    stage = plan.stages[key]
    about = {"key": key, "number": 1, "kind": stage.kind, "name": stage.name, **holder("some run")}
    store.write_lease(key, 1, {**about, "step": 3, "steps": 9, "started": now - 5, "beat": now})


def ended(plan: Plan, key: str, outcome: str) -> dict[str, Any]:
    return {**plan.stages[key].record(), "outcome": outcome, "error": f"{outcome} for a reason"}


def by_pretext(plan: Plan, pretext: str | None) -> list[str]:
    return [k for k, s in plan.stages.items() if s.kind == "finetune" and s.labels["pretext"] == pretext]


def test_every_stage_is_in_one_state(made: tuple[Store, Plan], ask: Any) -> None:
    store, plan = made
    simclr, conrec = (k for k, s in plan.stages.items() if s.kind == "pretrain")
    random = by_pretext(plan, None)
    finish(store, plan, conrec, *random[:3])
    beat(store, plan, random[3])
    beat(store, plan, random[4], age=3600)  # of a worker that was killed an hour ago
    store.fail(ended(plan, simclr, "failed"))
    store.fail(ended(plan, random[3], "failed"))  # the last time; now it runs again
    for key in by_pretext(plan, "simclr"):
        store.fail(ended(plan, key, "blocked"))
    state = ask("smoke", "--store", store.uri, "--json")
    assert state["stages"] == {"succeeded": 4, "running": 1, "failed": 1, "blocked": 6, "waiting": 14}
    assert sum(state["stages"].values()) == len(plan.stages)
    assert [b["key"] for b in state["running"]] == [random[3]]
    told = {failure["key"]: failure["error"] for failure in state["failures"]}
    assert set(told) == {simclr, *by_pretext(plan, "simclr")} and told[simclr] == "failed for a reason"
    assert state["eta_seconds"] > 0
    text = ask("smoke", "--store", store.uri)
    assert "4 succeeded, 1 running, 1 failed, 6 blocked, 14 waiting" in text and "failed for a reason" in text


def test_what_nobody_needs_does_not_wait(made: tuple[Store, Plan], ask: Any) -> None:
    store, plan = made
    finish(store, plan, *(cell.key for cell in plan.cells))
    state = ask("smoke", "--store", store.uri, "--json")
    assert state["stages"] == {"succeeded": 24, "running": 0, "failed": 0, "blocked": 0, "waiting": 0}


def test_a_leftover_lease_of_a_finished_stage_does_not_run(made: tuple[Store, Plan], ask: Any) -> None:
    store, plan = made
    beat(store, plan, plan.cells[0].key)
    finish(store, plan, plan.cells[0].key)
    state = ask("smoke", "--store", store.uri, "--json")
    assert (state["running"], state["stages"]["running"], state["stages"]["succeeded"]) == ([], 0, 1)


def test_the_newest_plan_of_the_newest_grid_is_the_default(made: tuple[Store, Plan], ask: Any) -> None:
    store, plan = made
    save(store, plan, "20261121T100000001Z-0")
    save(store, planned("p1-table2"), "20261120T000000000Z-z", "p1-table2")
    assert ask("--store", store.uri, "--json")["plan"] == "20261121T100000001Z-0"
    assert ask("p1-table2", "--store", store.uri, "--json")["profile"] == "paper"
    assert ask("smoke", "--plan", "20261121T100000000Z-a", "--store", store.uri, "--json")["plan"].endswith("-a")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["p1-table2"], "no plan of grid 'p1-table2'; it holds plans of smoke"),
        (["smoke", "--plan", "zzz"], "grid 'smoke' has no plan 'zzz'; its newest are 20261121T100000000Z-a"),
        (["--explain", "zzz"], "no stage in a plan of"),
        (["--replay", "zzz"], "no stage in a plan of"),
    ],
)
def test_what_is_not_there(made: tuple[Store, Plan], ask: Any, argv: list[str], says: str) -> None:
    told = ask(*argv, "--store", made[0].uri, code=2)
    assert told.startswith("error: ") and says in told and made[0].uri in told


def test_a_store_without_plans(ask: Any, tmp_path: Path) -> None:
    told = ask("--store", str(tmp_path / "nowhere"), code=2)
    assert told == f"error: store {tmp_path / 'nowhere'} holds no plan yet; run a grid first\n"


def test_a_damaged_plan_is_named(made: tuple[Store, Plan], ask: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "plans" / "smoke" / "20261121T100000000Z-a.json").write_text("{")
    assert "plans/smoke/20261121T100000000Z-a.json is not valid JSON" in ask("--store", made[0].uri, code=2)


def test_an_ambiguous_key_lists_its_stages(made: tuple[Store, Plan], ask: Any) -> None:
    store, plan = made
    first = next(c for c in "0123456789abcdef" if sum(k.startswith(c) for k in plan.stages) > 1)
    told = ask("--explain", first, "--store", store.uri, code=2)
    assert f"keys begin with '{first}': " in told and any(key in told for key in plan.stages)


def test_explain_shows_what_a_key_stands_for_and_its_nearest(made: tuple[Store, Plan], ask: Any) -> None:
    store, plan = made
    cell = plan.cells[0]
    found = ask("--explain", cell.key[:10], "--store", store.uri, "--json")
    assert (found["key"], found["identity"]["spec.seed"], found["identity"]["kind"]) == (cell.key, 0, "finetune")
    assert len(found["similar"]["differs"]) == 1  # the next seed or the next fraction
    assert found["similar"]["differs"][0][0] in ("spec.seed", "spec.data.n_train")
    steps = plan.stages[cell.key].spec["finetune"]["steps"]
    assert f"spec.finetune.steps = {steps}\n" in ask("--explain", cell.key, "--store", store.uri)


def test_a_stage_runs_again_from_its_replay_command_and_agrees(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through a whole run: inline, a user's file with the name of a built-in grid, then one stage of it again."""
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path, GRID.replace("grid: mine", "grid: smoke"), "my grid.yaml")
    small = ["--set", "finetune.steps=2", "--set", "pretrain.steps=2", "--set", "datasets.shapes.count=40"]
    argv = ["my grid.yaml", *small, "--only", "seed=1", "--only", "fraction=20%", "--executor", "inline", "--json"]
    capfd.readouterr()
    assert run_grid.main([*argv, "--store", "räy runs"]) == 0
    totals = json.loads(capfd.readouterr().out)
    assert executed(totals) == {"pretrain": 1, "finetune": 2} and totals["cells"] == 2
    state = ask("my grid.yaml", "--store", "räy runs", "--json")
    assert (state["stages"]["succeeded"], state["plan"]) == (3, totals["plan"])
    store = open_store("räy runs")
    before = store.commits(store.finished())
    cell = next(key for key, record in before.items() if record["labels"]["scenario"] == "seg-enc")
    command = shlex.split(ask("--replay", cell, "--store", str(tmp_path / "räy runs")))
    assert command[:4] == ["python", "-m", "orchestrator.run_grid", str(tmp_path / "my grid.yaml")]
    monkeypatch.chdir("/")
    assert run_grid.main(command[3:]) == 0
    err = capfd.readouterr().err
    assert f"{cell}: equal to the record, digit for digit" in err
    assert store.commits(store.finished()) == before  # the record stays as it was
    assert store.plans("smoke") == [totals["plan"]]
