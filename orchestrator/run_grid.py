"""`python -m orchestrator.run_grid [GRID ...]`: plan grids and run what is not finished yet."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlparse

from orchestrator.command_line import (
    FINISHED,
    INCOMPLETE,
    INTERRUPTED,
    WRONG_REQUEST,
    Refused,
    clean_stdout,
    guarded,
    human_console,
    positive,
    print_json,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from orchestrator.execute.driver import Report, Where
    from orchestrator.grid.load import Request
    from orchestrator.plan.build import Plans
    from orchestrator.plan.diff import Diff
    from orchestrator.record.store import Store

SHOWN_FAULTS = 20
TRACKING = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def parser() -> argparse.ArgumentParser:
    """The command line of the contract."""
    p = argparse.ArgumentParser(
        prog="python -m orchestrator.run_grid",
        description="Run pretrain -> finetune grids. Finished stages are reused; the same command is the resume.",
    )
    p.add_argument("grids", nargs="*", metavar="GRID", help="built-in name or YAML path (default: smoke)")
    p.add_argument("--profile", help="smoke | mini | paper (default: the grid's own)")
    p.add_argument("--data-root", type=Path, help="datasets by name below it (default $TRANSFERGRID_DATA, else ./data)")
    p.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="any setting")
    p.add_argument("--only", action="append", default=[], metavar="AXIS=VALUE", help="restrict rows or columns")
    p.add_argument("--stage", metavar="KEY", help="only this stage; a finished one runs again to compare")
    p.add_argument("--store", default="./runs", help="path or s3:// URL of the results (default ./runs)")
    p.add_argument("--tracking-uri", help="MLflow (default $MLFLOW_TRACKING_URI, else SQLite in the store)")
    p.add_argument("--experiment", default="transfergrid", help="MLflow experiment (default transfergrid)")
    p.add_argument(
        "--study-storage",
        default=os.environ.get("TRANSFERGRID_STUDY_STORAGE"),
        metavar="URL",
        help="database in which optuna-dashboard finds the studies (default: a journal in a local store)",
    )
    p.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="Ray address (default: a local Ray)")
    p.add_argument("--max-concurrent", type=positive, metavar="N", help="most packs at a time")
    p.add_argument("--executor", choices=("ray", "inline"), default="ray", help="inline: this process, no Ray")
    p.add_argument("--retry-failed", action="store_true", help="try stages again that failed by their own fault")
    p.add_argument("--devices", type=positive, metavar="N", help="with --dry-run: how long it takes on N devices")
    p.add_argument("--dry-run", action="store_true", help="the plan and its cost, nothing runs")
    p.add_argument("--json", action="store_true", help="one JSON object on stdout, everything human on stderr")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    from orchestrator.execute.interrupts import interruptible

    args = parser().parse_args(argv)
    args.begun = False
    began = time.monotonic()
    console = human_console()
    try:
        with interruptible(), clean_stdout(args.json):
            return _run(args, console, began)
    except Refused as error:
        say(console, f"error: {error}")
        return WRONG_REQUEST
    except KeyboardInterrupt:
        kept = "interrupted; finished stages are kept, the same command goes on from here"
        say(console, kept if args.begun else "interrupted before anything ran")
        return INTERRUPTED


def _run(args: argparse.Namespace, console: Console, began: float) -> int:
    requests = _requests(args)
    store = _open(args)
    folded = _build(requests, _data_root(args), console)
    built = _unfold(args, folded, store)
    found = _diff(args, built, store)
    if args.dry_run:
        return _show_plan(args, found, built, console, requests[0].grid.run.pack)
    _refuse_bad_data(built, found)
    from orchestrator.plan.build import new_plan_id

    plan_id = new_plan_id()
    before = store.finished() if args.stage else set()
    where = _where(args, store)
    for text in built.notes:
        say(console, f"note: {text}")
    report = _execute(
        args,
        requests,
        found,
        store,
        where,
        plan_id,
        console,
        before=lambda: _save(args, requests, built, store, plan_id),
    )
    if any(plan.studies for plan in built.plans):
        _save(args, requests, _unfold(args, folded, store), store, plan_id)  # cells have the keys of winners now
    if args.stage:
        from orchestrator.execute.summary import comparison

        reran = {key for key in report.metrics if key in before}
        for line in comparison(report, store.commits(reran)):
            say(console, line)
    wall = round(time.monotonic() - began, 1)
    about = {"plan": plan_id, "wall_seconds": wall, "store": args.store, "tracking_uri": where.tracking_uri}
    return _conclude(args, found, report, console, about)


def _save(args: argparse.Namespace, requests: list[Request], built: Plans, store: Store, plan_id: str) -> None:
    from orchestrator.plan.build import plan_record

    args.begun = True
    if args.stage:
        return  # a look at one stage is no new plan of the grid
    command = "python -m orchestrator.run_grid " + shlex.join(sys.argv[1:])
    for request, plan in zip(requests, built.plans, strict=True):
        store.save_plan(plan_record(request, plan, plan_id=plan_id, command=command, data_root=_data_root(args)))


def _requests(args: argparse.Namespace) -> list[Request]:
    from orchestrator.grid.errors import GridError
    from orchestrator.grid.load import load_request
    from orchestrator.results import ResultsError

    names = list(dict.fromkeys(args.grids or ["smoke"]))
    try:
        requests = [load_request(n, profile=args.profile, overrides=args.overrides, only=args.only) for n in names]
        _refuse_unknown_references(requests)
    except (GridError, ResultsError) as error:
        raise Refused(error) from None
    called = [request.grid.grid for request in requests]
    twice = [name for name in called if called.count(name) > 1]
    if twice:
        raise Refused(f"two of the files name their grid {twice[0]!r}; results are kept by that name, so change one")
    return requests


def _refuse_unknown_references(requests: list[Request]) -> None:
    """Better told now than by a table without its published values after weeks."""
    from orchestrator.results.references import load

    for request in requests:
        if request.grid.references:
            load(request.grid.references)


def _open(args: argparse.Namespace) -> Store:
    from orchestrator.record.store import StoreError, open_store

    try:
        store = open_store(args.store, create=not args.dry_run)
        if not args.dry_run:
            store.probe(f"start-{os.getpid()}")
        return store
    except StoreError as error:
        raise Refused(error) from None


def _build(requests: list[Request], data_root: Path, console: Console) -> Plans:
    from orchestrator.plan.build import build
    from trainables.data import WrongRequest

    last = [time.monotonic()]

    def progress(reader: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 2 or (done == total and total > 500):
            last[0] = time.monotonic()
            say(console, f"checking {reader}: {done} of {total} files")

    try:
        return build(requests, data_root, on_progress=progress)
    except WrongRequest as error:
        raise Refused(error) from None


def _unfold(args: argparse.Namespace, built: Plans, store: Store) -> Plans:
    """The plans with the trials that the store knows."""
    from dataclasses import replace

    from orchestrator.execute.trials import unfolded
    from orchestrator.record.store import StoreError

    try:
        return replace(built, plans=unfolded(built.plans, store, retry_failed=args.retry_failed))
    except StoreError as error:
        raise Refused(error) from None


def _diff(args: argparse.Namespace, built: Plans, store: Store) -> Diff:
    from dataclasses import replace

    from orchestrator.plan.diff import diff, restrict
    from orchestrator.plan.durations import costed, worth_reading
    from orchestrator.record.store import StoreError

    stages = {key: stage for plan in built.plans for key, stage in plan.stages.items()}
    try:
        finished = store.finished()
        unfinished = stages.keys() - finished
        learned = costed(stages, store.commits(worth_reading(stages, finished)).values())
        failures = {} if args.retry_failed else store.failures(unfinished)
    except StoreError as error:
        raise Refused(error) from None
    failed = {k: f["error"] for k, f in failures.items() if f["outcome"] == "failed" and f.get("cause") == "stage"}
    plans = [replace(plan, stages={key: learned[key] for key in plan.stages}) for plan in built.plans]
    found = diff(plans, finished, failed)
    if args.stage is not None:
        matches = [key for key in found.stages if key.startswith(args.stage)]
        if len(matches) != 1:
            some = f" ({', '.join(matches[:3])}{', ...' if len(matches) > 3 else ''})" if matches else ""
            raise Refused(
                f"--stage {args.stage}: {len(matches)} stages of this plan have such a key{some}; expected one"
            )
        stage = found.stages[matches[0]]
        if stage.awaits or not stage.proposed:
            lacks = "waits for its study to end" if stage.awaits else "has no settings yet"
            raise Refused(f"--stage {args.stage}: {stage.kind} {stage.name} {lacks}; run the grid first")
        found = restrict(found, matches[0])
    return found


def _refuse_bad_data(built: Plans, found: Diff) -> None:
    """Files that are there and wrong stop everything; absent data stop only when nothing else is left to do."""
    if built.faults:
        shown = "\n  ".join(built.faults[:SHOWN_FAULTS])
        more = len(built.faults) - SHOWN_FAULTS
        raise Refused(
            f"the data have faults; nothing was run:\n  {shown}" + (f"\n  ... {more} more" if more > 0 else "")
        )
    if found.causes and not (found.planned or found.keys("reused") or found.keys("failed")):
        raise Refused("nothing can run:\n  " + "\n  ".join(found.causes))


def _where(args: argparse.Namespace, store: Store) -> Where:
    from orchestrator.execute.driver import Where
    from orchestrator.record.tracking import default_uri

    uri = args.tracking_uri or default_uri(store.folder)
    if urlparse(uri).scheme.partition("+")[0] not in TRACKING:
        raise Refused(
            f"MLflow at {uri}: no such address; expected http://HOST:PORT, sqlite:///FILE.db or "
            "postgresql://USER@HOST/NAME"
        )
    journal = None if store.folder is None else str(store.folder / "studies" / "optuna.log")
    return Where(args.executor, args.address, args.max_concurrent, uri, args.experiment, args.study_storage or journal)


def _execute(
    args: argparse.Namespace,
    requests: list[Request],
    found: Diff,
    store: Store,
    where: Where,
    plan_id: str,
    console: Console,
    before: Callable[[], None],
) -> Report:
    from orchestrator.execute.driver import execute
    from orchestrator.execute.outcome import ClusterError, Job
    from orchestrator.execute.summary import headline
    from orchestrator.execute.view import LineView, LiveView
    from orchestrator.record.store import StoreError
    from orchestrator.record.tracking import TrackingError

    run = requests[0].grid.run
    job = Job(
        store=store.address,
        data_root=str(_data_root(args).absolute()),
        run=plan_id,
        checkpoint_seconds=run.checkpoint_seconds,
        beat_seconds=min(2.0, run.lease_seconds / 5),
        again=bool(args.stage),
    )
    for reason in found.causes:
        say(console, f"blocked: {reason}")
    say(console, headline(found))
    planned = found.planned
    live = LiveView(planned, console, store.leases_of) if console.is_terminal and planned else None
    view = live or LineView(planned, console)
    try:
        with live.shown() if live else nullcontext():
            return execute(
                found, store, job, run, where, view, lambda text: say(console, f"warning: {text}"), before=before
            )
    except (StoreError, TrackingError, ClusterError) as error:
        raise Refused(error) from None


def _conclude(args: argparse.Namespace, found: Diff, report: Report, console: Console, about: dict[str, object]) -> int:
    from orchestrator.execute.summary import ending, totals

    if args.json:
        print_json(totals(found, report, **about))
    for line in ending(found, report, about):
        say(console, line)
    if report.interrupted:
        return INTERRUPTED
    return INCOMPLETE if report.failed or report.blocked or report.stopped else FINISHED


def _show_plan(args: argparse.Namespace, found: Diff, built: Plans, console: Console, pack: int) -> int:
    from orchestrator.plan.diff import summary
    from orchestrator.plan.show import print_plan

    totals = {**summary(found), "faults": list(built.faults), "notes": list(built.notes)}
    if args.devices:
        totals["forecast"] = _forecast(found, args.devices, pack)
    if args.json:
        print_json(totals)
    else:
        print_plan(found, totals, console)
    return FINISHED


def _forecast(found: Diff, devices: int, pack: int) -> dict[str, Any]:
    from orchestrator.execute.frontier import Frontier
    from orchestrator.plan.makespan import all_known, forecast

    stages = all_known(found)
    return forecast(Frontier(stages, finished=found.keys("reused")), stages, devices, most=pack)


def _data_root(args: argparse.Namespace) -> Path:
    return Path(args.data_root or os.environ.get("TRANSFERGRID_DATA") or "data")


def entry() -> NoReturn:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
