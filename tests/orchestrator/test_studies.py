"""Grids with studies, run whole: what is executed, what is kept, and what of it people see."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator import gc, run_grid
from orchestrator.execute.outcome import Job
from orchestrator.execute.run_stage import run_stage
from orchestrator.execute.trial_context import TrialContext
from orchestrator.grid.errors import GridError
from orchestrator.grid.load import load_request
from orchestrator.plan.stages import Stage
from orchestrator.plan.studies import family
from orchestrator.record.leases import acquire, holder
from orchestrator.record.store import StoreError
from tests.orchestrator.made_up import write_grid
from tests.orchestrator.study_runs import GRID, TINY, Runs, diverging, tuned
from tests.orchestrator.test_run import executed
from tests.trainables.data_trees import folder_set


@pytest.fixture
def runs(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, capfd, monkeypatch)


def test_a_study_is_run_grown_and_reused(runs: Runs, tmp_path: Path) -> None:
    first = runs.run(tuned(tmp_path))
    assert executed(first) == {"trial": 4, "finetune": 2, "analysis": 1}
    assert (first["succeeded"], first["failed"], first["blocked"], first["failed_trials"]) == (7, 0, 0, 0)
    before, proposals, won = runs.commits(), runs.trials(), runs.studied()["winner"]
    assert list(proposals) == [0, 1, 2, 3] and won in before

    again = runs.run(tuned(tmp_path))
    assert executed(again) == {} and runs.commits() == before

    grown = runs.run(tuned(tmp_path, trials=7))
    changed = runs.studied()["winner"] != won
    assert executed(grown) == {"trial": 3, "analysis": 1} | ({"finetune": 1} if changed else {})
    after = runs.commits()
    assert {key: after[key] for key in before} == before
    assert {n: p for n, p in runs.trials().items() if n < 4} == proposals and len(runs.trials()) == 7
    assert [trial.number for trial in runs.journal()] == list(range(7))
    assert {trial.state.name for trial in runs.journal()} <= {"COMPLETE", "PRUNED"}
    cells = [c for c in after.values() if c["kind"] == "finetune" and c["parents"]]
    assert runs.studied()["winner"] in {cell["parents"]["pretrain"] for cell in cells}

    smaller = runs.run(tuned(tmp_path))  # asks for four: it has seven, all of which count
    assert executed(smaller) == {}


def test_the_plan_of_a_study_that_has_grown_since_stays_as_it_was_run(runs: Runs, tmp_path: Path) -> None:
    runs.run(tuned(tmp_path, trials=1, startup=9))
    (plan,) = runs.store.plans("tuned")
    before, told = runs.studied(), runs.status("tuned", "--plan", plan)
    (cell,) = [key for key, record in runs.commits().items() if record["kind"] == "finetune" and record["parents"]]
    grid = tuned(tmp_path, trials=7, startup=9)
    runs.run(grid)
    assert runs.studied()["winner"] != before["winner"]  # else this test says nothing
    assert runs.status("tuned", "--plan", plan) == told and "1 of 1 trials ended" in told
    words = shlex.split(runs.status("--replay", cell))
    assert words[:4] == ["python", "-m", "orchestrator.run_grid", grid]
    assert executed(runs.run(*words[3:])) == {"finetune": 1}
    assert f"{cell}: equal to the record, digit for digit" in runs.err


def test_seeds_by_looks_go_on_below_a_study_in_one_run(runs: Runs, tmp_path: Path) -> None:
    claim = (
        "{id: a, statement: s, source: s, test: difference, rows: {model: Reconstruction}, against: {model: Random}}"
    )
    text = Path(tuned(tmp_path, trials=2)).read_text().replace("seeds: [0]", "seeds: {looks: [2, 4], until: claims}")
    totals = runs.run(write_grid(tmp_path, f"{text}claims:\n  - {claim}\n", "looks.yaml"))
    (looks,) = totals["looks"]
    assert (looks["claims"], looks["decided"], looks["released"]) == (1, 0, 8)
    assert executed(totals) == {"trial": 2, "finetune": 8, "analysis": 1} and totals["succeeded"] == 11


def test_a_study_whose_cells_the_data_block_is_not_run(runs: Runs, tmp_path: Path) -> None:
    """A column on data that are not there: the figure of the study alone is no reason to train it."""
    text = Path(tuned(tmp_path)).read_text().replace("{dataset: shapes,", "{dataset: mine,")
    grid = write_grid(tmp_path, f"{text}datasets: {{mine: {{reader: folder, path: nowhere}}}}\n", "blocked.yaml")
    runs.run(grid, code=2)
    assert "nothing can run:" in runs.err and runs.commits() == {}
    sound = "columns:\n  - {dataset: shapes, pretext_data: shapes, fractions: [0.2]}\n"
    both = write_grid(tmp_path, Path(grid).read_text().replace("columns:\n", sound), "both.yaml")
    assert executed(runs.run(both, code=1)) == {"trial": 4, "finetune": 2, "analysis": 1}


def test_grids_that_share_a_study_get_the_winner_of_the_one_that_asks_for_most(runs: Runs, tmp_path: Path) -> None:
    small = tuned(tmp_path, trials=1, startup=9)
    runs.run(small)
    before = runs.studied()["winner"]
    text = Path(tuned(tmp_path, trials=7, startup=9)).read_text().replace("grid: tuned", "grid: large")
    large = write_grid(tmp_path, text, "large.yaml")
    totals = runs.run([tuned(tmp_path, trials=1, startup=9), large])
    state = json.loads(runs.status("tuned", "--json"))
    assert state["studies"][0]["winner"] not in (None, before)
    assert executed(totals) == {"trial": 6, "finetune": 1, "analysis": 1}
    assert state["stages"]["waiting"] == 0 == state["stages"]["failed"]
    assert executed(runs.run([small, large])) == {}


def test_trials_that_died_with_their_worker_are_tried_again_where_none_has_won(runs: Runs, tmp_path: Path) -> None:
    grid = tuned(tmp_path, trials=2, lengths="[1]", pruning=None)
    runs.run(grid)
    whole = runs.commits()
    for proposal in runs.trials().values():
        (runs.store_folder / "commits" / f"{proposal['key']}.json").unlink()
        stage = {k: v for k, v in whole[proposal["key"]].items() if k in Stage.__dataclass_fields__}
        runs.store.fail({**stage, "outcome": "failed", "cause": "worker", "error": "its worker process died 3 times"})
    totals = runs.run(grid)
    assert (executed(totals), totals["blocked"]) == ({"trial": 2}, 0)
    assert {k: r["metrics"] for k, r in runs.commits().items()} == {k: r["metrics"] for k, r in whole.items()}


def test_what_a_killed_run_left_of_a_study_that_is_over_is_tidied_by_the_next(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = tuned(tmp_path, space="length", lengths="[0.25, 0.5, 1]", trials=3, pruning=None)
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.execute.studies.conclude", lambda store, study, trials: None)  # killed before it
        runs.run(grid)
    (study,) = runs.store.studies()
    states = runs.store_folder / "studies" / study / "states"
    kept = [r["key"] for r in runs.commits().values() if r["kind"] == "trial"]
    assert any(states.rglob("*.*")) and not runs.store.conclusions(study)
    assert executed(runs.run(grid)) == {}
    (won,) = runs.store.conclusions(study).values()
    assert not any(path.is_file() for path in states.rglob("*"))
    left = [key for key in kept if any((runs.store_folder / "artifacts" / key).rglob("weights*"))]
    assert left == [won["key"]] == [runs.studied()["winner"]]


def test_steps_executed_over_lengths_are_those_of_the_longest_alone(runs: Runs, tmp_path: Path) -> None:
    runs.run(tuned(tmp_path, space="length", lengths="[0.25, 0.5, 1]", trials=3, pruning=None))
    trials = [record for record in runs.commits().values() if record["kind"] == "trial"]
    assert sorted(record["spec"]["pretrain"]["steps"] for record in trials) == [2, 4, 8]
    assert sum(record["facts"]["steps_run"] for record in trials) == 8 == runs.studied()["steps_run"]
    # Against plain pretrain stages of these lengths, digit for digit.
    for record in trials:
        steps = record["spec"]["pretrain"]["steps"]
        plain = write_grid(tmp_path, GRID.replace("    tune: TUNE\n", "").replace("grid: tuned", f"grid: plain{steps}"))
        own = Runs.__new__(Runs)
        own.__dict__ |= {**runs.__dict__, "store_folder": tmp_path / f"plain {steps}"}
        dials = f"{{steps: {steps}, report_every: 2, batch: 4}}"
        own.run(plain, "--set", f"pretexts.reconstruction.pretrain={dials}")
        (alone,) = [r for r in own.commits().values() if r["kind"] == "pretrain"]
        told = {name: value for name, value in record["metrics"].items() if name != "objective"}
        assert told == alone["metrics"]
        if "weights" in record["artifacts"] and record["key"] == runs.studied()["winner"]:
            ours = runs.store.artifact(record["artifacts"]["weights"])
            assert ours == own.store.artifact(alone["artifacts"]["weights"])
            cells = [r["metrics"] for store in (runs, own) for r in store.commits().values()
                     if r["kind"] == "finetune" and r["parents"]]  # fmt: skip
            assert cells[0] == cells[1]


def test_failed_trials_are_told_and_the_study_goes_on(runs: Runs, tmp_path: Path) -> None:
    grid = tuned(tmp_path, trials=5, startup=9, lengths="[1]", pruning=None)
    totals = runs.run(grid, *diverging(1e12))
    assert "trials that failed, without which their studies go on" in runs.err
    study = runs.studied()
    assert 0 < study["failed"] < 5 and study["complete"] == 5 - study["failed"]
    assert (totals["failed"], totals["blocked"], totals["failed_trials"]) == (0, 0, study["failed"])
    assert executed(totals) == {"trial": 5, "finetune": 2, "analysis": 1}
    assert Counter(t.state.name for t in runs.journal()) == {"COMPLETE": study["complete"], "FAIL": study["failed"]}
    errors = [t.user_attrs["error"] for t in runs.journal() if t.state.name == "FAIL"]
    assert all("not finite at step" in error for error in errors)
    again = runs.run(grid, *diverging(1e12))
    assert executed(again) == {} and again["failed"] == 0
    retried = runs.run(grid, *diverging(1e12), "--retry-failed")
    assert executed(retried)["trial"] == study["failed"]
    assert json.loads(runs.status("--json"))["failures"] == []


def test_where_all_fail_just_the_cells_below_are_blocked(runs: Runs, tmp_path: Path) -> None:
    grid = tuned(tmp_path, trials=3, lengths="[1]", pruning=None)
    totals = runs.run(grid, *diverging(1e30), code=1)
    assert (totals["failed"], totals["blocked"], totals["failed_trials"]) == (0, 1, 3)
    assert executed(totals) == {"trial": 3, "finetune": 1, "analysis": 1}
    cause = "none of the 3 trials of the study 'reconstruction | shapes' has finished: the loss was not finite"
    assert cause in runs.err
    (blocked,) = json.loads(runs.status("--json"))["failures"]
    assert blocked["outcome"] == "blocked" and blocked["error"].startswith(cause)
    again = runs.run(grid, *diverging(1e30), code=1)
    assert executed(again) == {} and again["blocked"] == 1
    assert executed(runs.run(grid, *diverging(1e30), "--retry-failed", code=1)) == {"trial": 3}


def test_after_the_fault_is_mended_retry_failed_opens_the_study(runs: Runs, tmp_path: Path) -> None:
    """As if every trial had failed by a fault outside that is no more."""
    grid = tuned(tmp_path, trials=2, lengths="[1]", pruning=None)
    runs.run(grid)
    whole, trials = runs.commits(), runs.trials()
    (study,) = runs.store.studies()
    for proposal in trials.values():
        (runs.store_folder / "commits" / f"{proposal['key']}.json").unlink()
        stage = {k: v for k, v in whole[proposal["key"]].items() if k in Stage.__dataclass_fields__}
        runs.store.fail({**stage, "outcome": "failed", "cause": "stage", "error": "a fault, mended since"})
    for path in (runs.store_folder / "studies" / study / "conclusions").iterdir():
        path.unlink()
    runs.run(grid, code=1)
    totals = runs.run(grid, "--retry-failed")
    assert executed(totals) == {"trial": 2}
    metrics = {key: record["metrics"] for key, record in runs.commits().items()}
    assert {k: m for k, m in metrics.items() if k in whole} == {k: r["metrics"] for k, r in whole.items()}


def test_a_trial_cut_short_counts_its_own_steps_once(runs: Runs, tmp_path: Path) -> None:
    """Its states of the way are its own: what it finds of them after a kill is no other trial's work."""
    grid = tuned(tmp_path, trials=1, pruning=None, lengths="[0.5, 1]", seed=1)
    runs.run(grid, "--dry-run")
    runs.run(grid)
    (record,) = [r for r in runs.commits().values() if r["kind"] == "trial"]
    stage = Stage.from_record({k: v for k, v in record.items() if k in Stage.__dataclass_fields__})
    if stage.spec["pretrain"]["steps"] == 4:  # make it the longer one
        spec = {**stage.spec, "pretrain": {**stage.spec["pretrain"], "steps": 8}}
        stage = Stage.from_record({**stage.record(), "spec": spec, "key": "f" * 24, "hints": {"keep_at": [4, 8]}})
    else:
        stage = Stage.from_record({**stage.record(), "key": "f" * 24})
    job = Job(str(runs.store_folder), "data")
    lease = acquire(runs.store, stage.key, {**holder("x"), "kind": "trial", "name": "x"})
    context = TrialContext(runs.store, stage, job, lease)
    assert context.prefix_state() is None
    context.keep(4, {"step": 4, "modules": [], "history": []})
    again = TrialContext(runs.store, stage, job, lease).prefix_state()
    assert again is not None and (again["step"], again["began"]) == (4, 0)
    other = Stage.from_record({**stage.record(), "key": "e" * 24})
    assert family(other) == family(stage)
    theirs = TrialContext(runs.store, other, job, lease).prefix_state()
    assert theirs is not None and theirs["began"] == 4


