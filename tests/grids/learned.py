"""Did every pretext of a store learn? `python -m tests.grids.learned STORE [...]` prints a table and exits 1 if not.

Learned: the method's own validation metric ends better than it was before the first step. Where features are watched
(`val_feature_std`), they must not collapse either.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.record.store import open_store
from trainables.settings import PRETEXT_SETTINGS

LEAST_SPREAD = 0.1  # of the standard deviation that features have where they are spread evenly over the sphere


@dataclass(frozen=True)
class Learned:
    """The validation metric of a pretraining at its first and at its last point."""

    name: str
    metric: str
    start: float
    end: float
    better: bool
    collapsed: bool

    def __str__(self) -> str:
        verdict = "collapsed" if self.collapsed else "better" if self.better else "NOT BETTER"
        return f"{self.name:<60}  {self.metric:<12}  {self.start:9.4f}  {self.end:9.4f}  {verdict}"


def learned(record: Mapping[str, Any]) -> Learned:
    """What the record of a finished pretrain stage says."""
    pretext, metrics = record["spec"]["pretext"], record["metrics"]
    metric, side = PRETEXT_SETTINGS[pretext["method"]].metric
    start, end = metrics[f"{metric}_start"], metrics[metric]
    spread, even = metrics.get("val_feature_std"), pretext.get("projection", 1) ** -0.5
    return Learned(
        name=f"{record['name']} | {record['spec']['network']['name']}",
        metric=metric,
        start=start,
        end=end,
        better=end < start if side == "min" else end > start,
        collapsed=spread is not None and spread < LEAST_SPREAD * even,
    )


def pretrainings(store: str) -> list[Learned]:
    """All pretrain stages that a store has finished, by name."""
    opened = open_store(store)
    records = opened.commits(opened.finished()).values()
    return sorted((learned(r) for r in records if r["kind"] == "pretrain"), key=lambda found: found.name)


if __name__ == "__main__":
    found = [one for store in sys.argv[1:] for one in pretrainings(store)]
    print(*found, sep="\n")
    sys.exit(any(one.collapsed or not one.better for one in found))
