"""`python -m orchestrator.status [GRID]`: how a run stands, what a key means, how to run one stage again."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.command_line import (
    FINISHED,
    INCOMPLETE,
    INTERRUPTED,
    WRONG_REQUEST,
    guarded,
    human_console,
    print_json,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.plan.stages import Plan, Stage
    from orchestrator.plan.studies import Trial
    from orchestrator.record.store import Store

STALE_SECONDS = 60.0
SHOWN = 20


class Unknown(Exception):
    """The store has no such plan or key. The message is for the user."""


def parser() -> argparse.ArgumentParser:
    """The command line of the contract."""
    p = argparse.ArgumentParser(prog="python -m orchestrator.status", description=__doc__)
    p.add_argument(
        "grid", nargs="?", metavar="GRID", help="built-in name or YAML path (default: the newest in the store)"
    )
    p.add_argument("--plan", help="plan id (default: the grid's newest)")
    p.add_argument("--store", default="./runs", help="path or s3:// URL of the results (default ./runs)")
    p.add_argument("--explain", metavar="KEY", help="what a key stands for, and where it differs from the most similar")
    p.add_argument("--replay", metavar="KEY", help="print the command that runs exactly this stage, inline")
    p.add_argument("--export", nargs=2, metavar=("KEY", "DIR"), help="write a pretrain's weights and settings into DIR")
    p.add_argument("--register", metavar="NAME", help="with --export: also a version of MLflow's registered model NAME")
    p.add_argument("--sync-mlflow", action="store_true", help="complete MLflow from the store, also an empty new one")
    p.add_argument("--tracking-uri", help="MLflow (default $MLFLOW_TRACKING_URI, else SQLite in the store)")
    p.add_argument("--experiment", default="transfergrid", help="MLflow experiment (default transfergrid)")
    p.add_argument("--watch", action="store_true", help="refresh until nothing runs")
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    from orchestrator.record.store import StoreError, open_store

    args = parser().parse_args(argv)
    if args.register is not None and not args.export:
        parser().error("--register goes with --export")
    console = human_console(stderr=args.json)
    try:
        store = open_store(args.store)
        if args.explain or args.replay:
            return _one_key(args, store, console)
        if args.export:
            return _export(args, store, console)
        if args.sync_mlflow:
            return _sync(args, store, console)
        return _show(args, store, console)
    except (StoreError, Unknown) as error:
        say(human_console(), f"error: {error}")
        return WRONG_REQUEST
    except KeyboardInterrupt:
        return INTERRUPTED


def _export(args: argparse.Namespace, store: Store, console: Console) -> int:
    from orchestrator.record.export import ExportError, fetch, require_empty, write
    from orchestrator.record.tracking import TrackingError, default_uri

    folder, uri, run_id, version = Path(args.export[1]), args.tracking_uri or default_uri(store.folder), "", None
    try:
        found = fetch(store, args.export[0])
        require_empty(folder)
        if args.register is not None:
            from orchestrator.record.registry import prepare, register

            run_id = prepare(uri, args.experiment, args.register, found.record["key"])
        files = write(found, folder)
    except (ExportError, TrackingError) as error:
        raise Unknown(error) from None
    say(console, f"{found.record['kind']} {found.record['name']}: {', '.join(file.name for file in files)} in {folder}")
    if args.register is not None:
        try:
            version = register(uri, run_id, args.register, folder, found.record)
            say(console, f"models:/{args.register}/{version} in MLflow at {uri}")
        except TrackingError as error:
            say(human_console(), f"error: {error}; the files are in {folder} all the same")
    if args.json:
        print_json({"key": found.record["key"], "files": [str(f) for f in files], "version": version})
    return FINISHED if version is not None or args.register is None else INCOMPLETE


def _sync(args: argparse.Namespace, store: Store, console: Console) -> int:
    from orchestrator.record.reconcile import sync
    from orchestrator.record.tracking import Tracker, TrackingError, default_uri

    uri = args.tracking_uri or default_uri(store.folder)
    try:
        ended, missed = sync(store, Tracker(uri, args.experiment), lambda text: say(console, f"warning: {text}"))
    except TrackingError as error:
        raise Unknown(error) from None
    if args.json:
        print_json({"ended": ended, "not_taken": missed, "tracking_uri": uri})
    say(console, f"{ended - missed} of {ended} ended stages are in MLflow at {uri}")
    return INCOMPLETE if missed else FINISHED


def _one_key(args: argparse.Namespace, store: Store, console: Console) -> int:
    stage, plan, studies = _find(args.explain or args.replay, store)
    if args.replay:
        print(_replay(stage, plan, args.store))
        return 0
    from orchestrator.plan.explain import differences, flat_identity, most_similar

    everyone = {s.key: s for _, record in _plans(store) for s in _stages(record, store)}
    other = most_similar(stage, everyone.values())
    parts = differences(stage, other) if other else []
    if args.json:
        like = {"key": other.key, "name": other.name, "differs": parts} if other else None
        known = {"key": stage.key, "name": stage.name, "identity": flat_identity(stage), "similar": like}
        print_json({**known, "studies": studies} if studies else known)
        return 0
    console.print(f"{stage.key}  {stage.kind} {stage.name}", markup=False, highlight=False, soft_wrap=True)
    for line in studies:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    for name, value in flat_identity(stage).items():
        console.print(f"  {name} = {value}", markup=False, highlight=False, soft_wrap=True)
    if other is not None:
        like_ = f"most similar: {other.key}  {other.kind} {other.name}"
        console.print(like_, markup=False, highlight=False, soft_wrap=True)
        for name, mine, theirs in parts:
            console.print(f"  {name}: {mine} here, {theirs} there", markup=False, highlight=False, soft_wrap=True)
    return 0


def _plans(store: Store) -> list[tuple[str, dict[str, Any]]]:
    return [(grid, store.load_plan(grid, plan)) for grid in store.grids() for plan in store.plans(grid)[::-1]]


def _unfolded(record: dict[str, Any], store: Store) -> tuple[Plan, dict[str, list[Trial]]]:
    """A stored plan with the trials that its studies have by now, and those by study."""
    from orchestrator.plan.build import restore_plan

    plan = restore_plan(record)
    if not plan.studies:
        return plan, {}
    from orchestrator.execute.trials import read_trials
    from orchestrator.plan.studies import unfold

    known = {key: read_trials(store, study) for key, study in plan.studies.items()}
    return unfold(plan, known), known


def _stages(record: dict[str, Any], store: Store) -> list[Stage]:
    return list(_unfolded(record, store)[0].stages.values())


def _find(prefix: str, store: Store) -> tuple[Stage, dict[str, Any], list[str]]:
    """The stage, the record of the newest plan that holds it, and what it has to do with studies."""
    from orchestrator.plan.study_state import part_in_studies

    found: dict[str, tuple[Stage, dict[str, Any], list[str]]] = {}
    for _, record in _plans(store):
        plan, known = _unfolded(record, store)
        for stage in plan.stages.values():
            if stage.key.startswith(prefix) and stage.key not in found:
                found[stage.key] = stage, record, part_in_studies(stage, plan.studies, known)
    if not found:
        raise Unknown(f"no stage in a plan of {store.uri} has a key that begins with {prefix!r}")
    if len(found) > 1:
        raise Unknown(f"{len(found)} keys begin with {prefix!r}: {', '.join(sorted(found)[:5])}")
    return next(iter(found.values()))


def _replay(stage: Stage, plan: dict[str, Any], store: str) -> str:
    """The command: the plan's own request, cut down to one stage and kept in this process."""
    words = ["python", "-m", "orchestrator.run_grid", plan["grid"] if _is_builtin(plan) else plan["source"]]
    words += ["--profile", plan["profile"]]
    words += [word for text in plan["overrides"] for word in ("--set", text)]
    words += [word for text in plan["only"] for word in ("--only", text)]
    words += ["--data-root", plan["data_root"], "--store", store, "--executor", "inline", "--stage", stage.key]
    return shlex.join(words)