def test_a_replayed_trial_is_equal_to_the_record_also_one_given_up(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs.run(tuned(tmp_path, trials=6))
    records = [r for r in runs.commits().values() if r["kind"] == "trial"]
    pruned = next(r for r in records if r["facts"]["pruned_at"] is not None)
    whole = next(r for r in records if r["facts"]["pruned_at"] is None)
    before = runs.commits()
    for record in (pruned, whole):
        words = shlex.split(runs.status("--replay", record["key"]))
        assert words[:3] == ["python", "-m", "orchestrator.run_grid"]
        assert run_grid.main(words[3:]) == 0
        told = capfd.readouterr()
        assert f"{record['key']}: equal to the record, digit for digit" in told.err + told.out
    assert runs.commits() == before and len(runs.trials()) == 6


def test_what_people_see_of_a_study(runs: Runs, tmp_path: Path) -> None:
    runs.run(tuned(tmp_path, trials=6))
    study = runs.studied()
    records = {key: record for key, record in runs.commits().items() if record["kind"] == "trial"}
    ended = Counter("pruned" if r["facts"]["pruned_at"] else "complete" for r in records.values())
    assert (study["asked"], study["ended"], study["running"], study["failed"]) == (6, 6, 0, 0)
    assert (study["complete"], study["pruned"]) == (ended["complete"], ended["pruned"])
    values = [r["metrics"]["objective"] for r in records.values() if r["facts"]["pruned_at"] is None]
    assert study["best"]["value"] == min(values) == records[study["winner"]]["metrics"]["objective"]
    assert study["best"]["params"] == runs.trials()[study["best"]["number"]]["params"]
    text = runs.status()
    assert f"study reconstruction | shapes: 6 of 6 trials ended ({ended['complete']} complete, " in text
    assert f"winner {study['winner']}" in text

    about = runs.status("--explain", study["winner"])
    assert f"trial {study['best']['number']} of the study reconstruction | shapes ({study['key']}): complete" in about
    assert "spec.pretrain.learning_rate" in about
    below = next(r for r in runs.commits().values() if r["parents"].get("pretrain") == study["winner"])
    about = runs.status("--explain", below["key"])
    assert f"pretrain is the winner, trial {study['best']['number']} of the study" in about


def test_before_its_end_a_cell_waits_and_a_stage_without_settings_is_refused(runs: Runs, tmp_path: Path) -> None:
    grid = tuned(tmp_path)
    totals = json.loads(_planned(runs, grid))
    assert totals["deferred"] == 2 and totals["stages"]["trial"] == 4
    runs.run(grid, "--only", "model=Random")  # the store now has a plan, without the study
    runs.run(grid, *diverging(1e30), code=1)
    plan = runs.store.load_plan("tuned")
    waiting = next(key for key, stage in plan["stages"].items() if stage["awaits"])
    assert "pretrain waits for the study reconstruction | shapes" in runs.status("--explain", waiting)
    runs.run(grid, *diverging(1e30), "--stage", waiting, code=2)
    assert "waits for its study to end; run the grid first" in runs.err
    (study,) = plan["studies"]
    grown = tuned(tmp_path, trials=5)
    runs.run(grown, *diverging(1e30), "--stage", f"{study}-0004", code=2)
    assert "has no settings yet; run the grid first" in runs.err
    assert len(runs.trials()) == 4


def _planned(runs: Runs, grid: str) -> str:
    return runs._called(run_grid.main, [grid, "--store", str(runs.store_folder), "--json", "--dry-run", *TINY], 0)


def test_the_winner_is_exported_and_weights_of_losers_are_gone(runs: Runs, tmp_path: Path) -> None:
    runs.run(tuned(tmp_path, trials=5))
    won = runs.studied()["winner"]
    runs.status("--export", won, str(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"weights.safetensors", "settings.json", "README.md"}
    records = [r for r in runs.commits().values() if r["kind"] == "trial" and r["key"] != won]
    loser = next(r for r in records if r["facts"]["pruned_at"] is None)
    kept = {item.path for item in runs.store.items("artifacts") if item.path.endswith("weights.safetensors")}
    assert kept == {runs.commits()[won]["artifacts"]["weights"]}
    told = "were dropped at the end of its study, which another trial won"
    with pytest.raises(StoreError, match=told):
        runs.store.artifact(loser["artifacts"]["weights"])
    runs.status("--export", loser["key"], str(tmp_path / "lost"), code=2)
    assert told in runs.err and len(runs.err.strip().splitlines()) == 1
    pruned = next(r for r in records if r["facts"]["pruned_at"] is not None)
    runs.status("--export", pruned["key"], str(tmp_path / "lost"), code=2)
    assert f"as it was given up at step {pruned['facts']['pruned_at']}" in runs.err
    below = next(r for r in runs.commits().values() if r["parents"].get("pretrain") == won)
    stage = {k: v for k, v in below.items() if k in Stage.__dataclass_fields__}
    wrong = Stage.from_record({**stage, "key": "d" * 24, "parents": {"pretrain": loser["key"]}})
    outcome = run_stage(wrong, Job(str(runs.store_folder), "data"))
    assert (outcome.outcome, outcome.cause) == ("failed", "stage") and told in str(outcome.error)


def test_mlflow_shows_trials_and_pictures_and_is_completed_from_the_store(runs: Runs, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    totals = runs.run(tuned(tmp_path, trials=6))
    study = runs.studied()
    fresh = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    (tmp_path / "new").mkdir()
    runs.status("--sync-mlflow", "--tracking-uri", fresh)
    seen = []
    for uri in (totals["tracking_uri"], fresh):
        client = MlflowClient(uri)
        found = client.search_runs([client.get_experiment_by_name("transfergrid").experiment_id])
        tags = [{k.removeprefix("transfergrid."): v for k, v in run.data.tags.items()} for run in found]
        trials = [t for t in tags if t["kind"] == "trial"]
        assert len(trials) == 6 and {t["study"] for t in trials} == {study["key"]}
        assert all(t["grid.tuned"] == "true" for t in tags)
        assert sum("pruned_at" in t for t in trials) == study["pruned"]
        (drawn,) = [run for run in found if run.data.tags["transfergrid.kind"] == "analysis"]
        files = sorted(file.path for file in client.list_artifacts(drawn.info.run_id))
        assert {"history.png", "slices.png"} <= set(files)
        pictures = [Path(client.download_artifacts(drawn.info.run_id, file)).read_bytes() for file in files]
        assert all(data.startswith(b"\x89PNG") for data in pictures)
        shown = {t["key"]: (run.data.metrics, run.data.params) for t, run in zip(tags, found, strict=True)}
        seen.append((shown, files, pictures))
    assert seen[0] == seen[1]


def test_gc_removes_studies_that_no_plan_reaches(runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs.run(tuned(tmp_path))
    (old,) = runs.store.studies()
    runs.run(tuned(tmp_path, seed=1))
    (new,) = set(runs.store.studies()) - {old}
    words = ["--store", str(runs.store_folder), "--json"]
    found = json.loads(runs._called(gc.main, words, 0))
    assert found["total"]["pieces"] == 0

    words += ["--keep-plans", "1"]
    shown = json.loads(runs._called(gc.main, words, 0))
    assert set(runs.store.studies()) == {old, new}
    (piece,) = [piece for piece in shown["pieces"] if piece["reason"] == "study"]
    assert piece["key"] == old and all(path.startswith(f"studies/{old}/") for path in piece["files"])
    runs._called(gc.main, [*words, "--delete"], 0)
    assert runs.store.studies() == [new]
    left = {r["study"] for r in runs.commits().values() if r["kind"] == "trial"}
    assert left == {new} and len(runs.store.proposals(new)) == 4
    assert (
        not (runs.store_folder / "studies" / old).exists() and (runs.store_folder / "studies" / "optuna.log").exists()
    )
    assert executed(runs.run(tuned(tmp_path, seed=1))) == {}


def test_gc_keeps_trials_that_a_plan_does_not_name_yet(runs: Runs, tmp_path: Path) -> None:
    """The plan that a killed run has left was saved before its trials were proposed."""
    runs.run(tuned(tmp_path))
    plan = runs.store.load_plan("tuned")
    (study,) = plan["studies"]
    stages = {key: stage for key, stage in plan["stages"].items() if stage["kind"] != "trial"}
    assert len(stages) < len(plan["stages"])
    path = next((runs.store_folder / "plans" / "tuned").iterdir())
    path.write_text(json.dumps({**plan, "stages": stages}))
    runs.store.save_state(study, "family", 4, b"left by a kill")
    before = runs.commits()
    words = ["--store", str(runs.store_folder), "--json"]
    shown = json.loads(runs._called(gc.main, words, 0))
    assert [(p["reason"], p["files"]) for p in shown["pieces"]] == [
        ("finished", [f"studies/{study}/states/family/000000004.pt"])
    ]
    runs._called(gc.main, [*words, "--delete"], 0)
    assert runs.commits() == before and len(runs.trials()) == 4


# Downstream


def folder_grid(tmp_path: Path, **tune: Any) -> str:
    objective = "{dataset: mine, share: 0.3, finetune: {steps: 2}}"
    grid = tuned(tmp_path, objective=objective, trials=2, lengths="[1]", pruning=None, **tune)
    text = (
        Path(grid)
        .read_text()
        .replace("dataset: shapes", "dataset: mine")
        .replace("pretext_data: shapes", "pretext_data: mine")
    )
    more = "datasets: {mine: {reader: folder, path: set, pretrain: no-evaluation}}\n"
    return write_grid(tmp_path, text + more, "folder.yaml")


def test_downstream_runs_on_a_set_with_official_parts_wherever_it_lies(runs: Runs, tmp_path: Path) -> None:
    names = [f"p{n}" for n in range(14)]
    for place in ("data/set", "elsewhere/moved"):
        folder_set(tmp_path / place, 14, splits={"train": names[:10], "test": names[10:]})
    grid, data = folder_grid(tmp_path), ["--data-root", str(tmp_path / "data")]
    totals = runs.run(grid, *data, "--set", "columns.0.fractions=[0.5]")
    assert executed(totals) == {"trial": 2, "finetune": 2, "analysis": 1}
    assert all(0 <= r["metrics"]["objective"] <= 1 for r in runs.commits().values() if r["kind"] == "trial")
    assert runs.studied()["metric"] == "dice" and runs.studied()["direction"] == "maximize"
    moved = ["--data-root", str(tmp_path / "elsewhere"), "--set", "datasets.mine.path=moved"]
    assert executed(runs.run(grid, *moved, "--set", "columns.0.fractions=[0.5]")) == {}


def test_downstream_on_a_pool_is_a_wrong_request(runs: Runs, tmp_path: Path) -> None:
    grid = tuned(tmp_path, objective="{dataset: shapes}", pruning=None)
    runs.run(grid, code=2)
    (line,) = runs.err.strip().splitlines()
    where = f"{grid}: pretexts.reconstruction.tune.objective"
    assert line.startswith(f"error: {where}: shapes has no official training part")
    assert "expected a dataset with official parts, or `objective: validation`" in line


# Wrong sections

FAULTS = {
    "unknown key": ("{trials: 3, trails: 3}", "tune.trails'; did you mean 'trials'?"),
    "unknown key and none that is needed": ("{trails: 3}", "tune.trails'; did you mean 'trials'?"),
    "missing": ("{space: length}", "tune.trials is missing"),
    "no trial": ("{trials: 0}", "tune.trials: expected greater than or equal to 1, but got 0"),
    "no number": ("{trials: true}", "tune.trials: expected a number, but got true"),
    "half a trial": ("{trials: 2.5}", "tune.trials: expected a whole number, but got 2.5"),
    "no section": ("5", "tune: expected a mapping (key: value), but got 5"),
    "rule": ("{trials: 3, pruning: {rule: ahsa}}", "tune.pruning.rule: expected 'asha', 'hyperband' or 'median'"),
    "rule alone": ("{trials: 3, pruning: asha}", "tune.pruning: expected a mapping (key: value), but got 'asha'"),
    "pruning key": ("{trials: 3, pruning: {factr: 2}}", "tune.pruning.factr'; did you mean 'factor'?"),
    "least": ("{trials: 3, pruning: {least: 1}}", "tune.pruning.least: expected less than 1, but got 1"),
    "lengths twice": ("{trials: 3, lengths: [1, 0.5, 1]}", "tune.lengths: 1.0 stands here twice; keep one"),
    "no length": ("{trials: 3, lengths: []}", "tune.lengths: expected at least one entry, but got []"),
    "length 0": ("{trials: 3, lengths: [0]}", "tune.lengths.0: expected greater than 0, but got 0"),
    "space": ("{trials: 3, space: lenght}", "tune.space: no space 'lenght'; did you mean 'length'?"),
    "space of another": (
        "{trials: 3, space: simclr, objective: {dataset: pets}}",
        "tune.space: space 'simclr' tunes temperature, which reconstruction does not have; ",
    ),
    "objective": ("{trials: 3, objective: downstream}", "tune.objective: expected 'validation' or a mapping"),
    "objective without": ("{trials: 3, objective: {}}", "tune.objective.dataset is missing"),
    "objective key": ("{trials: 3, objective: {datset: pets}}", "tune.objective.datset'; did you mean 'dataset'?"),
    "objective dataset": ("{trials: 3, objective: {dataset: petz}}", "tune.objective.dataset: no dataset 'petz'"),
    "objective scenario": (
        "{trials: 3, objective: {dataset: pets, scenario: seg}}",
        "tune.objective.scenario: expected 'cls-enc', 'seg-enc-dec' or 'seg-enc', but got 'seg'",
    ),
    "objective dial": (
        "{trials: 3, objective: {dataset: pets, finetune: {stepz: 3}}}",
        "tune.objective.finetune.stepz'; did you mean 'steps'?",
    ),
    "objective share": (
        "{trials: 3, objective: {dataset: pets, share: 1}}",
        "tune.objective.share: expected less than 1, but got 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_section_is_one_message_with_file_and_line(tmp_path: Path, name: str) -> None:
    section, says = FAULTS[name]
    grid = write_grid(tmp_path, GRID.replace("TUNE", section))
    line = 1 + GRID[: GRID.index("    tune:")].count("\n")
    with pytest.raises(GridError) as told:
        load_request(grid)
    text = str(told.value)
    assert text.startswith(f"{grid}:{line}: ") and says in text and "\n" not in text, text


def test_a_decoder_that_the_pretext_does_not_train_is_told(tmp_path: Path) -> None:
    section = "{trials: 3, objective: {dataset: pets, scenario: seg-enc-dec}}"
    text = GRID.replace("TUNE", section).replace("reconstruction:", "simclr:").replace(
        "seg-enc, model: Reconstruction, pretext: reconstruction", "cls-enc, model: S, pretext: simclr"
    )  # fmt: skip
    with pytest.raises(GridError, match=r"objective\.scenario: seg-enc-dec takes over a decoder, but simclr"):
        load_request(write_grid(tmp_path, text))


def test_rows_with_other_networks_have_studies_of_their_own(runs: Runs, tmp_path: Path) -> None:
    text = Path(tuned(tmp_path)).read_text()
    row = "  - {scenario: seg-enc, model: Wide, pretext: reconstruction, network: {width: 8}}\n"
    grid = write_grid(tmp_path, text.replace("columns:", row + "columns:"), "two.yaml")
    totals = json.loads(_planned(runs, grid))
    assert totals["stages"]["trial"] == 8 and totals["deferred"] == 4


def test_a_curve_without_a_point_before_the_end_is_noted(runs: Runs, tmp_path: Path) -> None:
    dials = "pretexts.reconstruction.pretrain={steps: 8, report_every: 20}"
    words = [tuned(tmp_path), "--store", str(runs.store_folder), "--json", "--dry-run", *TINY, "--set", dials]
    notes = json.loads(runs._called(run_grid.main, words, 0))["notes"]
    assert notes == ["reconstruction | shapes: no trial can be given up, as its curve has no point before step 8"]
