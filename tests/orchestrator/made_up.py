"""Grids, data facts and stages made up for the tests of planning and scheduling. Nothing here touches a disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.grid.load import Request, load_request
from orchestrator.plan.data import DataFacts
from orchestrator.plan.expand import expand
from orchestrator.plan.keys import canonical
from orchestrator.plan.stages import Plan, Stage
from trainables.data import Listing

GRID = """\
grid: mine
title: Mine
profile: smoke
rows:
  - {scenario: random-init, model: Random}
  - scenario: seg-enc
    model: ConRec
    pretext: conrec
columns:
  - dataset: shapes
    pretext_data: shapes
    fractions: [0.05, 0.2]
seeds: [0, 1]
"""
SIZES = {"flowers17": 849, "flowers102": 8189, "pets": 7390, "shapes": 240, "folder": 20}


def write_grid(folder: Path, text: str = GRID, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def listing(reader: str, count: int) -> Listing:
    """A dataset of `count` annotated images, all in one pool."""
    names = tuple(f"{number:06d}.png" for number in range(count))
    everyone = tuple(range(count))
    return Listing(reader, Path(f"/made-up/{reader}"), names, names, (None,) * count, {0: 0, 1: 1}, everyone, everyone)


def present(spec: Mapping[str, Any]) -> DataFacts:
    """The dataset is there, with the published number of images."""
    return DataFacts(spec["reader"], f"files of {canonical(spec)}", listing(spec["reader"], SIZES[spec["reader"]]))


def absent(spec: Mapping[str, Any]) -> DataFacts:
    """The dataset is not there."""
    return DataFacts(spec["reader"], f"absent:{spec['reader']}", absent=f"/data: no folder {spec['reader']}")


def planned(name: str, facts_of: Any = present, **how: Any) -> Plan:
    """The plan of a built-in grid or YAML file."""
    request: Request = load_request(name, **how)
    return expand(request.grid, request.profile, facts_of)


def stage(key: str, *parents: str, kind: str = "finetune", cost: float = 1.0, **given: Any) -> Stage:
    """A stage that is only a node of a graph."""
    roles = {f"parent{number}": parent for number, parent in enumerate(parents)}
    return Stage(key, kind, {}, roles, "", f"stage {key}", {}, cost, **given)


def graph(*stages: Stage) -> dict[str, Stage]:
    return {s.key: s for s in stages}
