"""Errors of a request: what is wrong, where it stands, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GridError(Exception):
    """The request is wrong. Its text is one message for the user."""


def short(text: object, most: int = 100) -> str:
    """A text as part of a message: in one line, and cut where it is long."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def near(name: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'?` where a name is close, else the list of all names."""
    names = sorted(str(n) for n in allowed)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "allowed: " + ", ".join(names)
