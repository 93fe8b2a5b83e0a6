"""From a checked grid to cells and stages. Pure: the data's facts come in as values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.grid.schema import Column, Grid, Row, check_section
from orchestrator.plan.cost import device_seconds
from orchestrator.plan.data import DataFacts
from orchestrator.plan.keys import canonical, stage_key
from orchestrator.plan.stages import Cell, Labels, Plan, Stage
from trainables.settings import DATASET_OPTIONS, PRETEXT_SETTINGS, SECTIONS, PretrainSettings

DataSpec = dict[str, Any]
FactsOf = Callable[[DataSpec], DataFacts]


def data_spec(grid: Grid, dataset: str) -> DataSpec:
    """Reader and complete options of a dataset id, stand-ins resolved."""
    actual = stand_in(grid, dataset)
    entry = grid.datasets.get(actual, {})
    reader = entry.get("reader", actual)
    options = {k: v for k, v in entry.items() if k != "reader"}
    return {"reader": reader, "options": check_section(DATASET_OPTIONS[reader], options)}


def stand_in(grid: Grid, dataset: str) -> str:
    """The dataset that really serves for `dataset`. `*` stands in for built-in ones only, not for the grid's own."""
    everyone = grid.stand_ins.get("*", dataset) if dataset in DATASET_OPTIONS else dataset
    return grid.stand_ins.get(dataset, everyone)


def stand_ins_used(grid: Grid) -> dict[str, str]:
    """The datasets of the grid that others stand in for."""
    asked = {c.dataset for c in grid.columns} | {d for c in grid.columns for r in grid.rows if (d := _source(r, c))}
    return {d: stand_in(grid, d) for d in sorted(asked) if stand_in(grid, d) != d}


def data_specs(grid: Grid) -> list[DataSpec]:
    """All datasets that a grid touches, each once."""
    ids = [d for row in grid.rows for column in grid.columns for d in (_source(row, column), column.dataset) if d]
    specs = {canonical(spec): spec for spec in (data_spec(grid, d) for d in dict.fromkeys(ids))}
    return list(specs.values())


def expand(grid: Grid, profile: str, facts_of: FactsOf) -> Plan:
    """All cells of the grid in the order of rows, columns, fractions and seeds, and the stages below them."""
    return _Expansion(grid, profile, facts_of).plan()


def _source(row: Row, column: Column) -> str | None:
    return (row.pretext_data or column.pretext_data) if row.pretext else None


