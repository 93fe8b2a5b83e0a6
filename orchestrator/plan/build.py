"""From requests to plans, and from plans to the records that the store keeps."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from orchestrator.grid.load import Request
from orchestrator.plan.data import DataFacts, examine
from orchestrator.plan.datasets import data_specs, stand_ins_used, weight_specs
from orchestrator.plan.expand import expand
from orchestrator.plan.keys import canonical
from orchestrator.plan.pretexts import FactsOf
from orchestrator.plan.stages import Cell, Plan, Stage, Study
from trainables.data import WrongRequest

RecordT = dict[str, Any]
Progress = Callable[[str, int, int], None]  # reader, files done, files to decode


@dataclass(frozen=True)
class Plans:
    """The plans of one command and what was found wrong with its data."""

    plans: tuple[Plan, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def build(
    requests: Sequence[Request], data_root: Path, *, cache_dir: Path | None = None, on_progress: Progress | None = None
) -> Plans:
    """Examine every dataset once and expand every grid."""
    asked = [spec for request in requests for spec in (*data_specs(request.grid), *weight_specs(request.grid))]
    specs = {canonical(spec): spec for spec in asked}
    facts: dict[str, DataFacts] = {}
    for name, spec in specs.items():
        reader = spec["reader"]
        told = (lambda done, total, reader=reader: on_progress(reader, done, total)) if on_progress else None
        facts[name] = examine(reader, spec["options"], data_root, cache_dir=cache_dir, on_progress=told)
    plans = tuple(_expanded(request, lambda spec: facts[canonical(spec)]) for request in requests)
    faults = tuple(dict.fromkeys(fault for found in facts.values() for fault in found.faults))
    notes = tuple(dict.fromkeys(note for plan in plans for note in plan.notes))
    return Plans(plans, faults, notes)


def _expanded(request: Request, facts_of: FactsOf) -> Plan:
    try:
        return expand(request.grid, request.profile, facts_of)
    except WrongRequest as error:
        raise WrongRequest(f"{request.path}: {error}") from error


def new_plan_id(newest: str = "") -> str:
    """A sortable id: the time in milliseconds, and four random bytes against two starts at once.

    Args:
        newest: an id that the new one sorts behind, also where this machine's clock is behind it.
    """
    now, then = datetime.now(UTC), _time_of(newest)
    at = max(now, then + timedelta(milliseconds=1)) if then else now
    return f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z-{uuid.uuid4().hex[:8]}"


def newest_plan_id(plan_ids: Iterable[str]) -> str:
    """The last of those ids that begin with a time; empty where none does."""
    return max((plan_id for plan_id in plan_ids if _time_of(plan_id)), default="")


def is_ahead_of_clock(plan_id: str) -> bool:
    """Whether this machine's clock is behind the time of the id."""
    then = _time_of(plan_id)
    return then is not None and then > datetime.now(UTC)


def _time_of(plan_id: str) -> datetime | None:
    try:
        return datetime.strptime(plan_id.partition("-")[0], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def plan_record(request: Request, plan: Plan, *, plan_id: str, command: str, data_root: Path) -> RecordT:
    """The resolved plan as the store keeps it: all that `collect`, `report` and `status` need, without the data."""
    grid = request.grid
    return {
        "format": 1,
        "plan": plan_id,
        "grid": grid.grid,
        "profile": request.profile,
        "overrides": list(request.overrides),
        "only": list(request.only),
        "source": request.path,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "data_root": str(data_root.absolute()),
        "title": grid.title,
        "references": grid.references,
        "stand_ins": stand_ins_used(grid),
        "footnotes": list(grid.footnotes),
        "claims": list(grid.claims),
        "looks": grid.looks and {"sizes": list(grid.looks.looks), "rule": grid.looks.rule},
        "table": grid.table.model_dump(mode="json"),
        "cells": [asdict(cell) for cell in plan.cells],
        "stages": {key: stage.record() for key, stage in plan.stages.items()},
        "studies": {key: study.record() for key, study in plan.studies.items()},
        "wanted": list(plan.wanted),
    }


def restore_plan(record: RecordT) -> Plan:
    """The plan that a stored record holds. JSON sorts its stages by key; here parents precede children again."""
    found = {key: Stage.from_record(stage) for key, stage in record["stages"].items()}
    needs = {key: [p for p in stage.parents.values() if p in found] for key, stage in found.items()}
    stages = {key: found[key] for key in TopologicalSorter(needs).static_order()}
    studies = {key: Study.from_record(study) for key, study in record.get("studies", {}).items()}
    cells, wanted = tuple(Cell(**cell) for cell in record["cells"]), tuple(record.get("wanted", ()))
    return Plan(record["grid"], record["profile"], cells, stages, (), studies, wanted)
