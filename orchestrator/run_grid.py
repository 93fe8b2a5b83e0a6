"""`python -m orchestrator.run_grid [GRID ...]`: plan grids and run what is not finished yet."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator.command_line import (
    FINISHED,
    INCOMPLETE,
    INTERRUPTED,
    WRONG_REQUEST,
    Parser,
    Refused,
    clean_stdout,
    guarded,
    human_console,
    positive,
    print_json,
    say,
)
from orchestrator.passwords import word_without_passwords

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from orchestrator.execute.driver import Report, Where
    from orchestrator.grid.load import Request
    from orchestrator.look_rounds import Rounds
    from orchestrator.plan.build import Plans
    from orchestrator.plan.diff import Diff
    from orchestrator.record.store import Store


def parser() -> argparse.ArgumentParser:
    """The command line of the contract."""
    p = Parser(
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
    args = parser().parse_args(argv)
    if args.devices and not args.dry_run:
        parser().error("--devices goes with --dry-run")
    args.begun = False
    from orchestrator.execute.interrupts import interruptible

    began = time.monotonic()
    console = human_console()
    try:
        with interruptible(), clean_stdout(args.json):
            return _run(args, console, began)
    except KeyboardInterrupt:
        kept = "interrupted; finished stages are kept, the same command goes on from here"
        say(console, kept if args.begun else "interrupted before anything ran")
        return INTERRUPTED
    except _refusals() as error:
        say(console, f"error: {error}")
        return INCOMPLETE if args.begun else WRONG_REQUEST


def _refusals() -> tuple[type[Exception], ...]:
    """What ends a run with its message."""
    from orchestrator.execute.preparation import CannotRun
    from orchestrator.grid.errors import GridError
    from orchestrator.record.mlflow_connection import TrackingError
    from orchestrator.record.store import StoreError
    from orchestrator.results import ResultsError
    from trainables.data import WrongRequest

    return Refused, CannotRun, GridError, StoreError, TrackingError, ResultsError, WrongRequest


def _run(args: argparse.Namespace, console: Console, began: float) -> int:
    from orchestrator.execute.preparation import compare, examined, refuse_bad_data, unfold
    from orchestrator.look_rounds import Rounds, merged
    from orchestrator.record.mlflow_connection import tracking_address
    from orchestrator.record.store import open_store

    requests = _requests(args)
    tracking = tracking_address(args.tracking_uri, open_store(args.store).folder)  # before anything is made
    store = _open(args)
    folded = examined(requests, _data_root(args), lambda text: say(console, text))
    rounds = Rounds([] if args.stage else requests, store)
    held = partial(compare, store=store, retry_failed=args.retry_failed, stage=args.stage)
    built, found = rounds.until_something_to_do(unfold(folded, store, retry_failed=args.retry_failed), held)
    if args.dry_run:
        return _show_plan(args, found, built, console, requests[0].grid.run.pack, rounds)
    refuse_bad_data(built, found)
    plan_id = _new_plan_id(args, requests, store, console)
    before = store.finished() if args.stage else set()
    where = _where(args, store, tracking)
    for text in built.notes:
        say(console, f"note: {text}")
    reused = len(found.keys("reused"))
    save = partial(_save, args, requests, store=store, plan_id=plan_id)
    report = _execute(args, requests, found, store, where, plan_id, console, before=partial(save, built))
    while rounds and not (report.interrupted or report.stopped):
        unfolded = unfold(folded, store, retry_failed=args.retry_failed)  # cells have their winners' keys now
        if not rounds.advance(rounds.released(unfolded)):
            break
        built, found = rounds.until_something_to_do(unfolded, held)
        for line in rounds.lines():
            say(console, line)
        more = _execute(args, requests, found, store, where, plan_id, console, before=partial(save, built))
        report = merged(report, more)
    if any(plan.studies for plan in built.plans):
        _save_winners(args, requests, folded, rounds, store, plan_id, console)
    if args.stage:
        from orchestrator.execute.summary import comparison

        reran = {key for key in report.metrics if key in before}
        for line in comparison(report, store.commits(reran)):
            say(console, line)
    wall = round(time.monotonic() - began, 1)
    about = {"plan": plan_id, "wall_seconds": wall, "store": args.store, "tracking_uri": where.tracking_uri}
    if rounds:
        about |= {"reused": reused, "looks": rounds.record()}
        for line in rounds.lines():
            say(console, line)
    return _conclude(args, found, report, console, about)


def _new_plan_id(args: argparse.Namespace, requests: list[Request], store: Store, console: Console) -> str:
    """An id behind those of all plans of these grids, with a warning where this machine's clock is not."""
    from orchestrator.plan.build import is_ahead_of_clock, new_plan_id, newest_plan_id

    if args.stage:  # its plan is not saved
        return new_plan_id()
    newest = newest_plan_id(plan_id for request in requests for plan_id in store.plans(request.grid.grid))
    if is_ahead_of_clock(newest):
        say(
            console, f"warning: this machine's clock is behind the newest plan {newest}; the new plan is dated after it"
        )
    return new_plan_id(newest)


