"""Faults of a grid that its shape does not show: names that stand for nothing, wrong dials, equal lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.grid.analysis_faults import datasets_asked, name_faults, shape_faults
from orchestrator.grid.cells import axes_of
from orchestrator.grid.claims import claim_faults
from orchestrator.grid.errors import GridError, near
from orchestrator.grid.faults import explain, model_faults, section_faults
from orchestrator.grid.networks import section_faults_of_networks
from orchestrator.grid.schema import (
    PRETEXT_SECTIONS,
    Downstream,
    Grid,
    Import,
    Row,
    Tune,
)
from orchestrator.grid.source import Path_, Source
from orchestrator.grid.tuning import misfits
from trainables.settings import (
    DATASET_OPTIONS,
    ENCODER_ONLY,
    PRETEXT_SETTINGS,
    SECTIONS,
    PretrainSettings,
)
from trainables.settings.datasets import PREPARE_SETTINGS

METRICS = ("dice", "iou", "miou", "dice_pooled", "dice_soft", "dice_all_foreground", "loss", "dice_eval", "iou_eval",
           "dice_hard", "iou_hard", "accuracy", "accuracy_balanced")  # fmt: skip


def meaning_faults(grid: Grid, source: Source) -> Iterator[GridError]:
    """All of them, one after another; a later one may follow from an earlier one."""
    for section, cls in SECTIONS.items():
        if section != "network":
            yield from section_faults(cls, getattr(grid, section), source, (section,))
    yield from shape_faults(grid, source)
    yield from section_faults_of_networks(grid, source)
    for number, row in enumerate(grid.rows):
        yield from section_faults(
            SECTIONS["finetune"], {**grid.finetune, **row.finetune}, source, ("rows", number, "finetune")
        )
    yield from _pretexts(grid, source)
    yield from name_faults(grid, source)
    yield from _datasets(grid, source)
    yield from _constants(grid, source)
    yield from _twins(grid, source)
    for value in grid.table.value:
        if value not in METRICS:
            yield GridError(f"{source.place(('table', 'value'))}: no metric {value!r}; {near(value, METRICS)}")
    yield from claim_faults(grid, source)


def _pretexts(grid: Grid, source: Source) -> Iterator[GridError]:
    for name, entry in grid.pretexts.items():
        method = entry.get("method", name)
        if method == "imported":
            yield from model_faults(Import, entry, source, ("pretexts", name))
            continue
        if not isinstance(method, str) or method not in PRETEXT_SETTINGS:
            place = source.place(("pretexts", name, "method"))
            yield GridError(f"{place}: pretexts.{name}: no method {method!r}; {near(str(method), PRETEXT_SETTINGS)}")
            return
        own = {k: v for k, v in entry.items() if k not in PRETEXT_SECTIONS}
        yield from section_faults(PRETEXT_SETTINGS[method], {**own, "method": method}, source, ("pretexts", name))
        dials = entry.get("pretrain", {})
        if not isinstance(dials, Mapping):
            place = source.place(("pretexts", name, "pretrain"))
            yield GridError(f"{place}: pretexts.{name}.pretrain: expected a mapping (key: value), but got {dials!r}")
            return
        yield from section_faults(PretrainSettings, {**grid.pretrain, **dials}, source, ("pretexts", name, "pretrain"))
        if "init" in entry and (problem := _why_no_start(grid, entry["init"])):
            yield GridError(f"{source.place(('pretexts', name, 'init'))}: pretexts.{name}.init: {problem}")
            return
        if "prepare" in entry:
            yield from _prepare(entry["prepare"], source, ("pretexts", name, "prepare"))
        if "tune" in entry:
            yield from _tune(entry, method, own, {**grid.pretrain, **dials}, source, ("pretexts", name, "tune"))
    known = {*grid.pretexts, *PRETEXT_SETTINGS}
    for number, row in enumerate(grid.rows):
        if row.pretext is not None and row.pretext not in known:
            place = source.place(("rows", number, "pretext"))
            yield GridError(f"{place}: rows.{number}.pretext: no pretext {row.pretext!r}; {near(row.pretext, known)}")
            return
        method = grid.pretexts.get(row.pretext or "", {}).get("method", row.pretext)
        if row.scenario == "seg-enc-dec" and method in ENCODER_ONLY:
            place = source.place(("rows", number, "scenario"))
            yield GridError(
                f"{place}: rows.{number}.scenario: seg-enc-dec takes over a decoder, but {method} trains none; "
                "expected cls-enc, or another pretext"
            )


def _why_no_start(grid: Grid, asked: Any) -> str | None:
    """Why a pretraining cannot start from the weights that it names; None where it can."""
    known = [name for name, entry in grid.pretexts.items() if entry.get("method") == "imported"]
    if asked in known:
        return None
    if known:
        return f"no imported weights {asked!r}; {near(str(asked), known)}"
    return f"no imported weights {asked!r}; add them, as pretexts: {{NAME: {{method: imported, format: FORMAT}}}}"


def _prepare(entry: Any, source: Source, path: Path_) -> Iterator[GridError]:
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if not isinstance(kind, str) or kind not in PREPARE_SETTINGS:
        where = f"{source.place((*path, 'kind'))}: {'.'.join(map(str, path))}.kind"
        yield GridError(f"{where}: no such preparation {kind!r}; {near(str(kind), PREPARE_SETTINGS)}")
        return
    yield from section_faults(PREPARE_SETTINGS[kind], entry, source, path)


def _tune(
    entry: Mapping[str, Any],
    method: str,
    own: Mapping[str, Any],
    dials: Mapping[str, Any],
    source: Source,
    path: Path_,
) -> Iterator[GridError]:
    try:
        tune = Tune.model_validate(entry["tune"])
    except ValidationError as error:
        yield explain(error, source, path, Tune)
        return
    prepare = entry.get("prepare")
    kind = prepare.get("kind") if isinstance(prepare, Mapping) else None
    for below, what in misfits(tune, method, own, dials, kind):
        place = (*path, *below)
        yield GridError(f"{source.place(place)}: {'.'.join(map(str, place))}: {what}")
    if isinstance(tune.objective, Downstream):
        finetune = (*path, "objective", "finetune")
        yield from section_faults(SECTIONS["finetune"], tune.objective.finetune, source, finetune)


def _datasets(grid: Grid, source: Source) -> Iterator[GridError]:
    for name, entry in grid.datasets.items():
        reader = entry.get("reader", name)
        if not isinstance(reader, str) or reader not in DATASET_OPTIONS:
            place = source.place(("datasets", name, "reader"))
            yield GridError(f"{place}: datasets.{name}: no reader {reader!r}; {near(str(reader), DATASET_OPTIONS)}")
            return
        options = {k: v for k, v in entry.items() if k != "reader"}
        yield from section_faults(DATASET_OPTIONS[reader], options, source, ("datasets", name))
    known = {*grid.datasets, *DATASET_OPTIONS}

    def from_file(row: Row) -> bool:
        return bool(grid.pretexts.get(row.pretext or "", {}).get("method") == "imported")

    asked: list[tuple[Path_, str]] = [(("columns", i, "dataset"), c.dataset) for i, c in enumerate(grid.columns)]
    asked += [(("columns", i, "pretext_data"), c.pretext_data) for i, c in enumerate(grid.columns) if c.pretext_data]
    asked += [
        (("rows", i, "pretext_data"), r.pretext_data)
        for i, r in enumerate(grid.rows)
        if r.pretext_data and not from_file(r)
    ]
    asked += [(("stand_ins", k), v) for k, v in grid.stand_ins.items()]
    for name, entry in grid.pretexts.items():
        objective = entry.get("tune", {}).get("objective")
        if isinstance(objective, Mapping):
            asked.append((("pretexts", name, "tune", "objective", "dataset"), objective["dataset"]))
    asked += [(("stand_ins", k), k) for k in grid.stand_ins if k != "*"]
    asked += datasets_asked(grid)
    for path, name in asked:
        where = f"{source.place(path)}: {'.'.join(map(str, path))}"
        if name not in known:
            yield GridError(f"{where}: no dataset {name!r}; {near(name, known)}")
            return
        entry = grid.datasets.get(name, {})
        if entry.get("reader", name) == "folder" and not entry.get("path"):
            yield GridError(
                f"{where}: dataset {name!r} has no path; add `datasets: {{{name}: {{reader: folder, path: FOLDER}}}}` "
                "with a folder below the data root"
            )
            return
    for i, row in enumerate(grid.rows):
        homeless = [c.dataset for c in grid.columns if row.pretext and not (row.pretext_data or c.pretext_data)]
        if homeless:
            place = source.place(("rows", i))
            yield GridError(
                f"{place}: rows.{i}: no pretext_data for dataset {homeless[0]}; set it in the row or column"
            )


def _constants(grid: Grid, source: Source) -> Iterator[GridError]:
    """Values for data sets that are no column of the table, or for one of its fractions."""
    columns = {column.dataset: column for column in grid.columns}
    for number, row in enumerate(grid.rows):
        for dataset in row.constant:
            where = f"{source.place(('rows', number, 'constant'))}: rows.{number}.constant"
            if dataset not in columns:
                yield GridError(f"{where}: no column {dataset!r}; {near(dataset, columns)}")
            elif columns[dataset].fractions:
                yield GridError(f"{where}: the column {dataset!r} has fractions; expected one without")


def _twins(grid: Grid, source: Source) -> Iterator[GridError]:
    """Rows or columns that the table could not tell apart."""
    places: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(grid.rows):
        for column in grid.columns:
            axes = {axis: value for axis, value in axes_of(grid, row, column).items() if axis != "pretext"}
            first = places.setdefault(tuple(axes.values()), number)
            if first < number:
                yield GridError(
                    f"{source.place(('rows', number))}: rows.{first} and rows.{number} have the same scenario, model, "
                    "pretext_data, network and frozen; rename one model"
                )
                break
    datasets = [column.dataset for column in grid.columns]
    for number, dataset in enumerate(datasets):
        first = datasets.index(dataset)
        if first < number:
            yield GridError(
                f"{source.place(('columns', number))}: columns.{first} and columns.{number} have the same dataset; put "
                "their fractions into one"
            )