def _is_builtin(plan: dict[str, Any]) -> bool:
    """A user's file may bear the name of a built-in grid."""
    from orchestrator.grid.load import SPACES

    return bool(plan["source"] == str(SPACES / "grids" / f"{plan['grid']}.yaml"))


def _show(args: argparse.Namespace, store: Store, console: Console) -> int:
    from orchestrator.grid.load import grid_name

    record = store.load_plan(grid_name(args.grid) if args.grid else _newest_grid(store), args.plan)
    while True:
        state = _state(store, record)
        if args.json:
            print_json(state)
            return 0
        _print(record, state, console)
        if not args.watch or not state["running"]:
            return 0
        time.sleep(5)


def _alive(lease: Mapping[str, Any], now: float) -> bool:
    """Whether somebody works under a lease, as far as can be told from here."""
    from orchestrator.record.leases import process_is_gone

    return not lease.get("released") and now - lease["beat"] < STALE_SECONDS and not process_is_gone(dict(lease))


def _newest_grid(store: Store) -> str:
    newest = max(((store.plans(grid)[-1], grid) for grid in store.grids()), default=None)
    if newest is None:
        raise Unknown(f"store {store.uri} holds no plan yet; run a grid first")
    return newest[1]


def _state(store: Store, record: dict[str, Any]) -> dict[str, Any]:
    from orchestrator.plan.diff import diff, standing
    from orchestrator.plan.study_state import study_state

    plan, known = _unfolded(record, store)
    stages = plan.stages
    finished = store.finished() & stages.keys()
    unneeded = set(diff([plan], finished).keys("unneeded"))
    now = time.time()
    fresh = [b for k, b in store.leases().items() if k in stages and _alive(b, now)]
    beats = [b for b in fresh if b["key"] not in finished]
    running = {b["key"] for b in beats}
    failed_trials = {trial.key for trials in known.values() for trial in trials if trial.state == "FAIL"}
    failures = standing(store.failures(stages.keys() - finished - running - failed_trials), finished | running)
    failed = {k for k, f in failures.items() if f["outcome"] == "failed"}
    blocked = {k for k, s in stages.items() if s.blocked is not None or k in failures} - finished - running - failed
    waiting = stages.keys() - finished - running - failed - blocked - unneeded - failed_trials
    by_state = {
        "succeeded": len(finished),
        "running": len(running),
        "failed": len(failed),
        "blocked": len(blocked),
        "waiting": len(waiting),
    }
    left = sum(stages[k].cost for k in running | waiting)
    return {
        "grid": record["grid"],
        "plan": record["plan"],
        "profile": record["profile"],
        "stages": by_state,
        "running": beats,
        "eta_seconds": _eta(store, stages, finished, left, len(running)),
        "studies": [study_state(study, known[key]) for key, study in plan.studies.items()],
        "failures": [
            {"key": k, "name": stages[k].name, "outcome": f["outcome"], "error": f["error"]}
            for k, f in failures.items()
        ],
    }


