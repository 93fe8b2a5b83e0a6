"""From a checked grid to cells and stages. Pure: the data's facts come in as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from orchestrator.grid.schema import (
    PRETEXT_SECTIONS,
    Column,
    Downstream,
    Grid,
    Import,
    Row,
    Tune,
    check_section,
    network_of,
)
from orchestrator.plan.cost import device_seconds
from orchestrator.plan.data import WEIGHTS, DataFacts
from orchestrator.plan.keys import canonical, stage_key
from orchestrator.plan.stages import Cell, Labels, Plan, Stage, Study
from orchestrator.plan.studies import lengths, objective_of, rungs, study_key, trial_cost
from trainables.data import WrongRequest
from trainables.settings import DATASET_OPTIONS, PRETEXT_SETTINGS, SECTIONS, PretrainSettings, ProbeSettings, parse
from trainables.settings.datasets import PREPARE_SETTINGS

COLORIZER = "eccv16-colorizer"  # of `trainables.data.weight_files.FORMATS`
PSEUDO_COLOURS = "pseudo-colours"
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
    colours = {f"the colorizer of {pretext}": PSEUDO_COLOURS for pretext in pseudo_coloured(grid)}
    return {d: stand_in(grid, d) for d in sorted(asked) if stand_in(grid, d) != d} | colours


def data_specs(grid: Grid) -> list[DataSpec]:
    """All datasets that a grid touches, each once."""
    specs = {canonical(spec): spec for spec in (data_spec(grid, d) for d in _datasets(grid))}
    return list(specs.values())


def _datasets(grid: Grid) -> list[str]:
    """The ids of all data sets that a grid touches, each once."""
    ids = [d for row in grid.rows for column in grid.columns for d in (_read(grid, row, column), column.dataset) if d]
    objectives = [tune_of(grid, row.pretext).objective for row in grid.rows if row.pretext and tuned(grid, row.pretext)]
    return list(dict.fromkeys(ids + [o.dataset for o in objectives if isinstance(o, Downstream)]))


def weight_specs(grid: Grid) -> list[DataSpec]:
    """The weight files that a grid imports, in the form of data."""
    used = list(dict.fromkeys(row.pretext for row in grid.rows if row.pretext))
    files = [_weights(import_of(grid, pretext)) for pretext in used if imported(grid, pretext)]
    colorizers = [colorizer for pretext in used if (colorizer := colorizer_of(grid, pretext)) is not None]
    return files + [_colorizer_file(file) for file in colorizers]


def imported(grid: Grid, pretext: str) -> bool:
    """True where a pretext's weights come from a file."""
    return bool(grid.pretexts.get(pretext, {}).get("method") == "imported")


def import_of(grid: Grid, pretext: str) -> Import:
    """The file that a grid takes a pretext's weights from."""
    return Import.model_validate(grid.pretexts[pretext])


def colorizer_of(grid: Grid, pretext: str) -> str | None:
    """The file of the network that colours a pretext's pictures, "" for its usual place; None: no network does."""
    dials = grid.pretexts.get(pretext, {}).get("prepare", {})
    if dials.get("kind") != "colorize" or dials.get("colours", "network") != "network":
        return None
    return str(dials.get("file") or "")


def pseudo_coloured(grid: Grid) -> list[str]:
    """The pretexts of the grid whose colours are made up, so that their results are not the paper's."""
    used = dict.fromkeys(row.pretext for row in grid.rows if row.pretext)
    coloured = [p for p in used if grid.pretexts.get(p, {}).get("prepare", {}).get("kind") == "colorize"]
    return [pretext for pretext in coloured if colorizer_of(grid, pretext) is None]


def _colorizer_file(file: str) -> DataSpec:
    return {"reader": f"{WEIGHTS}{COLORIZER}", "options": {"file": file}}


def _weights(asked: Import) -> DataSpec:
    return {"reader": f"{WEIGHTS}{asked.format}", "options": {"file": asked.file or ""}}


