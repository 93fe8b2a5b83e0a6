"""Ctrl-C before and after a command of `python -m ...` can catch it: one line and exit code 130, as meanwhile."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130
_interrupted = False


def quiet_start() -> None:
    """Until `started`, Ctrl-C ends the process with one line. To be called by a package before it imports anything.

    Only while `python -m` imports the package of a command, which Python tells by `-m` in place of the program's name;
    whoever imports the package as a library keeps his signals. An ignored Ctrl-C (a job in the background) stays so.
    """
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def started() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, which the command catches."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit.register(_leave)


def interrupted() -> None:
    """The command was ended by Ctrl-C: so its exit code is 130."""
    global _interrupted
    _interrupted = True


def _end(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)  # nothing has begun; an exception could come up anywhere in somebody's import


def _leave() -> None:
    """The last that is called, as it was registered first.

    Where an interrupt came up in a string of code (`dataclasses` runs such), Python would end itself by the signal
    whatever became of the exception. What is done is done, and no interrupt of the rest of the end changes it.
    """
    if not _interrupted:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(INTERRUPTED)
