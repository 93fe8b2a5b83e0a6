"""One self-contained HTML page for a grid: `python -m orchestrator.report GRID --out DIR`.

Writes DIR/<grid>/index.html: the table beside the published one, claims, curves, figures, studies, what ran where, what
is missing, and how it was made. Reads the store and MLflow; needs no data and no network.
Exit code 0, also for an unfinished grid; 2: the request is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.command_line import Parser, guarded, print_json
from orchestrator.passwords import without_passwords
from orchestrator.sources import add_options, answered, read, tracking_uri

if TYPE_CHECKING:
    from orchestrator.results.collected import Collected


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of one grid; the exit code of the process."""
    return answered(report, _parser().parse_args(arguments))


def report(args: argparse.Namespace) -> int:
    """Read plan and records, write the page.

    Raises:
        StoreError, ResultsError: the request cannot be met; the text is the message for the user.
    """
    from orchestrator.results.comparison_pages import Compared
    from orchestrator.results.report.page import build
    from orchestrator.results.written import write_files

    found, *others = read(args)
    against = Compared.of([found, *others]) if others else None
    uri = tracking_uri(args, found.store)
    findings, complaints = _findings(found)
    page = build(found, uri, args.experiment, findings, against.page if against else None)
    (path,) = write_files(Path(args.out) / found.plan["grid"], {"index.html": page})
    warnings = [*found.warnings, *complaints, *_log(args, found, uri, page)]
    for warning in warnings:
        print(f"warning: {without_passwords(warning)}", file=sys.stderr)
    human = sys.stderr if args.json else sys.stdout
    print(f"{found.state}\n  {path}", file=human)
    if args.json:
        about = {"grid": found.plan["grid"], "plan": found.plan["plan"], "profile": found.plan["profile"]}
        print_json({**about, **found.counts, "files": {path.name: str(path)}, "warnings": warnings})
    return 0


def _log(args: argparse.Namespace, found: Collected, uri: str, page: str) -> list[str]:
    """Put the table into MLflow, where its cells are; what went wrong, as one message."""
    from orchestrator.record.mlflow_connection import TrackingError
    from orchestrator.record.summary_run import log_summary
    from orchestrator.results.written import table_files

    if args.no_mlflow or not found.runs:
        return []
    files = {**table_files(found), "index.html": page}
    plan = found.plan
    try:
        log_summary(
            uri, args.experiment, plan["grid"], plan["plan"], note=files["table.md"], counts=found.counts, files=files
        )
    except TrackingError as error:
        return [f"the table is not in MLflow: {error}"]
    return []


def _findings(found: Collected) -> tuple[Sequence[Any], Sequence[str]]:
    """The verdicts on the grid's claims, and what is missing for them."""
    if not found.plan.get("claims"):
        return (), ()
    from orchestrator.results.claims.read import findings_of

    return findings_of(found.plan, found.cells, found.store)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m orchestrator.report",
        description="One self-contained HTML page: tables, claims, curves, figures, and how they were made.",
    )
    add_options(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="writes DIR/<grid>/index.html")
    parser.add_argument("--no-mlflow", action="store_true", help="do not log the table as a run of MLflow")
    return parser


if __name__ == "__main__":
    sys.exit(main())
