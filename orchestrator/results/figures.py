"""The files of a grid's analyses: where they lie in the store, and what of them is not there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.record.shape import is_name
from orchestrator.record.store import Store, StoreError
from orchestrator.results.labels import DATASETS
from orchestrator.results.written import write_files

FOLDER = "figures"


@dataclass(frozen=True)
class Analysis:
    """An analysis of a plan. `name`: as in the grid; of a study `study-...`. `artifacts`: file name -> place in the
    store; empty where `lacking` says why there is no result. `metrics`: what it measured."""

    name: str
    key: str
    artifacts: Mapping[str, str]
    metrics: Mapping[str, float]
    lacking: str = ""


def analyses_of(plan: Mapping[str, Any], store: Store) -> list[Analysis]:
    """The analyses that a plan asks for, in its order, with what the store has of them.

    Raises:
        StoreError: the store cannot be read, or holds a name that is none: results would be written elsewhere.
    """
    stages = {key: plan["stages"][key] for key in plan.get("wanted", ()) if plan["stages"][key]["kind"] == "analysis"}
    commits, failures = store.commits(stages), store.failures(stages)
    names = {key: _name(stage) for key, stage in stages.items()}
    for key, name in names.items():
        if not is_name(name):
            raise StoreError(
                f"store {store.uri}: plans/{plan['grid']}/{plan['plan']}.json is damaged or was tampered with: "
                f"it calls the analysis {key} {name!r}; expected letters, digits and . _ -"
            )
    return [_analysis(names[key], stage, store, commits.get(key), failures.get(key)) for key, stage in stages.items()]


def _name(stage: Mapping[str, Any]) -> Any:
    return stage["labels"].get("analysis") or re.sub(r"[^A-Za-z0-9._]+", "-", str(stage["name"])).strip("-")


def _analysis(
    name: str,
    stage: Mapping[str, Any],
    store: Store,
    commit: Mapping[str, Any] | None,
    failure: Mapping[str, Any] | None,
) -> Analysis:
    if commit is None:
        why = (failure or {}).get("error") or stage.get("blocked") or "not run yet"
        return Analysis(name, stage["key"], {}, {}, " ".join(str(why).split()))
    return Analysis(name, stage["key"], store.files(commit), commit["metrics"])


def headline(plan: Mapping[str, Any]) -> list[str]:
    """What a grid of figures only is, in the words of a table's head and notes."""
    lines = [plan["title"], f"grid {plan['grid']}, profile {plan['profile']}, plan {plan['plan']}"]
    used: dict[str, list[str]] = {}
    for asked, actual in plan["stand_ins"].items():
        used.setdefault(actual, []).append(DATASETS.get(asked, asked))
    return lines + [f"  Stand-in data: {DATASETS.get(a, a)} in place of {', '.join(n)}." for a, n in used.items()]


def write_figures(plan: Mapping[str, Any], store: Store, folder: Path) -> tuple[list[Path], list[str]]:
    """Copy the files of all analyses into `folder`/figures/<analysis>/.

    Returns:
        What was written, and a warning for each analysis without a result.

    Raises:
        StoreError: the store cannot be read. ResultsError: the folder cannot be written.
    """
    written: list[Path] = []
    lacking: list[str] = []
    for analysis in analyses_of(plan, store):
        if analysis.lacking:
            lacking.append(f"no figure {analysis.name}: {analysis.lacking}")
            continue
        files = {name: store.artifact(place) for name, place in sorted(analysis.artifacts.items())}
        written += write_files(folder / FOLDER / analysis.name, files)
    return written, lacking
