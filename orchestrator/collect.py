"""Tables of a finished (or half-finished) grid: `python -m orchestrator.collect GRID --out DIR`.

Reads the newest plan of the grid in the store, or the one named by `--plan`, and needs no data.
Writes DIR/<grid>/{cells.csv,table.csv,table.md,table.tex,table.html}.
With `--statistics` also rows.{csv,md,tex}, pairs.{csv,md,tex} and cells_intervals.csv: the rows over all columns,
every two of them compared, and the intervals of each cell.
Named several plans or stores, it compares them with the first: comparison.{csv,md,tex,html} beside the first's table.
Exit code 0, also for an incomplete table; 2: the request is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.command_line import Parser, guarded, print_json
from orchestrator.passwords import without_passwords
from orchestrator.sources import add_options, answered, read

if TYPE_CHECKING:
    from orchestrator.results.claims.written import ClaimsTold
    from orchestrator.results.collected import Collected
    from orchestrator.results.comparison_pages import Compared


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Collect one grid; the exit code of the process."""
    return answered(collect, _parser().parse_args(arguments))


def collect(args: argparse.Namespace) -> int:
    """Read plan and records, build the table, write its files and print it.

    Raises:
        StoreError, ResultsError: the request cannot be met; the text is the message for the user.
    """
    from orchestrator.results.figures import headline, write_figures
    from orchestrator.results.render.terminal import terminal
    from orchestrator.results.written import table_files, write_files

    found, *others = read(args)
    plan = found.plan
    against = _compared([found, *others])
    claims = _claims(found)
    complaints = claims.warnings if claims else ()
    folder = Path(args.out) / plan["grid"]
    tables = table_files(found) if plan["cells"] else {}  # a grid may ask for figures only
    told_of_rows = _statistics(found) if args.statistics else {}
    further = (claims.files if claims else {}, against.files if against else {}, told_of_rows)
    files = write_files(folder, {**tables, **{name: text for each in further for name, text in each.items()}})
    figures, lacking = write_figures(plan, found.store, folder)
    complaints = (*complaints, *lacking)
    for warning in (*found.warnings, *complaints):
        print(f"warning: {without_passwords(warning)}", file=sys.stderr)
    human = sys.stderr if args.json else sys.stdout
    if plan["cells"]:
        terminal(against.page if against else found.table, human)
    else:
        print("\n".join(headline(plan)), file=human)
    written = [f"  {path}" for path in (*files, *figures)]
    print("\n".join([*(claims.lines if claims else ()), found.state, *written]), file=human)
    if args.json:
        report = {"grid": plan["grid"], "plan": plan["plan"], "profile": plan["profile"], **found.counts}
        paths = {path.name: str(path) for path in files}
        told: dict[str, object] = {"claims": claims.record} if claims else {}
        told |= against.record if against else {}
        told |= {"figures": [str(path) for path in figures]} if figures else {}
        print_json({**report, **told, "files": paths, "warnings": [*found.warnings, *complaints]})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m orchestrator.collect",
        description="The mean ± std table of a grid beside the published values. Needs the store, no data.",
    )
    add_options(parser)
    parser.add_argument(
        "--out", required=True, metavar="DIR",
        help="writes DIR/<grid>/{cells.csv,table.csv,table.md,table.tex,table.html}",
    )  # fmt: skip
    parser.add_argument(
        "--statistics", action="store_true",
        help="also the rows over all columns, every two of them compared, and intervals of each cell",
    )  # fmt: skip
    return parser


def _compared(sets: Sequence[Collected]) -> Compared | None:
    """The comparison of several sets of results; only for them statistics are imported, which takes a moment."""
    if len(sets) < 2:
        return None
    from orchestrator.results.comparison_pages import Compared

    return Compared.of(sets)


def _claims(found: Collected) -> ClaimsTold | None:
    """The verdicts on the grid's claims; only where it has any are statistics imported, which takes a moment."""
    if not found.plan.get("claims"):
        return None
    from orchestrator.results.claims.read import tell

    return tell(found.plan, found.cells, found.store)


def _statistics(found: Collected) -> Mapping[str, str]:
    """The rows of the table compared; only where it is asked for, as the bootstrap takes seconds."""
    from orchestrator.results.overall_pages import overall_files

    return overall_files(found)


if __name__ == "__main__":
    sys.exit(main())
