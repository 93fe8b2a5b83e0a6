"""What the entry points share: exit codes, refusals, and output that never breaks them. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TextIO

from orchestrator.passwords import without_passwords
from trainables.start import interrupted, started

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
FINISHED, INCOMPLETE, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130
_json_out: int | None = None


class Refused(Exception):
    """The request is wrong; nothing has run."""


class Parser(argparse.ArgumentParser):
    """An argument parser that repeats no password of a mistyped option."""

    def error(self, message: str) -> NoReturn:
        """As argparse: the usage, the message, and exit code 2."""
        super().error(without_passwords(message))


def guarded(main: Callable[P, int]) -> Callable[P, int]:
    """An entry point whose output cannot break it: a reader that went away (`| head -1`) ends it quietly, a full disk
    behind stdout with a message, and what a terminal cannot show is shown as escapes. Ctrl-C ends it with one line."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and (stream.encoding or "").lower().replace("-", "") != "utf8":
                with suppress(AttributeError, ValueError):
                    stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        code = INCOMPLETE
        try:
            started()
            code = main(*args, **kwargs)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            _drop(sys.stdout)
        except OutputLost as error:
            _drop(sys.stdout)
            print(f"error: {error}", file=sys.stderr)
            code = INCOMPLETE
        except KeyboardInterrupt:
            code = _told_of_interrupt()
        except Exception as error:
            if not _hides_an_interrupt(error):
                raise
            code = _told_of_interrupt()
        if code == INTERRUPTED:
            interrupted()
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except OSError:  # nobody reads it: Python would end with 120 for what is left in its buffer
            _drop(sys.stderr)
        return code

    return run


def _hides_an_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: pydantic, while it builds its models, hands it on as an error of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _told_of_interrupt() -> int:
    """One line that says so, and the exit code."""
    with suppress(OSError, ValueError):
        print("interrupted", file=sys.stderr)
    return INTERRUPTED


class OutputLost(Exception):
    """The result was there, but stdout did not take it."""


def _drop(stream: TextIO) -> None:
    """Nothing more is written there, also not by Python when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def human_console(*, stderr: bool = True) -> Console:
    """Where people are told things: stderr, so that stdout stays for results. One that goes away ends no run."""
    from rich.console import Console

    class Patient(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Patient(stderr=stderr)


def say(console: Console, text: object) -> None:
    """Print text as it is, less passwords: no markup, no colours for numbers, no breaks inside paths."""
    try:
        console.print(without_passwords(str(text)), markup=False, highlight=False, soft_wrap=True)
    except OSError:  # the terminal has gone, or the disk behind it is full
        console.quiet = True


@contextmanager
def clean_stdout(json_only: bool) -> Iterator[None]:
    """With `--json`, whatever libraries print goes to stderr; the one object is printed by `print_json`."""
    global _json_out
    if not json_only or sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    try:
        _json_out = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # no real stdout or stderr (a closed one, or a test's): nothing to keep clean
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os.dup2(_json_out, 1)
        os.close(_json_out)
        _json_out = None


def print_json(value: object) -> None:
    """Print the one object of `--json`. A reader that has gone is no fault.

    Raises:
        OutputLost: stdout does not take it (a full disk).
    """
    text = without_passwords(json.dumps(value)) + "\n"
    try:
        if _json_out is None:
            print(text, end="", flush=True)
            return
        data = text.encode()
        while data:  # unbuffered, so that nothing is left to be written again at the end
            data = data[os.write(_json_out, data) :]
    except BrokenPipeError:
        _drop(sys.stdout)
    except OSError as error:
        raise OutputLost(f"stdout takes no output: {error.strerror or error}") from error


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, but got {text!r}")
    return int(text)
