"""Passwords in addresses (`postgresql://me:secret@host/db`) are shown nowhere: every message passes here."""

from __future__ import annotations

import re

# Greedy up to the last `@` of the word: people forget to escape an `@` or a `/` in a password.
_USERINFO = re.compile(r"""(?<=://)([^\s/:@"']*):[^\s"']*@""")
_QUERY = re.compile(r"""(?<=[?&])((?:ssl)?password)=[^&\s"']*""", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """The text with `***` for the password in each address."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1=***", _USERINFO.sub(r"\1:***@", text))


def without_userinfo(uri: str) -> str:
    """An address without the name and password before its host."""
    return re.sub(r"(?<=://)[^/?#]*@", "", uri, count=1)
