"""`python -m orchestrator.status [GRID]`: how a run stands, what a key means, how to run one stage again."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.command_line import (
    FINISHED,
    INCOMPLETE,
    WRONG_REQUEST,
    Parser,
    guarded,
    human_console,
    print_json,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.record.store import Store

SHOWN = 20


def parser() -> argparse.ArgumentParser:
    """The command line of the contract."""
    p = Parser(prog="python -m orchestrator.status", description=__doc__)
    p.add_argument(
        "grid", nargs="?", metavar="GRID", help="built-in name or YAML path (default: the newest in the store)"
    )
    p.add_argument("--plan", help="plan id (default: the grid's newest)")
    p.add_argument("--store", default="./runs", help="path or s3:// URL of the results (default ./runs)")
    one = p.add_mutually_exclusive_group()
    one.add_argument(
        "--explain", metavar="KEY", help="what a key stands for, and where it differs from the most similar"
    )
    one.add_argument("--replay", metavar="KEY", help="print the command that runs exactly this stage, inline")
    one.add_argument(
        "--export", nargs=2, metavar=("KEY", "DIR"), help="write a pretrain's weights and settings into DIR"
    )
    one.add_argument("--sync-mlflow", action="store_true", help="complete MLflow from the store, also an empty new one")
    one.add_argument("--watch", action="store_true", help="refresh until nothing runs")
    p.add_argument("--register", metavar="NAME", help="with --export: also a version of MLflow's registered model NAME")
    p.add_argument("--tracking-uri", help="MLflow (default $MLFLOW_TRACKING_URI, else SQLite in the store)")
    p.add_argument("--experiment", default="transfergrid", help="MLflow experiment (default transfergrid)")
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = parser().parse_args(argv)
    if args.register is not None and not args.export:
        parser().error("--register goes with --export")
    if args.watch and args.json:
        parser().error("--watch goes without --json, which tells how the run stands now")
    from orchestrator.execute.state import Unknown
    from orchestrator.record.store import StoreError, open_store

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


def _export(args: argparse.Namespace, store: Store, console: Console) -> int:
    from orchestrator.execute.state import Unknown
    from orchestrator.record.export import ExportError, fetch, require_empty, write
    from orchestrator.record.mlflow_connection import TrackingError, tracking_address

    folder, uri, run_id, version = Path(args.export[1]), "", "", None
    try:
        uri = tracking_address(args.tracking_uri, store.folder)
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
    from orchestrator.execute.state import Unknown
    from orchestrator.execute.trials import settled
    from orchestrator.record.mlflow_connection import TrackingError, tracking_address
    from orchestrator.record.reconcile import sync
    from orchestrator.record.tracking import Tracker

    try:
        uri = tracking_address(args.tracking_uri, store.folder)
        tracker = Tracker(uri, args.experiment)
        ended, missed = sync(
            store, tracker, lambda text: say(console, f"warning: {text}"), lambda plan: settled(plan, store)
        )
    except TrackingError as error:
        raise Unknown(error) from None
    if args.json:
        print_json({"ended": ended, "not_taken": missed, "tracking_uri": uri})
    say(console, f"{ended - missed} of {ended} ended stages are in MLflow at {uri}")
    return INCOMPLETE if missed else FINISHED


def _one_key(args: argparse.Namespace, store: Store, console: Console) -> int:
    from orchestrator.execute.state import every_stage, find_stage, replay
    from orchestrator.plan.explain import differences, flat_identity, most_similar

    stage, plan, studies = find_stage(args.explain or args.replay, store)
    if args.replay:
        command = replay(stage, plan, args.store)
        if args.json:
            print_json({"command": command})
        else:
            print(command)
        return 0
    other = most_similar(stage, every_stage(store).values())
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


def _show(args: argparse.Namespace, store: Store, console: Console) -> int:
    from orchestrator.execute.state import newest_grid, plan_state
    from orchestrator.grid.load import grid_name

    record = store.load_plan(grid_name(args.grid) if args.grid else newest_grid(store), args.plan)
    while True:
        state = plan_state(store, record)
        if args.json:
            print_json(state)
            return 0
        _print(record, state, console)
        if not args.watch or not state["running"]:
            return 0
        time.sleep(5)


def _print(record: dict[str, Any], state: dict[str, Any], console: Console) -> None:
    from orchestrator.execute.view import running_table, seconds_text
    from orchestrator.plan.study_state import study_line
    from orchestrator.plan.words import counted

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
        console.print(f"blocked ({counted(count, 'stage')}): {error}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
