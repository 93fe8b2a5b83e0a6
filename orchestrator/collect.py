"""Tables of a finished (or half-finished) grid: `python -m orchestrator.collect GRID --out DIR`.

Reads the newest plan of the grid in the store, or the one named by `--plan`, and needs no data.
Writes DIR/<grid>/{cells.csv,table.csv,table.md,table.tex}.
Exit code 0, also for an incomplete table; 2: the request is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.command_line import guarded, print_json

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.record.store import Store
    from orchestrator.results.table import Table


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Collect one grid; the exit code of the process."""
    args = _parser().parse_args(arguments)
    from orchestrator.record.store import StoreError
    from orchestrator.results import ResultsError

    try:
        return collect(args)
    except (StoreError, ResultsError) as error:
        return _refuse(str(error))


def collect(args: argparse.Namespace) -> int:
    """Read plan and records, build the table, write its files and print it.

    Raises:
        StoreError, ResultsError: the request cannot be met; the text is the message for the user.
    """
    from orchestrator.grid.load import grid_name
    from orchestrator.plan.diff import standing
    from orchestrator.record.store import open_store
    from orchestrator.results.cells import tidy
    from orchestrator.results.render.terminal import terminal
    from orchestrator.results.table import summarise

    store = open_store(args.store)
    plan = store.load_plan(grid_name(args.grid), args.plan)
    keys = sorted({cell["key"] for cell in plan["cells"] if cell.get("key")})
    commits, failures = store.commits(keys), store.failures(keys)
    failures = standing(failures, store.commits({f["blocked_by"] for f in failures.values() if "blocked_by" in f}))
    run_ids = _run_ids(args, store, keys if commits or failures else [])
    references, warnings = _references(plan)
    cells = tidy(plan, commits, failures, run_ids)
    table = summarise(plan, cells, references)
    files = _write(Path(args.out) / plan["grid"], cells, table)
    counts = _counts(plan, cells)
    warnings = [*warnings, *table.warnings]

    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    human = sys.stderr if args.json else sys.stdout
    terminal(table, human)
    print(_summary(counts, files), file=human)
    if args.json:
        report = {"grid": plan["grid"], "plan": plan["plan"], "profile": plan["profile"], **counts}
        print_json({**report, "files": {path.name: str(path) for path in files}, "warnings": warnings})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.collect",
        description="The mean ± std table of a grid beside the published values. Needs the store, no data.",
    )
    parser.add_argument("grid", metavar="GRID", help="a built-in name or the YAML file it was run from")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="writes DIR/<grid>/{cells.csv,table.csv,table.md,table.tex}"
    )
    parser.add_argument("--plan", metavar="ID", help="which plan of the grid (default: the newest)")
    parser.add_argument("--store", default="./runs", metavar="URI", help="default %(default)s")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow, for the run ids (default: as run_grid)")
    parser.add_argument(
        "--experiment", default="transfergrid", metavar="NAME", help="MLflow experiment (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, everything human on stderr")
    return parser


def _run_ids(args: argparse.Namespace, store: Store, keys: Sequence[str]) -> Mapping[str, str]:
    """MLflow run ids by key; empty with one warning where MLflow does not answer."""
    if not keys:
        return {}
    from orchestrator.record import tracking

    uri = args.tracking_uri or tracking.default_uri(store.folder)
    try:
        return tracking.run_ids(uri, args.experiment, keys)
    except tracking.TrackingError as error:
        print(f"warning: run_id stays empty: {error}", file=sys.stderr)
        return {}


def _references(plan: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    from orchestrator.results import ResultsError
    from orchestrator.results.references import load

    if not plan.get("references"):
        return [], []
    try:
        return load(plan["references"]), []
    except ResultsError as error:
        return [], [str(error)]


def _write(folder: Path, cells: pd.DataFrame, table: Table) -> list[Path]:
    """Write the four files; each appears whole or not at all."""
    from orchestrator.results import ResultsError
    from orchestrator.results.render.comma import cells_csv, table_csv
    from orchestrator.results.render.latex import latex
    from orchestrator.results.render.markdown import markdown

    texts = {
        "cells.csv": cells_csv(cells),
        "table.csv": table_csv(table),
        "table.md": markdown(table),
        "table.tex": latex(table),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            temporary = folder / f".{name}.{os.getpid()}"
            try:
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(folder / name)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ResultsError(
            f"--out: cannot write {folder}: {error.strerror or error}; expected a writable folder"
        ) from error
    return [folder / name for name in texts]


def _counts(plan: Mapping[str, Any], cells: pd.DataFrame) -> dict[str, int]:
    """Cells by status; a cell with several asked metrics counts once, by its worst."""
    from orchestrator.results.cells import CELL_AXES, STATUSES

    asked = cells[cells["metric"].isin(plan["table"]["value"])]
    worst = ("failed", "blocked", "missing", "constant", "succeeded")
    order = {status: n for n, status in enumerate(worst)}
    by_cell: dict[tuple[Any, ...], str] = {}
    for *cell, status in zip(*(asked[axis] for axis in (*CELL_AXES, "status")), strict=True):
        by_cell[tuple(cell)] = min(by_cell.get(tuple(cell), "succeeded"), status, key=order.__getitem__)
    statuses = list(by_cell.values())
    return {"cells": len(statuses), **{status: statuses.count(status) for status in STATUSES}}


def _summary(counts: Mapping[str, int], files: Sequence[Path]) -> str:
    gaps = ", ".join(f"{counts[status]} {status}" for status in ("failed", "blocked", "missing") if counts[status])
    there = counts["succeeded"] + counts["constant"]
    state = f"{there} of {counts['cells']} cells have a result; {gaps}" if gaps else f"all {there} cells have a result"
    return "\n".join([state, *(f"  {path}" for path in files)])


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