class _Expansion:
    def __init__(self, grid: Grid, profile: str, facts_of: FactsOf) -> None:
        self.grid, self.profile = grid, profile
        self.facts_of = facts_of
        self.backend = check_section(SECTIONS["backend"], grid.backend)
        self.stages: dict[str, Stage] = {}
        self._data = {d: data_spec(grid, d) for c in grid.columns for d in (c.dataset, *self._sources(c))}
        self._facts = {d: facts_of(spec) for d, spec in self._data.items()}
        self._pretrains: dict[tuple[str, str, str], Stage] = {}
        self._sizes: dict[tuple[str, float | None], tuple[int | None, str | None]] = {}

    def _sources(self, column: Column) -> list[str]:
        return [source for row in self.grid.rows if (source := _source(row, column)) is not None]

    def plan(self) -> Plan:
        cells = [cell for row in self.grid.rows for column in self.grid.columns for cell in self._cells(row, column)]
        notes = tuple(dict.fromkeys(note for facts in self._facts.values() for note in facts.notes))
        return Plan(self.grid.grid, self.profile, tuple(cells), self.stages, notes)

    def _cells(self, row: Row, column: Column) -> list[Cell]:
        network = check_section(SECTIONS["network"], {**self.grid.network, **row.network})
        dials = check_section(SECTIONS["finetune"], {**self.grid.finetune, **row.finetune})
        source = _source(row, column)
        parent = self._pretrain(row.pretext, source, network) if row.pretext and source else None
        cells = []
        fractions: list[float | None] = list(column.fractions) if column.fractions else [None]
        for fraction in fractions:
            n_train, problem = self._train_size(column, fraction)
            data = {**self._data[column.dataset], "fraction": fraction if n_train is None else None, "n_train": n_train}
            spec: dict[str, Any] = {
                "scenario": row.scenario,
                "frozen": row.frozen,
                "network": network,
                "data": data,
                "finetune": dials,
                "backend": self.backend,
            }
            for seed in row.seeds if row.seeds is not None else self.grid.seeds:
                stage = self._finetune(row, column, fraction, {**spec, "seed": seed}, parent, problem)
                cells.append(
                    Cell(
                        scenario=row.scenario,
                        frozen=row.frozen,
                        model=row.model,
                        pretext=row.pretext,
                        pretext_data=source,
                        network=network["name"],
                        dataset=column.dataset,
                        fraction=fraction,
                        n_train=n_train,
                        seed=seed,
                        key=stage.key,
                        blocked=stage.blocked,
                    )
                )
        return cells

    def _train_size(self, column: Column, fraction: float | None) -> tuple[int | None, str | None]:
        """As `DataFacts.train_size`, once for all rows: drawing from 100,000 images takes a moment."""
        asked = (column.dataset, fraction)
        if asked not in self._sizes:
            literal = column.n_train.get(fraction) if fraction and self.grid.train_sizes == "paper" else None
            self._sizes[asked] = self._facts[column.dataset].train_size(fraction, literal)
        return self._sizes[asked]

    def _pretrain(self, pretext: str, source: str, network: dict[str, Any]) -> Stage:
        cached = (pretext, source, canonical(network))
        if cached in self._pretrains:
            return self._pretrains[cached]
        entry = self.grid.pretexts.get(pretext, {})
        method = entry.get("method", pretext)
        own = {k: v for k, v in entry.items() if k != "pretrain"}
        spec = {
            "pretext": check_section(PRETEXT_SETTINGS[method], {**own, "method": method}),
            "network": network,
            "data": self._data[source],
            "pretrain": check_section(PretrainSettings, {**self.grid.pretrain, **entry.get("pretrain", {})}),
            "backend": self.backend,
            "seed": self.grid.pretrain_seed,
        }
        actual = stand_in(self.grid, source)
        labels: Labels = {"pretext": pretext, "pretext_data": actual, "network": network["name"]}
        labels |= {"seed": self.grid.pretrain_seed, "model": None, "scenario": None, "dataset": actual}
        stage = self._stage("pretrain", spec, {}, source, f"{pretext} | {actual}", labels, self._facts[source].absent)
        self._pretrains[cached] = stage
        return stage

    def _finetune(
        self,
        row: Row,
        column: Column,
        fraction: float | None,
        spec: dict[str, Any],
        parent: Stage | None,
        problem: str | None,
    ) -> Stage:
        actual = stand_in(self.grid, column.dataset)
        labels: Labels = {
            "scenario": row.scenario,
            "frozen": row.frozen,
            "model": row.model,
            "pretext": row.pretext,
            "pretext_data": parent.labels["pretext_data"] if parent else None,
            "network": spec["network"]["name"],
            "dataset": actual,
            "fraction": fraction,
            "seed": spec["seed"],
        }
        share = f" {fraction:.3g}" if fraction else ""
        name = f"{row.scenario} {row.model} | {actual}{share} | seed {spec['seed']}"
        if problem is None and parent is not None and parent.blocked:
            problem = f"its pretext is blocked: {parent.blocked}"
        parents = {"pretrain": parent.key} if parent else {}
        return self._stage("finetune", spec, parents, column.dataset, name, labels, problem)

    def _stage(
        self,
        kind: str,
        spec: dict[str, Any],
        parents: dict[str, str],
        dataset: str,
        name: str,
        labels: Labels,
        blocked: str | None,
    ) -> Stage:
        facts = self._facts[dataset]
        key = stage_key(kind, spec, parents, facts.fingerprint)
        if key not in self.stages:
            provisional = facts.listing is None or any(self.stages[p].provisional for p in parents.values())
            self.stages[key] = Stage(
                key=key,
                kind=kind,
                spec=spec,
                parents=parents,
                fingerprint=facts.fingerprint,
                name=name,
                labels={**labels, "profile": self.profile},
                cost=device_seconds(kind, spec),
                blocked=blocked,
                provisional=provisional,
            )
        return self.stages[key]
