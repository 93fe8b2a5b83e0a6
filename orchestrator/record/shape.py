"""What is looked at in a record before anything is built on it: its fields, and that no name in it leads astray.

A store may come from somebody else. Nothing in its records is code, but names in them become paths: of files that are
read from the store, and of results that are written on this machine. So each such name is one plain name, never a path.
There may be 100,000 records, so only what costs about a microsecond is checked: fields, not what each of them says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FORMAT = 1  # of plans
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a grid or an analysis, as `orchestrator.grid.schema` has it
FILE = r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]*"
FILE_NAME = re.compile(FILE)
ARTIFACT = re.compile(rf"artifacts/(?P<key>{FILE})/(?P<attempt>{FILE})/(?P<name>{FILE})")

STAGE_FIELDS = frozenset(("key", "kind", "spec", "parents", "name", "labels"))
CELL_FIELDS = frozenset((
    "scenario", "frozen", "model", "pretext", "pretext_data", "network", "dataset", "fraction", "n_train", "seed",
    "key",
))  # fmt: skip
PLAN_FIELDS: Mapping[str, type] = {
    "plan": str, "grid": str, "profile": str, "overrides": list, "only": list, "source": str, "created": str,
    "command": str, "data_root": str, "title": str, "stand_ins": dict, "footnotes": list, "table": dict, "cells": list,
    "stages": dict,
}  # fmt: skip
TABLE_FIELDS = frozenset(("index", "columns", "value", "unit", "decimals"))
COMMIT_FIELDS = STAGE_FIELDS | {"outcome", "metrics", "facts", "artifacts", "seconds"}
FAILURE_FIELDS = frozenset(("key", "outcome", "error"))


def is_file_name(name: object) -> bool:
    """Whether it is the name of a file that shows, and no path."""
    return isinstance(name, str) and FILE_NAME.fullmatch(name) is not None


def is_name(name: object) -> bool:
    """Whether a grid or an analysis may be called so."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def fault_of_record(kind: str, key: str, record: Mapping[str, Any]) -> str:
    """What is wrong with `kind/KEY.json` of a store, a commit or a failure; empty where nothing is."""
    fields = COMMIT_FIELDS if kind == "commits" else FAILURE_FIELDS
    if not record.keys() >= fields:
        return _lacking(fields, record)
    if record["key"] != key:
        return f"it is the record of {record['key']!r}"
    if kind != "commits" or type(record["metrics"]) is type(record["artifacts"]) is type(record["facts"]) is dict:
        return ""
    return "expected key: value in metrics, facts and artifacts"


def fault_of_plan(grid: str, plan_id: str, plan: Mapping[str, Any]) -> str:
    """What is wrong with `plans/GRID/PLAN.json` of a store; empty where nothing is."""
    if plan.get("format", FORMAT) != FORMAT:
        return f"its format is {plan['format']!r}, and this program reads {FORMAT}"
    if not {"format", *PLAN_FIELDS} <= plan.keys():
        return _lacking({"format", *PLAN_FIELDS}, plan)
    for name, kind in PLAN_FIELDS.items():
        if type(plan[name]) is not kind:
            return f"its {name} is no {kind.__name__}"
    if (plan["grid"], plan["plan"]) != (grid, plan_id) or not is_name(grid):
        return f"it is plan {plan['plan']!r} of grid {plan['grid']!r}"
    return _fault_of_parts(plan)


def _fault_of_parts(plan: Mapping[str, Any]) -> str:
    """Of a plan's table, cells and stages."""
    if TABLE_FIELDS - plan["table"].keys():
        return f"its table: {_lacking(TABLE_FIELDS, plan['table'])}"
    for number, cell in enumerate(plan["cells"], start=1):
        if type(cell) is not dict or not cell.keys() >= CELL_FIELDS:
            return f"cell {number}: {_lacking(CELL_FIELDS, cell)}"
    for key, stage in plan["stages"].items():
        if type(stage) is not dict or not stage.keys() >= STAGE_FIELDS:
            return f"stage {key!r}: {_lacking(STAGE_FIELDS, stage)}"
        if stage["key"] != key or "/" in key:
            return f"stage {key!r} has the key {stage['key']!r}"
    lost = [key for key in plan.get("wanted", ()) if key not in plan["stages"]]
    return f"it has no stage {lost[0]!r}, which it wants" if lost else ""


def _lacking(fields: frozenset[str] | set[str], record: object) -> str:
    if not isinstance(record, dict):
        return "expected key: value"
    return f"it lacks {', '.join(sorted(fields - record.keys()))}"
