"""Ctrl-C and SIGTERM: the first ends a run tidily, the second at once. Whatever is finished is in the store already."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.command_line import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; a stopped Ray job, a node that is drained
_LAST_WORDS = "\ninterrupted again: ended at once; every finished stage is in the store\n"
_SHOW_CURSOR = "\x1b[?25h"  # the live view hides it

_depth = 0
_asked = 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the body the first of `SIGNALS` raises KeyboardInterrupt, and a second ends the process with code 130.

    Elsewhere than in the main thread, which alone may set handlers, it does nothing.
    """
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _depth == 0:
        forgive()
    before = [signal.signal(number, _handle) for number in SIGNALS]
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def rearm() -> None:
    """Take the signals back from a library (Ray) that has set handlers of its own meanwhile."""
    if _depth and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _handle)


def forgive() -> None:
    """Forget an interrupt that the program gave itself, so that the user's first is a first one."""
    global _asked
    _asked = 0


def _handle(signum: int, frame: FrameType | None) -> None:
    global _asked
    _asked += 1
    if _asked > 1:
        words = (_SHOW_CURSOR if sys.stderr.isatty() else "") + _LAST_WORDS
        os.write(2, words.encode())
        os._exit(INTERRUPTED)  # no clean-up could be trusted to end: it is what the user no longer waits for
    raise KeyboardInterrupt