def tuned(grid: Grid, pretext: str) -> bool:
    """True where a pretext's settings are found by a study."""
    return "tune" in grid.pretexts.get(pretext, {})


def tune_of(grid: Grid, pretext: str) -> Tune:
    """The study that a grid asks for over a pretext's settings."""
    return Tune.model_validate(grid.pretexts[pretext]["tune"])


def expand(grid: Grid, profile: str, facts_of: FactsOf) -> Plan:
    """All cells of the grid in the order of rows, columns, fractions and seeds, and the stages below them."""
    return _Expansion(grid, profile, facts_of).plan()


def _source(row: Row, column: Column) -> str | None:
    return (row.pretext_data or column.pretext_data) if row.pretext else None


def _read(grid: Grid, row: Row, column: Column) -> str | None:
    """The data set that a row's pretext is trained on; none where its weights come from a file."""
    return None if row.pretext and imported(grid, row.pretext) else _source(row, column)


class _Expansion:
    def __init__(self, grid: Grid, profile: str, facts_of: FactsOf) -> None:
        self.grid, self.profile = grid, profile
        self.facts_of = facts_of
        self.backend = check_section(SECTIONS["backend"], grid.backend)
        self.stages: dict[str, Stage] = {}
        self._data = {d: data_spec(grid, d) for d in _datasets(grid)}
        self._facts = {d: facts_of(spec) for d, spec in self._data.items()}
        self.studies: dict[str, Study] = {}
        self._noted: list[str] = []
        self._pretrains: dict[tuple[str, str, str], Stage | Study] = {}
        self._sizes: dict[tuple[str, float | None], tuple[int | None, str | None]] = {}

    def plan(self) -> Plan:
        cells = [cell for row in self.grid.rows for column in self.grid.columns for cell in self._cells(row, column)]
        notes = tuple(dict.fromkeys([*(n for facts in self._facts.values() for n in facts.notes), *self._noted]))
        return Plan(self.grid.grid, self.profile, tuple(cells), self.stages, notes, self.studies)

    def _cells(self, row: Row, column: Column) -> list[Cell]:
        network = network_of(self.grid, row)
        if row.scenario == "constant":
            return self._constants(row, column, str(network["name"]))
        kind = "probe" if row.scenario == "probe" else "finetune"
        dials = check_section(SECTIONS[kind], {**getattr(self.grid, kind), **getattr(row, kind, {})})
        source = _source(row, column)
        parent = self._pretrain(row.pretext, source, network) if row.pretext and source else None
        cells = []
        fractions: list[float | None] = list(column.fractions) if column.fractions else [None]
        for fraction in fractions:
            spec: dict[str, Any] = {
                "scenario": row.scenario,
                "frozen": row.frozen or kind == "probe",
                "network": network,
                "data": dict(self._data[column.dataset]),
                kind: dials,
                "backend": self.backend,
            }
            if kind == "probe":
                n_train, problem = self._facts[column.dataset].probe_size(fraction, parse(ProbeSettings, dials).shares)
                spec["data"] |= {"fraction": fraction, "n_train": n_train}
                spec["pretrained"] = parent is not None
            else:
                n_train, problem = self._train_size(column, fraction)
                spec["data"] |= {"fraction": fraction if n_train is None else None, "n_train": n_train}
            for seed in row.seeds if row.seeds is not None else self.grid.seeds:
                stage = self._leaf(kind, row, column, fraction, {**spec, "seed": seed}, parent, problem)
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
                        seed=seed,
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
            self._sizes[asked] = self._facts[column.dataset].train_size(fraction, literal)
        return self._sizes[asked]

    def _pretrain(self, pretext: str, source: str, network: dict[str, Any]) -> Stage | Study:
        cached = (pretext, source, canonical(network))
        if cached not in self._pretrains:
            self._pretrains[cached] = self._new_pretrain(pretext, source, network)
        return self._pretrains[cached]

    def _new_pretrain(self, pretext: str, source: str, network: dict[str, Any]) -> Stage | Study:
        if imported(self.grid, pretext):
            return self._import(pretext, source, network)
        entry = self.grid.pretexts.get(pretext, {})
        method = entry.get("method", pretext)
        own = {k: v for k, v in entry.items() if k not in PRETEXT_SECTIONS}
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
        name, blocked, parents = f"{pretext} | {actual}", self._facts[source].absent, dict[str, str]()
        if "prepare" in entry:
            prepared = self._prepare(entry["prepare"], spec, source)
            parents, blocked = {"data": prepared.key}, prepared.blocked
            spec["data"] = {**self._data[source], "prepared": True}
        if tuned(self.grid, pretext):
            study = self._study(tune_of(self.grid, pretext), spec, parents, source, name, labels, blocked)
            return self.studies.setdefault(study.key, study)
        return self._stage("pretrain", spec, parents, self._facts[source], name, labels, blocked)

    def _prepare(self, dials: Mapping[str, Any], pretrain: Mapping[str, Any], source: str) -> Stage:
        """The stage that makes what a pretext is trained on. Its pictures have the side that the pretext takes."""
        cls = PREPARE_SETTINGS[dials["kind"]]
        sized = {"size": pretrain["pretrain"]["input_size"]} if "size" in cls.__dataclass_fields__ else {}
        checked = check_section(cls, {**sized, **dials})
        file, parents = checked.pop("file", None), dict[str, str]()
        spec = {"data": self._data[source], "prepare": checked, "seed": self.grid.pretrain_seed}
        actual = stand_in(self.grid, source)
        labels: Labels = {"pretext_data": actual, "seed": self.grid.pretrain_seed, "dataset": actual}
        name = f"{dials['kind']} | {actual}"
        facts = self._facts[source]
        blocked = facts.absent
        if checked.get("colours") == "network":
            colorizer = self._colorizer(file or "")
            parents, blocked = {"colorizer": colorizer.key}, blocked or colorizer.blocked
        return self._stage("prepare", spec, parents, facts, name, labels, blocked)

    def _colorizer(self, file: str) -> Stage:
        facts = self.facts_of(_colorizer_file(file))
        spec = {"format": COLORIZER, "file": file or None}
        return self._stage("import", spec, {}, facts, COLORIZER, {"pretext": COLORIZER}, facts.absent)

    def _import(self, pretext: str, source: str, network: dict[str, Any]) -> Stage:
        asked = import_of(self.grid, pretext)
        facts = self.facts_of(_weights(asked))
        spec = {"format": asked.format, "file": asked.file, "network": network}
        labels: Labels = {"pretext": pretext, "pretext_data": source, "network": network["name"]}
        return self._stage("import", spec, {}, facts, f"{pretext} | {asked.format}", labels, facts.absent)

    def _study(
        self,
        tune: Tune,
        spec: dict[str, Any],
        parents: dict[str, str],
        source: str,
        name: str,
        labels: Labels,
        blocked: str | None,
    ) -> Study:
        space = tune.space or spec["pretext"]["method"]
        full = spec["pretrain"]["steps"]
        dials = {**tune.model_dump(mode="json"), "space": space}
        every = spec["pretrain"]["report_every"]
        steps = lengths(tune, full, every)
        judged = rungs(tune, steps[-1], every)
        if tune.pruning is not None and not judged:
            self._noted.append(f"{name}: no trial can be given up, as its curve has no point before step {steps[-1]}")
        objective, problem = self._objective(tune, spec)
        longest = {**spec, "pretrain": {**spec["pretrain"], "steps": steps[-1]}, "rungs": judged}
        facts = self._facts[source]
        return Study(
            key=study_key(spec, parents, facts.fingerprint, {**dials, "resolved": objective}),
            name=name,
            spec=spec,
            parents=parents,
            fingerprint=facts.fingerprint,
            labels={**labels, "profile": self.profile},
            tune=dials,
            steps=steps,
            rungs=judged,
            objective=objective,
            cost=trial_cost({**longest, "objective": objective}),
            blocked=blocked or problem,
            provisional=facts.absent is not None,
        )

    def _objective(self, tune: Tune, spec: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """What a trial's value is, and why it cannot be had."""
        asked = tune.objective
        if not isinstance(asked, Downstream):
            metric, direction = objective_of(spec["pretext"]["method"])
            return {"kind": "validation", "metric": metric, "direction": direction}, None
        facts = self._facts[asked.dataset]
        if facts.listing is not None and not facts.listing.train:
            raise WrongRequest(
                f"tune.objective: {stand_in(self.grid, asked.dataset)} has no official training part: each seed draws "
                "its own, so that images held out for one seed evaluate another; expected a dataset with official "
                "parts, or `objective: validation`"
            )
        n_train, problem = facts.train_size(asked.fraction, None)
        if problem is None and n_train is not None and n_train < 2:
            problem = f"tune.objective: {n_train} image to train on and to validate with; raise the fraction"
        finetune = {
            "scenario": asked.scenario,
            "frozen": False,
            "network": spec["network"],
            "data": {**self._data[asked.dataset], "fraction": asked.fraction, "n_train": None, "held_out": asked.share},
            "finetune": check_section(SECTIONS["finetune"], {**self.grid.finetune, **asked.finetune}),
            "backend": self.backend,
            "seed": asked.seed,
        }
        about = {"kind": "downstream", "metric": "dice", "direction": "maximize"}
        return {**about, "finetune": finetune, "data": facts.fingerprint}, problem

    def _leaf(
        self,
        kind: str,
        row: Row,
        column: Column,
        fraction: float | None,
        spec: dict[str, Any],
        parent: Stage | Study | None,
        problem: str | None,
    ) -> Stage:
        """The stage of a cell: a finetune or a probe."""
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
            "seed": spec["seed"],
        }
        share = f" {fraction:.3g}" if fraction else ""
        start = row.model if kind == "probe" else f"{row.scenario} {row.model}"
        name = f"{start} | {actual}{share} | seed {spec['seed']}"
        if problem is None and parent is not None and parent.blocked:
            problem = parent.blocked  # the root cause itself; `diff` tells at which stage it lies
        parents = {"pretrain": parent.key} if isinstance(parent, Stage) else {}
        awaits = {"pretrain": parent.key} if isinstance(parent, Study) else {}
        return self._stage(kind, spec, parents, self._facts[column.dataset], name, labels, problem, awaits)

    def _stage(
        self,
        kind: str,
        spec: dict[str, Any],
        parents: dict[str, str],
        facts: DataFacts,
        name: str,
        labels: Labels,
        blocked: str | None,
        awaits: Mapping[str, str] = MappingProxyType({}),
    ) -> Stage:
        """The stage with this content, made once. With studies to wait for it gets its real key when they are over."""
        waiting = {role: f"study {study}" for role, study in awaits.items()}
        key = stage_key(kind, spec, {**parents, **waiting}, facts.fingerprint)
        if key not in self.stages:
            unsure = [self.stages[p].provisional for p in parents.values()] + [bool(awaits)]
            provisional = facts.absent is not None or any(unsure)
            self.stages[key] = Stage(
                key=key,
                kind=kind,
                spec=spec,
                parents=parents,
                fingerprint=facts.fingerprint,
                name=name,
                labels={**labels, "profile": self.profile},
                cost=device_seconds(kind, spec, **facts.counts(spec.get("data", {}).get("n_train"))),
                blocked=blocked,
                provisional=provisional,
                awaits=dict(awaits),
            )
        return self.stages[key]
