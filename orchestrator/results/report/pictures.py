"""The pictures of finished analyses, inside the page as data."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator.record.store import Store, StoreError
from orchestrator.results.figures import analyses_of

MOST_BYTES = 30_000_000  # of all pictures of a page
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Picture:
    """A picture of an analysis: what it is called, and its data as an address; without one `problem` says why."""

    title: str
    source: str
    problem: str = ""


def pictures(store: Store, plan: Mapping[str, Any]) -> list[Picture]:
    """The pictures of every analysis that a plan asks for, in its order; of one without a result, why."""
    found, total = [], 0
    for analysis in analyses_of(plan, store):
        if analysis.lacking:
            found.append(Picture(analysis.name, "", analysis.lacking))
        for name, path in sorted(analysis.artifacts.items()):
            kind = TYPES.get(PurePosixPath(name).suffix)
            if kind is None:
                continue
            title = f"{analysis.name}: {PurePosixPath(name).stem.replace('_', ' ')}"
            try:
                data = store.artifact(path)
            except StoreError as error:
                found.append(Picture(title, "", str(error)))
                continue
            total += len(data)
            if total > MOST_BYTES:
                found.append(Picture(title, "", f"left out, as the page would become too large; see {path}"))
            else:
                found.append(Picture(title, f"data:{kind};base64,{b64encode(data).decode()}"))
    return found
