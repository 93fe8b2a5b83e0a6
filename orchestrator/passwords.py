"""Passwords in addresses (`postgresql://me:secret@host/db`) are shown nowhere: every message passes here.

In running text a blank or a quote ends an address. Those that the program was started with are known as whole words,
so that their passwords are found whatever they hold.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from functools import cache
from urllib.parse import unquote

VARIABLES = ("MLFLOW_TRACKING_URI", "TRANSFERGRID_STUDY_STORAGE")
# Greedy up to the last `@` of the word: people forget to escape an `@` or a `/` in a password.
_USERINFO = re.compile(r"""(?<=://)([^\s/:@"']*):[^\s"']*@""")
_TOKEN = re.compile(r"""(?<=http://|ttps://)[^\s/:@"']+@""", re.IGNORECASE)
_QUERY = re.compile(r"""(?<=[?&])((?:ssl)?password)=[^&\s"']*""", re.IGNORECASE)
# The same in a word that is an address, or an option and its address: blanks and quotes are part of it.
_ADDRESS = re.compile(r"(?:[\w.-]+=)?[a-z][\w+.-]*://", re.IGNORECASE)
_SECRETS = (
    re.compile(r"(?<=://)[^/:@]*:(.*)@", re.DOTALL),
    re.compile(r"(?<=http://|ttps://)([^/:@]+)@", re.IGNORECASE | re.DOTALL),
    re.compile(r"(?<=[?&])(?:ssl)?password=([^&]*)", re.IGNORECASE | re.DOTALL),
)
_TELLING = re.compile(r"(?=.*[a-z])(?=.*[^a-z]).{6,}", re.IGNORECASE | re.DOTALL)  # no word or number of a message


def without_passwords(text: str) -> str:
    """The text with `***` for the password in each address, and for those that this program was started with."""
    text = _hidden(text, _of_this_program())
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1=***", _TOKEN.sub("***@", _USERINFO.sub(r"\1:***@", text)))


def word_without_passwords(word: str) -> str:
    """A word of a command line with `***` for the password in it; if the word is an address, up to its last `@`."""
    return without_passwords(_hidden(word, secrets_of([word])))


def without_userinfo(uri: str) -> str:
    """An address without the name and password before its host."""
    return re.sub(r"(?<=://)[^/?#]*@", "", uri, count=1)


def secrets_of(words: Iterable[str]) -> tuple[str, ...]:
    """The passwords and tokens of those words that are addresses, longest first."""
    addresses = [word for word in words if _ADDRESS.match(word)]
    found = {secret for word in addresses for pattern in _SECRETS for secret in pattern.findall(word) if secret}
    return tuple(sorted(found, key=len, reverse=True))


@cache
def _of_this_program() -> tuple[str, ...]:
    """The secrets of its command line and environment, which are read once."""
    return secrets_of([*sys.argv[1:], *(os.environ.get(name, "") for name in VARIABLES)])


def _hidden(text: str, known: Iterable[str]) -> str:
    """The text with `***` for each secret within its address, and elsewhere where no message holds it by chance."""
    for form in (form for secret in known for form in _forms(secret)):
        exact = re.escape(form)
        text = re.sub(rf"(?<=[:/]){exact}(?=@)|(?<=(?i:password=)){exact}", "***", text)
        text = text.replace(form, "***") if _TELLING.fullmatch(form) else text
    return text


def _forms(secret: str) -> list[str]:
    """As it was written, and as Python, JSON and the readers of addresses show it, longest first."""
    plain = {secret, unquote(secret)}
    return sorted(plain | {shown(form)[1:-1] for form in plain for shown in (repr, json.dumps)}, key=len, reverse=True)
