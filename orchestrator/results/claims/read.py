"""Findings of a stored plan: its claims, its cells, the curves and analyses that claims name, the published values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from orchestrator.grid.claims import Similarity, parse_claims
from orchestrator.record.store import Store, StoreError
from orchestrator.results import ResultsError
from orchestrator.results.cells import tidy
from orchestrator.results.claims.evaluate import Finding, evaluate
from orchestrator.results.claims.facts import GROUP_AXES, History, facts_of_cells, facts_of_references
from orchestrator.results.claims.written import ClaimsTold, told
from orchestrator.results.references import Reference, load
from orchestrator.results.statistics.looks import Looks


def tell(plan: Mapping[str, Any], cells: pd.DataFrame, store: Store) -> ClaimsTold:
    """The findings of a plan as `collect` shows them; arguments as of `findings_of`."""
    findings, warnings = findings_of(plan, cells, store)
    return told(findings, plan, warnings)


def findings_of(plan: Mapping[str, Any], cells: pd.DataFrame, store: Store) -> tuple[list[Finding], list[str]]:
    """The verdict on every claim of a plan, and one warning for each grid whose cells are missing beside.

    Args:
        cells: tidy rows of the plan.
    """
    claims = parse_claims(plan.get("claims") or [])
    if not claims:
        return [], []
    beside, printed, warnings = _beside(plan, claims, store)
    if not plan["cells"] and (drawn := _drawn_from(plan, store)) is not None:
        cells = drawn
    analyses: Mapping[str, Mapping[str, Any]] = {}
    if any(isinstance(claim, Similarity) for claim in claims):
        analyses = store.commits(key for key, stage in plan["stages"].items() if stage["kind"] == "analysis")
    ours = facts_of_cells(plan, cells, beside=beside, histories=lambda keys: histories(store, keys), commits=analyses)
    values = _published(plan)
    published = facts_of_references(values, plan["table"], printed) if values or printed else None
    return evaluate(claims, ours, published, looks_of(plan)), warnings


def looks_of(plan: Mapping[str, Any]) -> Looks | None:
    """The looks of a plan whose seeds come in by looks; None for any other."""
    stated = plan.get("looks")
    return Looks(tuple(stated["sizes"]), stated["rule"]) if stated else None


def histories(store: Store, keys: Iterable[str]) -> dict[str, History]:
    """The curves of finished stages by key; a stage whose curve is missing or damaged is left out."""
    found: dict[str, History] = {}
    for key, commit in store.commits(keys).items():
        path = commit.get("artifacts", {}).get("history")
        try:
            found[key] = json.loads(store.artifact(path)) if path else ()
        except (StoreError, ValueError):
            continue
    return found


def _beside(
    plan: Mapping[str, Any], claims: Sequence[Any], store: Store
) -> tuple[dict[str, pd.DataFrame], dict[str, list[Reference]], list[str]]:
    """Cells and published values of the other grids that claims read, by name; cells of the same profile only."""
    frames: dict[str, pd.DataFrame] = {}
    printed: dict[str, list[Reference]] = {}
    warnings: list[str] = []
    for name in dict.fromkeys(name for claim in claims for name in getattr(claim, "beside", ())):
        with suppress(ResultsError):  # a grid may have no published values
            printed[name] = load(name)
        try:
            other = store.load_plan(name, None)
        except StoreError as error:
            warnings.append(f"claims that read {name}, too: {error}")
            continue
        if (other["profile"], other["overrides"]) != (plan["profile"], plan["overrides"]):
            warnings.append(f"claims that read {name}, too: its newest plan has another profile or other overrides")
            continue
        keys = [cell["key"] for cell in other["cells"] if cell.get("key")]
        frames[name] = tidy(other, store.commits(keys), store.failures(keys))
    return frames, printed, warnings


def _published(plan: Mapping[str, Any]) -> list[Reference]:
    """The published values of the plan's own table; that they cannot be read is told with the table."""
    try:
        return load(plan["references"]) if plan.get("references") else []
    except ResultsError:
        return []


def _drawn_from(plan: Mapping[str, Any], store: Store) -> pd.DataFrame | None:
    """The finetuned and probed stages that a figure draws from; it has no cells of its own.

    Their labels name the data that served; where that is a stand-in for one data set, the name asked for is put back.
    """
    stages = {key: stage for key, stage in plan["stages"].items() if stage["kind"] in ("finetune", "probe")}
    asked = {used: name for name, used in (plan.get("stand_ins") or {}).items()}
    cells = [
        {
            **{axis: stage["labels"].get(axis) for axis in GROUP_AXES if axis != "metric"},
            **{a: asked.get(v, v) for a in ("dataset", "pretext_data") if (v := stage["labels"].get(a))},
            "seed": stage["labels"].get("seed"),
            "n_train": None,
            "key": key,
            "constant": None,
        }
        for key, stage in stages.items()
    ]
    return tidy({**plan, "cells": cells}, store.commits(stages), store.failures(stages)) if cells else None
