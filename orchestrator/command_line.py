"""What the entry points share: exit codes, refusals, and a clean stdout for `--json`. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

FINISHED, INCOMPLETE, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130
_json_out: TextIO | None = None


class Refused(Exception):
    """The request is wrong; nothing has run."""


def human_console() -> Console:
    """Where people are told things: stderr, so that stdout stays for results."""
    from rich.console import Console

    return Console(stderr=True)


def say(console: Console, text: object) -> None:
    """Print text as it is: no markup, no colours for numbers, no breaks inside paths."""
    console.print(str(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def clean_stdout(json_only: bool) -> Iterator[None]:
    """With `--json`, whatever libraries print goes to stderr; the one object is printed by `print_json`."""
    global _json_out
    if not json_only:
        yield
        return
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # no real stdout (a closed one, or a test's): nothing to keep clean
        yield
        return
    os.dup2(2, 1)
    _json_out = os.fdopen(kept, "w")
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(_json_out.fileno(), 1)
        _json_out.close()
        _json_out = None


def print_json(value: object) -> None:
    """Print the one object of `--json`."""
    print(json.dumps(value), file=_json_out or sys.stdout, flush=True)


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, but got {text!r}")
    return int(text)
