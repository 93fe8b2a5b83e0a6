"""From a checked grid to cells and stages. Pure: the data's facts come in as values."""

from __future__ import annotations

from typing import Any

from orchestrator.grid.schema import Column, Grid, Row, check_section, network_of
from orchestrator.plan.analyses import with_analyses
from orchestrator.plan.datasets import source_of, stand_in
from orchestrator.plan.pretexts import FactsOf, Pretexts
from orchestrator.plan.stages import Cell, Labels, Plan, Stage, Study
from trainables.settings import SECTIONS, FinetuneSettings, ProbeSettings, parse, parse_network
from trainables.settings.fusing import why_not_fused


def expand(grid: Grid, profile: str, facts_of: FactsOf) -> Plan:
    """All cells of the grid in the order of rows, columns, fractions and seeds, the stages below them, and analyses."""
    expansion = _Expansion(grid, profile, facts_of)
    plan = expansion.plan()
    if not (grid.analyses or grid.run.keep_weights):
        return plan
    others = {name: _Expansion(other, profile, facts_of).plan() for name, other in grid.others.items()}
    return with_analyses(plan, grid, expansion.below, others)


class _Expansion:
    def __init__(self, grid: Grid, profile: str, facts_of: FactsOf) -> None:
        self.grid, self.profile = grid, profile
        self.below = Pretexts(grid, profile, facts_of)
        self._sizes: dict[tuple[str, float | None], tuple[int | None, str | None]] = {}

    def plan(self) -> Plan:
        cells = [cell for row in self.grid.rows for column in self.grid.columns for cell in self._cells(row, column)]
        notes = tuple(
            dict.fromkeys([*(n for facts in self.below.facts.values() for n in facts.notes), *self.below.noted])
        )
        return Plan(self.grid.grid, self.profile, tuple(cells), self.below.stages, notes, self.below.studies)

    def _cells(self, row: Row, column: Column) -> list[Cell]:
        network = network_of(self.grid, row)
        if row.scenario == "constant":
            return self._constants(row, column, str(network["name"]))
        kind = "probe" if row.scenario == "probe" else "finetune"
        dials = check_section(SECTIONS[kind], {**getattr(self.grid, kind), **getattr(row, kind, {})})
        facts, looks = self.below.facts[column.dataset], parse_network(network)
        source = source_of(row, column)
        parent = self.below.of(row.pretext, source, network) if row.pretext and source else None
        cells = []
        fractions: list[float | None] = list(column.fractions) if column.fractions else [None]
        for fraction in fractions:
            spec: dict[str, Any] = {
                "scenario": row.scenario,
                "frozen": row.frozen or kind == "probe",
                "network": network,
                "data": dict(self.below.data[column.dataset]),
                kind: dials,
                "backend": self.below.backend,
            }
            if kind == "finetune" and why_not_fused(spec) is None:
                spec["backend"] = self.below.cell_backend
            if kind == "probe":
                n_train, problem = facts.probe_size(fraction, parse(ProbeSettings, dials).shares)
                problem = problem or facts.why_not_shown(looks)
                spec["data"] |= {"fraction": fraction, "n_train": n_train}
                spec["pretrained"] = parent is not None
            else:
                n_train, problem = self._train_size(column, fraction)
                options, settings = spec["data"]["options"], parse(FinetuneSettings, dials)
                problem = problem or facts.why_not_finetuned(looks, settings, n_train, options)
                spec["data"] |= {"fraction": fraction if n_train is None else None, "n_train": n_train}
            for stage in self._leaves(kind, row, column, fraction, spec, parent, problem):
                cells.append(
                    Cell(
                        scenario=row.scenario,
                        frozen=spec["frozen"],
                        model=row.model,
                        pretext=row.pretext,
                        pretext_data=source,
                        network=network["name"],
                        dataset=column.dataset,
                        fraction=fraction,
                        n_train=n_train,
                        seed=stage.spec["seed"],
                        key=stage.key,
                        blocked=stage.blocked,
                    )
                )
        return cells

    def _constants(self, row: Row, column: Column, network: str) -> list[Cell]:
        """The given value of a data set, where there is one."""
        if column.dataset not in row.constant:
            return []
        return [
            Cell(
                scenario=row.scenario,
                frozen=row.frozen,
                model=row.model,
                pretext=None,
                pretext_data=None,
                network=network,
                dataset=column.dataset,
                fraction=None,
                n_train=None,
                seed=self.grid.seeds[0],
                key="",
                constant=row.constant[column.dataset],
            )
        ]

    def _train_size(self, column: Column, fraction: float | None) -> tuple[int | None, str | None]:
        """As `DataFacts.train_size`, once for all rows: drawing from 100,000 images takes a moment."""
        asked = (column.dataset, fraction)
        if asked not in self._sizes:
            literal = column.n_train.get(fraction) if fraction and self.grid.train_sizes == "paper" else None
            self._sizes[asked] = self.below.facts[column.dataset].train_size(fraction, literal)
        return self._sizes[asked]

    def _leaves(
        self,
        kind: str,
        row: Row,
        column: Column,
        fraction: float | None,
        spec: dict[str, Any],
        parent: Stage | Study | None,
        problem: str | None,
    ) -> list[Stage]:
        """The stages of cells that differ in their seed alone: finetunes or probes."""
        actual = stand_in(self.grid, column.dataset)
        labels: Labels = {
            "scenario": row.scenario,
            "frozen": spec["frozen"],
            "model": row.model,
            "pretext": row.pretext,
            "pretext_data": parent.labels["pretext_data"] if parent else None,
            "network": spec["network"]["name"],
            "dataset": actual,
            "fraction": fraction,
            "seed": None,  # each stage's own
        }
        share = f" {fraction:.3g}" if fraction else ""
        start = row.model if kind == "probe" else f"{row.scenario} {row.model}"
        name = f"{start} | {actual}{share}"
        if problem is None and parent is not None and parent.blocked:
            problem = parent.blocked  # the root cause itself; `diff` tells at which stage it lies
        parents = {"pretrain": parent.key} if isinstance(parent, Stage) else {}
        awaits = {"pretrain": parent.key} if isinstance(parent, Study) else {}
        seeds, facts = self.grid.seeds if row.seeds is None else row.seeds, self.below.facts[column.dataset]
        draft = self.below.draft(kind, spec, parents, facts, name, labels, problem, awaits)
        return self.below.stages_of_seeds(draft, seeds)
