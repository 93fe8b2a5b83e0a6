"""Records as a store takes them, made up: every field is there, and says nothing unless it is given."""

from __future__ import annotations

from typing import Any


def stage(key: str, **given: Any) -> dict[str, Any]:
    """A stage of a plan."""
    return {"key": key, "kind": "finetune", "name": "a cell", "spec": {}, "labels": {}, "parents": {}, **given}


def commit(key: str, **given: Any) -> dict[str, Any]:
    """The commit of a finished stage."""
    ended: dict[str, Any] = {"outcome": "succeeded", "metrics": {}, "facts": {}, "artifacts": {}, "seconds": 1.0}
    return {**stage(key), **ended, **given}


def failure(key: str, **given: Any) -> dict[str, Any]:
    """The last failure of a stage."""
    return {**stage(key), "outcome": "failed", "error": "for a reason", **given}


def plan(grid: str, plan_id: str, **given: Any) -> dict[str, Any]:
    """A resolved plan without cells and stages."""
    table = {"index": ["model"], "columns": ["dataset"], "value": ["dice"], "unit": "percent", "decimals": 1}
    return {
        "format": 1, "plan": plan_id, "grid": grid, "profile": "smoke", "overrides": [], "only": [], "source": "",
        "created": "2026-11-21T23:15:00+00:00", "command": "", "data_root": "data", "title": "Made up",
        "stand_ins": {}, "footnotes": [], "table": table, "cells": [], "stages": {}, **given,
    }  # fmt: skip
