"""Check a dataset before anything trains: `python -m trainables.data check NAME --data-root DIR [--out PNG]`.

Exit codes: 0 sound, 1 a fault was found (absent data included), 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from trainables.data import READERS, DataError, WrongRequest
from trainables.data.check import Finding, check
from trainables.start import INTERRUPTED, interrupted, started

SOUND, FAULTY, WRONG = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    asked = _parser().parse_args(arguments)
    try:
        started()
        if not asked.data_root.is_dir():
            raise WrongRequest(f"{asked.data_root}: no such data root; expected the folder that holds the datasets")
        name, options = _dataset(asked.name, asked.data_root, _options(asked.set))
        found = check(name, asked.data_root, options, sheet=asked.out, on_progress=_progress())
    except WrongRequest as error:
        print(error, file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        interrupted()
        return INTERRUPTED
    except DataError as error:
        found = Finding((), (), (str(error),))
    _print(found, asked.out)
    return FAULTY if found.faults else SOUND


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command = parser.add_subparsers(dest="command", required=True).add_parser("check", help="look a dataset over")
    command.add_argument("name", metavar="NAME", help="a dataset id, or a folder with images/ and masks/ below DIR")
    command.add_argument(
        "--data-root",
        metavar="DIR",
        type=Path,
        default=Path(os.environ.get("TRANSFERGRID_DATA") or "data"),
        help="datasets by name below it (default $TRANSFERGRID_DATA, else ./data)",
    )
    command.add_argument("--out", metavar="PNG", type=Path, help="write a contact sheet there")
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the dataset, as in a grid's `datasets`; repeatable",
    )
    return parser


def _options(given: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise WrongRequest(f"--set {text}: expected KEY=VALUE, such as target=car or 'ignore=[11]'")
        try:
            options[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):  # `*` is no YAML, 2024-13-45 no date
            options[key] = value
    return options


def _dataset(name: str, data_root: Path, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(reader, options) of a dataset id, or of a folder in the form of `folder`."""
    if name in READERS:
        return name, options
    if (data_root / name / "images").is_dir():
        return "folder", {"path": name, **options}
    near = difflib.get_close_matches(name, READERS, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(READERS)}"
    raise WrongRequest(f"no dataset {name!r}, and no folder {data_root / name} with images/; {meant}")


def _print(found: Finding, sheet: Path | None) -> None:
    for line in found.counts:
        print(line)
    if sheet is not None and found.counts:
        print(f"  contact sheet {sheet}")
    for note in found.notes:
        print(f"note: {note}")
    for fault in found.faults:
        print(f"FAULT: {fault}")
    print(f"{_counted(found.faults, 'fault')}, {_counted(found.notes, 'note')}")


def _counted(lines: Sequence[str], word: str) -> str:
    return f"{len(lines)} {word}{'' if len(lines) == 1 else 's'}"


def _progress() -> Any:
    """Shows how many files are decoded, on a terminal only."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            print(f"\r{done} of {total} files", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