def _save(args: argparse.Namespace, requests: list[Request], built: Plans, store: Store, plan_id: str) -> None:
    from orchestrator.plan.build import plan_record

    command = shlex.join(["python", "-m", "orchestrator.run_grid", *map(word_without_passwords, sys.argv[1:])])
    for request, plan in zip(requests, built.plans, strict=True):
        record = plan_record(request, plan, plan_id=plan_id, command=command, data_root=_data_root(args))
        if not args.stage:  # a look at one stage is no new plan of the grid
            store.save_plan(record)
    args.begun = True


def _save_winners(
    args: argparse.Namespace,
    requests: list[Request],
    folded: Plans,
    rounds: Rounds,
    store: Store,
    plan_id: str,
    console: Console,
) -> None:
    """Save the plan once more: its cells have the keys of winners now.

    That fixes them for this plan, should the study grow. It may fail: who reads a plan finds the winners of the moment.
    """
    from orchestrator.execute.preparation import unfold
    from orchestrator.record.store import StoreError

    try:
        found = unfold(folded, store, retry_failed=args.retry_failed)
        _save(args, requests, rounds.released(found), store, plan_id)
    except StoreError as error:
        say(console, f"warning: {error}")


def _requests(args: argparse.Namespace) -> list[Request]:
    from orchestrator.grid.load import load_request

    names = list(dict.fromkeys(args.grids or ["smoke"]))
    requests = [load_request(n, profile=args.profile, overrides=args.overrides, only=args.only) for n in names]
    _refuse_unknown_references(requests)
    called = [request.grid.grid for request in requests]
    twice = [name for name in called if called.count(name) > 1]
    if twice:
        raise Refused(f"two of the files name their grid {twice[0]!r}; results are kept by that name, so change one")
    _refuse_different_dials(requests)
    return requests


def _refuse_different_dials(requests: list[Request]) -> None:
    """One run has one set of dials. `keep_weights` is no such dial: it is about each grid's own cells."""
    first, *others = requests
    dials = _dials(first)
    for other in others:
        differing = [f"run.{name}" for name, value in _dials(other).items() if value != dials[name]]
        if differing:
            raise Refused(
                f"grids {first.grid.grid} and {other.grid.grid} differ in {', '.join(differing)}, of which one run has "
                "one value; give it to both with --set, or run them one after the other"
            )


def _dials(request: Request) -> dict[str, Any]:
    return request.grid.run.model_dump(mode="json", exclude={"keep_weights"})


def _refuse_unknown_references(requests: list[Request]) -> None:
    """Better told now than by a table without its published values after weeks."""
    from orchestrator.results.references import load

    for request in requests:
        if request.grid.references:
            load(request.grid.references)


def _open(args: argparse.Namespace) -> Store:
    from orchestrator.record.store import open_store

    store = open_store(args.store, create=not args.dry_run)
    if not args.dry_run:
        store.probe(f"start-{os.getpid()}")
    return store


def _where(args: argparse.Namespace, store: Store, uri: str) -> Where:
    from orchestrator.execute.driver import Where

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
    from orchestrator.record.mlflow_connection import TrackingError

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
    except (TrackingError, ClusterError) as error:
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


def _show_plan(args: argparse.Namespace, found: Diff, built: Plans, console: Console, pack: int, rounds: Rounds) -> int:
    from orchestrator.execute.preparation import forecast
    from orchestrator.plan.diff import summary
    from orchestrator.plan.show import print_plan

    totals = {**summary(found), "faults": list(built.faults), "notes": list(built.notes)}
    if args.devices:
        totals["forecast"] = forecast(found, args.devices, pack)
    if rounds:
        totals["looks"] = rounds.record()
    if args.json:
        print_json(totals)
    else:
        print_plan(found, totals, console)
        for line in rounds.lines():
            say(console, line)
    return FINISHED


def _data_root(args: argparse.Namespace) -> Path:
    return Path(args.data_root or os.environ.get("TRANSFERGRID_DATA") or "data")


def entry() -> NoReturn:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
