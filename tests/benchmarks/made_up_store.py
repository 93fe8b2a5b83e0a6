"""A store and an MLflow database with many finished cells, written directly: nothing is run."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS = ("dice", "dice_all_foreground", "dice_pooled", "dice_soft", "iou", "loss", "miou")
MODELS, DATASETS, FRACTIONS = 10, 5, (0.01, 0.05, 0.2)
GRID = "many"
NAN = -1  # the place of a metric that is not a number


def cells(count: int) -> Iterator[dict[str, Any]]:
    """Cells of a grid of 10 models x 5 data sets x 3 fractions, with as many seeds as that takes."""
    for n in range(count):
        place, seed = n % (MODELS * DATASETS * len(FRACTIONS)), n // (MODELS * DATASETS * len(FRACTIONS))
        model, dataset = place % MODELS, place // MODELS % DATASETS
        fraction = FRACTIONS[place // (MODELS * DATASETS)]
        yield {
            "scenario": "seg-enc", "frozen": False, "model": f"Model {model}", "pretext": f"pretext-{model}",
            "pretext_data": f"data-{dataset}", "network": "conrec-unet", "dataset": f"data-{dataset}",
            "fraction": fraction, "n_train": int(1000 * fraction), "seed": seed, "key": f"{n:024x}",
            "constant": None, "blocked": None,
        }  # fmt: skip


def stage(cell: dict[str, Any]) -> dict[str, Any]:
    """The stage of a cell, as long as a real one."""
    labels = {name: value for name, value in cell.items() if name not in ("key", "constant", "blocked", "n_train")}
    finetune = {
        "batch": 8, "crop_area": 0.5, "curve_images": 32, "flip": 0.5, "input_size": 64, "learning_rate": 0.001,
        "loss": "dice", "momentum": 0.9, "optimizer": "adam", "report_every": 20, "steps": 200, "weight_decay": 0.0,
    }  # fmt: skip
    return {
        "key": cell["key"], "kind": "finetune", "name": f"{cell['scenario']} {cell['model']} | {cell['dataset']}",
        "labels": {**labels, "profile": "paper"}, "fingerprint": "8260239f" * 8, "parents": {"pretrain": "f" * 24},
        "cost": 9.8, "blocked": None, "provisional": False, "study": None, "proposed": True, "awaits": {}, "hints": {},
        "spec": {
            "scenario": cell["scenario"], "seed": cell["seed"], "frozen": False, "finetune": finetune,
            "network": {"name": "conrec-unet", "width": 64}, "backend": {"precision": "float32", "threads": 1},
            "data": {"fraction": cell["fraction"], "n_train": cell["n_train"], "options": {}, "reader": "pets"},
        },
    }  # fmt: skip


def commit(cell: dict[str, Any], metrics: dict[str, float]) -> dict[str, Any]:
    """The commit record of a finished cell."""
    return {
        **stage(cell), "outcome": "succeeded", "metrics": metrics, "attempt": "427d4f61b04f", "node": "vm",
        "facts": {"n_eval": 686, "n_train": cell["n_train"], "resumed_from": 0, "transferred": 56}, "device": "cpu",
        "artifacts": {"history": f"artifacts/{cell['key']}/427d4f61b04f/history.json"}, "seconds": 12.752,
        "started": "2026-11-22T02:30:17.391+00:00", "finished": "2026-11-22T02:30:30.142+00:00",
        "versions": {"torch": "2.15.0"},
    }  # fmt: skip


def plan(count: int) -> dict[str, Any]:
    """The resolved plan of all cells."""
    every = list(cells(count))
    table = {
        "index": ["model"], "columns": ["dataset", "fraction"], "value": ["dice"], "unit": "percent", "decimals": 1,
        "higher_is_better": True,
    }  # fmt: skip
    return {
        "format": 1, "plan": "20261121T231500000Z-ab12cd34", "grid": GRID, "profile": "paper", "overrides": [],
        "only": [], "source": "", "data_root": "data", "created": "2026-11-21T23:15:00Z", "command": "none",
        "title": "Many cells", "references": None, "stand_ins": {}, "footnotes": [], "table": table, "cells": every,
        "studies": {}, "wanted": [],
        "stages": {cell["key"]: stage(cell) for cell in every},
    }  # fmt: skip


def results(count: int) -> Iterator[tuple[dict[str, Any], dict[str, float] | None]]:
    """Each cell with its metrics; one in 1,000 failed (None), and another one in 1,000 has no number."""
    draw = random.Random(0)
    for n, cell in enumerate(cells(count)):
        metrics = {name: draw.random() for name in METRICS}
        if n % 1000 == 2:
            metrics["dice"] = math.nan
        yield cell, None if n % 1000 == 1 else metrics


def write_store(folder: Path, count: int) -> None:
    """The store, file by file as `orchestrator.record.store` lays it out."""
    for name in ("commits", "failures", f"plans/{GRID}"):
        (folder / name).mkdir(parents=True)
    made = plan(count)
    (folder / "plans" / GRID / f"{made['plan']}.json").write_text(json.dumps(made, sort_keys=True), "utf-8")
    for cell, metrics in results(count):
        key = cell["key"]
        if metrics is None:
            failed = {**stage(cell), "outcome": "failed", "error": "CUDA out of memory", "finished": None}
            (folder / "failures" / f"{key}.json").write_text(json.dumps(failed, sort_keys=True), "utf-8")
        else:
            (folder / "commits" / f"{key}.json").write_text(json.dumps(commit(cell, metrics), sort_keys=True), "utf-8")


def write_mlflow(path: Path, count: int, experiment: str = "transfergrid") -> None:
    """The same results as runs of an MLflow SQLite database: MLflow makes the tables, SQL fills them."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}", registry_uri=f"sqlite:///{path}")
    identifier = client.create_experiment(experiment)
    runs, tags, metrics_, params = [], [], [], []
    for n, (cell, metrics) in enumerate(results(count)):
        run, start = f"{n:032x}", 1_795_000_000_000 + n
        status = "FINISHED" if metrics else "FAILED"
        runs.append((run, f"run {n}", "LOCAL", "", "", "bench", status, start, start + 1, None, "active",
                     f"file:///nowhere/{run}", identifier))  # fmt: skip
        known = {**{k: str(v) for k, v in stage(cell)["labels"].items()}, "key": cell["key"], "kind": "finetune",
                 "status": "succeeded" if metrics else "failed", "node": "vm", f"grid.{GRID}": "true"}  # fmt: skip
        known |= {} if metrics else {"error": "CUDA out of memory"}
        tags += [(f"transfergrid.{name}", value, run) for name, value in known.items()]
        params += [(f"finetune.{name}", str(value), run) for name, value in stage(cell)["spec"]["finetune"].items()]
        for name, value in (metrics or {}).items():
            bad = math.isnan(value)
            metrics_.append((name, 0.0 if bad else value, start, 0, bad, run))
    with sqlite3.connect(path) as db:
        columns = "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time"
        columns += ", source_version, lifecycle_stage, artifact_uri, experiment_id"
        db.executemany(f"INSERT INTO runs ({columns}) VALUES ({', '.join('?' * 13)})", runs)
        db.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?,?,?)", tags)
        db.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?,?,?)", params)
        db.executemany(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?,?,?,?,?,?)", metrics_
        )
        db.executemany(
            "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?,?,?,?,?,?)", metrics_
        )
