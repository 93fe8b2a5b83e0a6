"""`python -m orchestrator.run_grid [GRID ...]`: plan grids and run what is not finished yet."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.execute.driver import Report
    from orchestrator.grid.load import Request
    from orchestrator.plan.build import Plans
    from orchestrator.plan.diff import Diff
    from orchestrator.record.store import Store

_json_out: TextIO | None = None
FINISHED, INCOMPLETE, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130


class Refused(Exception):
    """The request is wrong; nothing has run."""


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
    p.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="Ray address (default: a local Ray)")
    p.add_argument("--max-concurrent", type=_positive, metavar="N", help="most packs at a time")
    p.add_argument("--executor", choices=("ray", "inline"), default="ray", help="inline: this process, no Ray")
    p.add_argument("--dry-run", action="store_true", help="the plan and its cost, nothing runs")
    p.add_argument("--json", action="store_true", help="one JSON object on stdout, everything human on stderr")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = parser().parse_args(argv)
    began = time.monotonic()
    console = _console()
    try:
        with _clean_stdout(args.json):
            return _run(args, console, began)
    except Refused as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return WRONG_REQUEST
    except KeyboardInterrupt:
        console.print("interrupted before anything ran")
        return INTERRUPTED


def _run(args: argparse.Namespace, console: Console, began: float) -> int:
    requests = _requests(args)
    store = _open(args)
    data_root = Path(args.data_root or os.environ.get("TRANSFERGRID_DATA") or "data")
    built = _build(requests, data_root, console)
    found = _diff(args, built, store)
    if args.dry_run:
        return _show_plan(args, found, built, console)
    _refuse_bad_data(built, found)
    from orchestrator.plan.build import new_plan_id, plan_record

    plan_id = new_plan_id()
    where = _where(args, store)
    for text in built.notes:
        console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    def save() -> None:
        if args.stage:
            return  # a look at one stage is no new plan of the grid
        for request, plan in zip(requests, built.plans, strict=True):
            store.save_plan(plan_record(request, plan, plan_id=plan_id, command=_command(), data_root=data_root))

    report = _execute(args, requests, found, store, data_root, where, console, save=save)
    if args.stage:
        _compare(report, store, console)
    return _conclude(args, found, report, console, plan_id, where, time.monotonic() - began)


def _requests(args: argparse.Namespace) -> list[Request]:
    from orchestrator.grid.errors import GridError
    from orchestrator.grid.load import load_request

    names = list(dict.fromkeys(args.grids or ["smoke"]))
    try:
        requests = [load_request(n, profile=args.profile, overrides=args.overrides, only=args.only) for n in names]
    except GridError as error:
        raise Refused(error) from None
    called = [request.grid.grid for request in requests]
    twice = [name for name in called if called.count(name) > 1]
    if twice:
        raise Refused(f"two of the files name their grid {twice[0]!r}; results are kept by that name, so change one")
    return requests


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

    last = [time.monotonic()]

    def progress(reader: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 2 or (done == total and total > 500):
            last[0] = time.monotonic()
            console.print(f"checking {reader}: {done} of {total} files", highlight=False)

    return build(requests, data_root, on_progress=progress)


def _diff(args: argparse.Namespace, built: Plans, store: Store) -> Diff:
    from orchestrator.plan.diff import diff, restrict
    from orchestrator.record.store import StoreError

    try:
        finished = store.finished()
    except StoreError as error:
        raise Refused(error) from None
    found = diff(built.plans, finished)
    if args.stage:
        matches = [key for key in found.stages if key.startswith(args.stage)]
        if len(matches) != 1:
            raise Refused(f"--stage {args.stage}: {len(matches)} stages of this plan have such a key; expected one")
        found = restrict(found, matches[0])
    return found


def _refuse_bad_data(built: Plans, found: Diff) -> None:
    """Files that are there and wrong stop everything; absent data stop only when nothing else is left to do."""
    if built.faults:
        shown = "\n  ".join(built.faults[:20])
        more = f"\n  ... and {len(built.faults) - 20} more" if len(built.faults) > 20 else ""
        raise Refused(f"the data have faults; nothing was run:\n  {shown}{more}")
    if found.keys("blocked") and not found.to_run and not found.keys("reused"):
        reasons = "\n  ".join(_root_causes(found))
        raise Refused(f"nothing can run:\n  {reasons}")


def _root_causes(found: Diff) -> list[str]:
    causes = (found.reasons[key] for key in found.keys("blocked"))
    return list(dict.fromkeys(c for c in causes if not c.startswith("its pretext")))


def _where(args: argparse.Namespace, store: Store) -> Any:
    from orchestrator.execute.driver import Where
    from orchestrator.record.tracking import default_uri

    uri = args.tracking_uri or default_uri(store.folder)
    return Where(args.executor, args.address, args.max_concurrent, uri, args.experiment)


def _execute(
    args: argparse.Namespace,
    requests: list[Request],
    found: Diff,
    store: Store,
    data_root: Path,
    where: Any,
    console: Console,
    *,
    save: Any,
) -> Report:
    from contextlib import nullcontext

    from orchestrator.execute.driver import execute
    from orchestrator.execute.outcome import Job
    from orchestrator.execute.view import LineView, LiveView
    from orchestrator.record.store import StoreError
    from orchestrator.record.tracking import TrackingError

    run = requests[0].grid.run
    address = store.uri if "://" in store.uri else str(store.folder)
    job = Job(
        store=address,
        data_root=str(data_root.absolute()),
        checkpoint_seconds=run.checkpoint_seconds,
        again=bool(args.stage),
    )
    for reason in _root_causes(found):
        console.print(f"blocked: {reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(_headline(found), highlight=False)
    live = LiveView(found.to_run, console, store.heartbeats) if console.is_terminal else None
    view = live or LineView(found.to_run, console)

    def warn(text: str) -> None:
        console.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)

    try:
        with live.shown() if live and found.to_run else nullcontext():
            return execute(found, store, job, run, where, view, warn, before=save)
    except (StoreError, TrackingError) as error:
        raise Refused(error) from None
    except Exception as error:
        if type(error).__name__ == "ClusterError":  # its module imports ray, which an inline run does without
            raise Refused(error) from None
        raise


def _headline(found: Diff) -> str:
    parts = [f"{len(found.cells)} cells", f"{len(found.to_run)} stages to run", f"{len(found.keys('reused'))} reused"]
    blocked = found.keys("blocked")
    return ", ".join([*parts, f"{len(blocked)} blocked"] if blocked else parts)


def _compare(report: Report, store: Store, console: Console) -> None:
    """After `--stage`: what this run gave against what the store holds."""
    for key, record in store.commits(report.metrics).items():
        pairs = [(name, value, record["metrics"].get(name)) for name, value in report.metrics[key].items()]
        apart = [f"{name} {value!r}, recorded {kept!r}" for name, value, kept in pairs if value != kept]
        told = "; ".join(apart) if apart else "equal to the record, digit for digit"
        console.print(f"{key}: {told}", markup=False, highlight=False, soft_wrap=True)


def _conclude(
    args: argparse.Namespace, found: Diff, report: Report, console: Console, plan_id: str, where: Any, wall: float
) -> int:
    grids = [plan.grid for plan in found.plans]
    totals = {
        "grids": grids,
        "profile": found.plans[0].profile,
        "plan": plan_id,
        "cells": len(found.cells),
        "succeeded": report.succeeded,
        "failed": len(report.failed),
        "blocked": len(report.blocked),
        "reused": len(found.keys("reused")),
        "executed": report.executed,
        "wall_seconds": round(wall, 1),
        "store": args.store,
        "tracking_uri": where.tracking_uri,
    }
    if args.json:
        _print_json(totals)
    executed = ", ".join(f"{n} {kind}" for kind, n in report.executed.items()) or "nothing"
    ended = f"{report.succeeded} succeeded, {len(report.failed)} failed, {len(report.blocked)} blocked"
    lines = [f"plan {plan_id}: {ended}; executed {executed}; {wall:.0f} s"]
    for key, error in list(report.failed.items())[:10]:
        lines.append(f"  failed: {found.stages[key].name} ({key}): {error}")
    if report.not_in_mlflow:
        lines.append(f"MLflow lacks {report.not_in_mlflow} runs; the same command adds them when it answers again")
    lines += [f"table:  python -m orchestrator.collect {grid} --store {args.store} --out results" for grid in grids]
    lines.append(f"MLflow: mlflow ui --backend-store-uri {where.tracking_uri}" if "://" in where.tracking_uri else "")
    console.print("\n".join(line for line in lines if line), markup=False, highlight=False, soft_wrap=True)
    if report.interrupted:
        return INTERRUPTED
    return INCOMPLETE if report.failed or report.blocked else FINISHED


def _show_plan(args: argparse.Namespace, found: Diff, built: Plans, console: Console) -> int:
    from orchestrator.plan.diff import summary

    totals = summary(found)
    if args.json:
        _print_json(totals)
        return FINISHED
    from orchestrator.plan.show import print_plan

    print_plan(found, totals, [*built.faults, *built.notes], console)
    return FINISHED


@contextmanager
def _clean_stdout(json_only: bool) -> Iterator[None]:
    """With `--json`, whatever libraries print goes to stderr; the one object is printed by `_print_json`."""
    if not json_only:
        yield
        return
    sys.stdout.flush()
    global _json_out
    _json_out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(_json_out.fileno(), 1)
        _json_out.close()
        _json_out = None


def _print_json(value: object) -> None:
    print(json.dumps(value), file=_json_out or sys.stdout, flush=True)


def _command() -> str:
    import shlex

    return "python -m orchestrator.run_grid " + shlex.join(sys.argv[1:])


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, but got {text!r}")
    return int(text)


def entry() -> NoReturn:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
