"""What `tests.benchmarks.flowers_column` runs, from the built-in grids, and the table that it prints of it.

The plan is written where the package is installed; the table needs the standard library alone.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainables.settings import FinetuneSettings, PretrainSettings

REFERENCES = Path(__file__).resolve().parents[2] / "search_spaces" / "references"
DATASET = "flowers17"
ONE_TASK = "model=ConRec (1 task)"
# Table 2's rows; and from Table 6, where the paper has it, vanilla ConRec.
GRIDS: Mapping[str, tuple[str, ...]] = {"p1-table2": (), "p1-table6": (ONE_TASK,)}
POINTS = 6  # of a finetune's curve beside the one at step 0: each costs what a step and a half cost

Stored = Mapping[str, Any]
Place = tuple[str, str, float]  # scenario, model, fraction


def make_plan(
    data_root: Path, pretrain_steps: int, finetune_steps: int, more: Sequence[str], only: Sequence[str]
) -> Any:
    """The cells and stages of the column as JSON values, from the grids under their profile `paper`.

    Args:
        more: further `KEY=VALUE` for the grids.
        only: `AXIS=VALUE`, to leave cells out; values of one axis add up, axes intersect.

    Raises:
        SystemExit: the data are missing or faulty, or an option is wrong.
    """
    from orchestrator.grid.errors import GridError
    from orchestrator.grid.load import load_request
    from orchestrator.plan.build import build

    overrides = [
        "stand_ins.flowers102=flowers17",
        f"pretrain.steps={pretrain_steps}",
        f"finetune.steps={finetune_steps}",
        f"finetune.report_every={max(1, finetune_steps // POINTS)}",
        *more,
    ]
    try:
        requests = [
            load_request(grid, profile="paper", overrides=overrides, only=[f"dataset={DATASET}", *own])
            for grid, own in GRIDS.items()
        ]
    except GridError as error:
        raise SystemExit(str(error)) from None
    built = build(requests, data_root)
    stages = {key: stage for plan in built.plans for key, stage in plan.stages.items()}
    if problems := [*built.faults, *filter(None, (stage.blocked for stage in stages.values()))]:
        raise SystemExit(problems[0])
    cells = [cell for plan in built.plans for cell in plan.cells if _asked(asdict(cell), only)]
    leaves = {cell.key for cell in cells}
    needed = leaves | {parent for key in leaves for parent in stages[key].parents.values()}
    kept = ("key", "kind", "name", "parents", "spec", "fingerprint")
    return {
        "grids": list(GRIDS),
        "references": [request.grid.references for request in requests],
        "overrides": overrides,
        "only": list(only),
        "notes": list(built.notes),
        "stages": [{name: s.record()[name] for name in kept} for key, s in stages.items() if key in needed],
        "cells": [asdict(cell) for cell in cells],
    }


def _asked(cell: Stored, only: Sequence[str]) -> bool:
    wanted: dict[str, set[str]] = {}
    for axis, _, value in (text.partition("=") for text in only):
        wanted.setdefault(axis, set()).add(value)
    if unknown := wanted.keys() - cell.keys():
        raise SystemExit(f"--only: no axis {', '.join(sorted(unknown))}; there are {', '.join(cell)}")
    return all(str(cell[axis]) in values for axis, values in wanted.items())


def published(names: Sequence[str]) -> dict[Place, str]:
    """What the paper prints for Flowers 17: mean ± std of Dice x 100."""
    found = {}
    for name in names:
        with (REFERENCES / f"{name}.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["dataset"] == DATASET:
                    place = (row["scenario"], row["model"], float(row["fraction"]))
                    found[place] = f"{row['mean']} ± {row['std']}"
    return found


def table(plan: Stored, results: Stored) -> list[str]:
    """The lines to print: protocol, means beside published values, single cells, pretrainings."""
    return [
        *_protocol(plan, results),
        "",
        *_means(plan, results),
        "",
        *_cells(plan, results),
        "",
        *_below(plan, results),
    ]


def _protocol(plan: Stored, results: Stored) -> Iterator[str]:
    runs, stages = results["runs"], results["stages"]
    by_kind = {stage["kind"]: stage["spec"] for stage in plan["stages"]}
    cell, network = by_kind["finetune"], by_kind["finetune"]["network"]
    f, ended = cell["finetune"], [c for c in plan["cells"] if c["key"] in stages]
    yield f"# Flowers column of {' and '.join(plan['grids'])}: Dice x 100, mean ± sample std over the seeds"
    yield f"# {_each(r['command'] for r in runs)}"
    if runs:
        when = f"{runs[0]['began']} to {runs[-1]['until']} UTC"
        seconds = sum(r["seconds"] for r in runs)
        yield f"# {when}; {_each(r['device'] for r in runs)}; {_each(r['versions'] for r in runs)}"
        yield f"# device seconds: {seconds:,.0f} in {len(runs)} runs; {_each(map(_how, runs))}"
    yield (
        f"# network: {network['name']}, width {network['width']}, {results['parameters'] or 0:,} parameters; "
        f"{f['input_size']}x{f['input_size']}; {cell['backend']['precision']}"
        f"{', compiled' if cell['backend']['compiled'] else ''}"
    )
    if "pretrain" in by_kind:
        p = by_kind["pretrain"]["pretrain"]
        images = _counts(plan, stages, "pretrain", "{n_pretrain} train, {n_validation} validate")
        yield (
            f"# pretraining: {p['steps']:,} steps of {p['batch']} images, {p['optimizer']} at {p['learning_rate']}, on "
            f"all images of {by_kind['pretrain']['data']['reader']} without their masks ({images}); `paper` has "
            f"{PretrainSettings().steps:,} steps on Flowers 102"
        )
    sizes = _counts(plan, stages, "finetune", "{n_train} train and {n_eval} evaluate")
    yield (
        f"# finetuning: {f['steps']:,} steps of {f['batch']} images (fewer where fewer train), {f['optimizer']} at "
        f"{f['learning_rate']}, {f['loss']} loss, weights of the last step; {cell['data']['reader']}: {sizes}; `paper` "
        f"has {FinetuneSettings().steps:,} steps"
    )
    yield f"# cells: {len(ended)} of {len(plan['cells'])}; settings: {', '.join(plan['overrides'] + plan['only'])}"
    yield from (f"# {note}" for note in plan["notes"])


def _counts(plan: Stored, stages: Stored, kind: str, shown: str) -> str:
    """How many images the stages of a kind have used."""
    return _each(shown.format(**r["facts"]) for r in _of(plan, stages, kind) if not r["error"])


def _means(plan: Stored, results: Stored) -> Iterator[str]:
    paper, places = published(plan["references"]), _places(plan)
    fractions = sorted({(fraction, n) for (_, _, fraction), cells in places.items() for n in [cells[0]["n_train"]]})
    heads = [f"{fraction:.0%}, {n} train: {who}" for fraction, n in fractions for who in ("here", "paper")]
    yield " | ".join(["model", "start", *heads])
    for scenario, model in dict.fromkeys((s, m) for s, m, _ in places):
        row = [model, scenario]
        for fraction, _ in fractions:
            place = (scenario, model, fraction)
            row += [_mean(places.get(place, []), results), paper.get(place, "")]
        yield " | ".join(row)


def _cells(plan: Stored, results: Stored) -> Iterator[str]:
    yield "model | start | share that trains | Dice x 100 by seed"
    for (scenario, model, fraction), cells in _places(plan).items():
        values = [_value(results["stages"].get(cell["key"])) for cell in cells]
        yield " | ".join([model, scenario, f"{fraction:.0%}", ", ".join(values)])


def _below(plan: Stored, results: Stored) -> Iterator[str]:
    yield "pretraining | validation loss before | after | seconds"
    for stage in plan["stages"]:
        if stage["kind"] == "pretrain" and (found := results["stages"].get(stage["key"])):
            values = (
                ["", ""] if found["error"] else [f"{found['metrics'][n]:.4f}" for n in ("val_loss_start", "val_loss")]
            )
            yield " | ".join([stage["name"], *values, f"{found['seconds']:.0f}"])
    for key, found in results["stages"].items():
        if found["error"]:
            name = next(stage["name"] for stage in plan["stages"] if stage["key"] == key)
            yield f"FAILED {name}: {found['error']}"


def _places(plan: Stored) -> dict[Place, list[Any]]:
    """The cells by place of the table, seeds together."""
    found: dict[Place, list[Any]] = {}
    for cell in plan["cells"]:
        found.setdefault((cell["scenario"], cell["model"], cell["fraction"]), []).append(cell)
    return found


def _mean(cells: Sequence[Stored], results: Stored) -> str:
    records = [results["stages"].get(cell["key"]) for cell in cells]
    values = [100 * r["metrics"]["dice"] for r in records if r and not r["error"]]
    if not values:
        return "none"
    shown = f"{statistics.mean(values):.1f}"
    shown += f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return shown if len(values) == len(cells) else f"{shown} ({len(values)} of {len(cells)} seeds)"


def _value(record: Stored | None) -> str:
    if record is None:
        return "to come"
    return "failed" if record["error"] else f"{100 * record['metrics']['dice']:.3f}"


def _of(plan: Stored, stages: Stored, kind: str) -> list[Any]:
    return [stages[s["key"]] for s in plan["stages"] if s["kind"] == kind and s["key"] in stages]


def _how(run: Stored) -> str:
    return f"{run['parallel']} at a time, {run['fused']} cells as one"


def _each(values: Iterator[str] | Sequence[str]) -> str:
    """Different ones, once each, in order."""
    return "; ".join(dict.fromkeys(values)) or "none yet"


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all, whatever is killed."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