def _eta(store: Store, stages: Mapping[str, Stage], finished: set[str], left: float, workers: int) -> float | None:
    """Cost left, at the speed at which finished stages of this plan went, on the workers that run now."""
    spent = sum(c["seconds"] for c in store.commits(finished).values())
    done = sum(stages[key].cost for key in finished)
    return round(left * spent / done / workers, 1) if done and workers else None


def _print(record: dict[str, Any], state: dict[str, Any], console: Console) -> None:
    from orchestrator.execute.view import running_table, seconds_text
    from orchestrator.plan.study_state import study_line

    console.print(
        f"{record['grid']}: {record['title']} (profile {record['profile']}, plan {record['plan']})", markup=False
    )
    console.print(", ".join(f"{n} {name}" for name, n in state["stages"].items() if n), highlight=False)
    for study in state["studies"]:
        console.print(study_line(study), markup=False, highlight=False, soft_wrap=True)
    if state["running"]:
        console.print(running_table(state["running"]))
    if state["eta_seconds"] is not None:
        console.print(f"about {seconds_text(state['eta_seconds'])} left")
    failed = [f for f in state["failures"] if f["outcome"] == "failed"]
    for failure in failed[:SHOWN]:
        console.print(f"{failure['name']} ({failure['key']}): {failure['error']}", markup=False, soft_wrap=True)
    if len(failed) > SHOWN:
        console.print(f"... and {len(failed) - SHOWN} more failed", highlight=False)
    causes = Counter(f["error"] for f in state["failures"] if f["outcome"] == "blocked")
    for error, count in causes.most_common(SHOWN):
        console.print(f"blocked ({count} stages): {error}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
