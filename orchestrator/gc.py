"""`python -m orchestrator.gc`: what no plan in the store reaches; `--delete` removes it.

Exit code 0, also where there is nothing to remove; 1: some could not be deleted; 2: the request is wrong.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.command_line import (
    FINISHED,
    INCOMPLETE,
    WRONG_REQUEST,
    Parser,
    guarded,
    human_console,
    positive,
    print_json,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.record.garbage import Garbage, Piece
    from orchestrator.record.store import Store

SHOWN = 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(
        prog="python -m orchestrator.gc",
        description="Show what no plan in the store reaches, and remove it with --delete. What somebody may be working "
        "on stays. MLflow is not touched.",
    )
    p.add_argument("--store", default="./runs", metavar="URI", help="path or s3:// URL (default %(default)s)")
    p.add_argument("--delete", action="store_true", help="remove what is shown")
    p.add_argument(
        "--keep-plans",
        type=positive,
        metavar="N",
        help="only the newest N plans of each grid count, and those a run is working at; the others are removed too",
    )
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = parser().parse_args(argv)
    from orchestrator.execute.trials import settled
    from orchestrator.record.garbage import find
    from orchestrator.record.store import StoreError, open_store

    try:
        store = open_store(args.store)
        found = find(store, keep_plans=args.keep_plans, settle=lambda plan: settled(plan, store))
        return _act(args, store, found)
    except StoreError as error:
        say(human_console(), f"error: {error}")
        return WRONG_REQUEST


def _act(args: argparse.Namespace, store: Store, found: Garbage) -> int:
    from rich.console import Console

    from orchestrator.record.garbage import sweep
    from orchestrator.record.store import StoreError

    console = Console(stderr=args.json)
    _show(found, args, console)
    gone: list[Piece] = []
    fault = ""
    try:
        for piece in sweep(store, found) if args.delete else ():
            gone.append(piece)
    except StoreError as error:
        fault = str(error)
        say(human_console(), f"error: {fault}")
    if args.json:
        print_json(_report(args, found, gone, fault))
    if args.delete:
        say(console, f"deleted {_amount(gone)}")
    elif found.pieces:
        say(console, "nothing was deleted; --delete does it")
    return INCOMPLETE if fault else FINISHED


def _show(found: Garbage, args: argparse.Namespace, console: Console) -> None:
    from orchestrator.record.garbage import REASONS

    say(console, f"{args.store}: {len(found.counted)} of {len(found.plans)} plans count")
    for reason, words in REASONS.items():
        pieces = [piece for piece in found.pieces if piece.reason == reason]
        if pieces:
            say(console, f"{words}: {len(pieces)}, {_amount(pieces)}")
        for piece in sorted(pieces, key=lambda piece: -piece.size)[:SHOWN]:
            say(console, f"  {size_text(piece.size):>9}  {' '.join(filter(None, (piece.key, piece.name)))}")
        if len(pieces) > SHOWN:
            say(console, f"  ... and {len(pieces) - SHOWN} more")
    if found.live:
        say(console, f"stages spared for a live lease: {len(found.live)}")
    if found.young:
        say(console, f"attempts spared, as a worker may yet commit what is younger than an hour: {len(found.young)}")
    say(console, f"in all {_amount(found.pieces)}" if found.pieces else "nothing to remove")


def _report(args: argparse.Namespace, found: Garbage, gone: list[Piece], fault: str) -> dict[str, Any]:
    from orchestrator.record.garbage import REASONS

    return {
        "store": args.store,
        "plans": len(found.plans),
        "plans_counted": len(found.counted),
        "garbage": {reason: _count([p for p in found.pieces if p.reason == reason]) for reason in REASONS},
        "pieces": [
            {"reason": p.reason, "key": p.key, "name": p.name, "bytes": p.size, "files": [i.path for i in p.items]}
            for p in found.pieces
        ],
        "spared": {"live": list(found.live), "young": list(found.young)},
        "total": _count(found.pieces),
        "deleted": _count(gone),
        "error": fault or None,
    }


def _count(pieces: list[Piece] | tuple[Piece, ...]) -> dict[str, int]:
    return {
        "pieces": len(pieces),
        "files": sum(len(piece.items) for piece in pieces),
        "bytes": sum(piece.size for piece in pieces),
    }


def _amount(pieces: list[Piece] | tuple[Piece, ...]) -> str:
    files = sum(len(piece.items) for piece in pieces)
    return f"{size_text(sum(piece.size for piece in pieces))} in {files} {'file' if files == 1 else 'files'}"


def size_text(size: int) -> str:
    """`512 B`, `3.4 kB`, `120 MB`: decimal units, as disks are sold."""
    if size < 1000:
        return f"{size} B"
    value, unit = size / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if value >= 999.5:
            value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


if __name__ == "__main__":
    sys.exit(main())
