"""From the `analyses:` of a grid to stages that draw what other stages have learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.grid.analyses import all_analyses, dials_of
from orchestrator.grid.schema import Cells, Grid, Row, network_of
from orchestrator.plan.analysis_cost import analysis_seconds
from orchestrator.plan.data import DataFacts
from orchestrator.plan.datasets import pseudo_coloured, stand_in
from orchestrator.plan.lines import Line, lines_of
from orchestrator.plan.pretexts import Pretexts
from orchestrator.plan.stages import Cell, Labels, Plan, Stage, Study
from trainables.data import WrongRequest
from trainables.data.survey import combined_fingerprint

Spec = dict[str, Any]


def with_analyses(plan: Plan, grid: Grid, below: Pretexts, others: Mapping[str, Plan]) -> Plan:
    """The plan of a grid's cells with the analyses that the grid asks for.

    Args:
        below: what made the stages of `plan`; it makes those that only an analysis needs.
        others: the plans of the grids beside it. Of their cells those that are drawn become stages here, no cells.
    """
    found = _Analyses(plan, grid, below, others)
    wanted = [key for name, analysis in all_analyses(grid).items() for key in found.stages_of(name, analysis)]
    keep = [cell for selection in grid.run.keep_weights for cell in found.cells(selection)]
    for key in {cell.key for cell in keep} | found.kept:
        stage = below.stages[key]
        if stage.kind == "finetune":
            below.stages[key] = replace(stage, spec={**stage.spec, "keep_weights": True})
    notes = tuple(dict.fromkeys([*plan.notes, *found.notes]))
    return replace(plan, stages=below.stages, notes=notes, wanted=tuple(dict.fromkeys(wanted)))


@dataclass
class _Draft:
    """A stage of an analysis on the way: what goes into its spec, its parents by role, and the data that it reads."""

    spec: Spec
    parents: dict[str, str] = field(default_factory=dict)
    awaits: dict[str, str] = field(default_factory=dict)
    data: list[Spec] = field(default_factory=list)
    gaps: dict[str, Stage] = field(default_factory=dict)  # lines that are left out, and a blocked stage of each
    dataset: str | None = None


class _Analyses:
    def __init__(self, plan: Plan, grid: Grid, below: Pretexts, others: Mapping[str, Plan]) -> None:
        self.grid, self.below, self.notes = grid, below, list[str]()
        self.kept: set[str] = set()  # stages whose networks are looked at whole
        self._plans = {grid.grid: plan, **others}
        self._drafts: dict[str, Callable[[Any, Spec], _Draft | None]] = {
            "cka": self._cka,
            "gradcam": self._gradcam,
            "curves": self._curves,
            "targets": self._targets,
            "predictions": self._predictions,
            "samples": self._samples,
            "confusion": self._confusion,
            "cam": self._cam,
            "distribution": self._distribution,
        }

    def cells(self, selection: Cells) -> list[Cell]:
        """The cells of a plan that a selection takes, their stages and all below them among ours."""
        plan = self._plans[selection.grid or self.grid.grid]
        found = [cell for cell in plan.cells if cell.constant is None and selection.take(vars(cell))]
        for cell in found:
            self._adopt(plan, cell.key)
        return found

    def _adopt(self, plan: Plan, key: str) -> None:
        if key in self.below.stages:
            return
        stage = plan.stages[key]
        for parent in stage.parents.values():
            self._adopt(plan, parent)
        for study in stage.awaits.values():
            for parent in plan.studies[study].parents.values():
                self._adopt(plan, parent)
            self.below.studies.setdefault(study, plan.studies[study])
        self.below.stages[key] = stage

    def stages_of(self, name: str, analysis: Any) -> list[str]:
        """The keys that an analysis asks for: its stage, and what is left out of it because it is blocked."""
        spec = {"analysis": dials_of(analysis), "backend": self.below.backend, "seed": analysis.seed}
        draft = self._drafts[analysis.kind](analysis, spec)
        if draft is None:
            return []  # `--only` has left nothing of it
        facts = self._facts(draft.data)
        needs: list[Stage | Study] = [self.below.stages[key] for key in draft.parents.values()]
        needs += [self.below.studies[key] for key in draft.awaits.values()]
        causes = [facts.absent, *(part.blocked for part in needs)]
        if draft.gaps and not needs:  # nothing is left of it
            causes += [stage.blocked for stage in draft.gaps.values()]
        labels: Labels = {"analysis": name, "dataset": draft.dataset, "seed": draft.spec["seed"]}
        drawn = self.below.draft(
            "analysis",
            draft.spec,
            draft.parents,
            facts,
            f"{name} | {self.grid.grid}",
            labels,
            next((cause for cause in causes if cause is not None), None),
            draft.awaits,
        )
        stage = self.below.stage(drawn)
        cost = analysis_seconds(draft.spec, self._images(draft))
        self.below.stages[stage.key] = replace(stage, cost=cost)
        if needs:
            self.notes += [f"figure {name}: {line} is left out: {gap.blocked}" for line, gap in draft.gaps.items()]
        return [stage.key, *(gap.key for gap in draft.gaps.values())]

    def _facts(self, data: Sequence[Spec]) -> DataFacts:
        """All data that a stage reads, as one."""
        found = [self.below.facts_of(_plain(spec)) for spec in data]
        fingerprint = combined_fingerprint([facts.fingerprint for facts in found]) if found else ""
        readers = ", ".join(dict.fromkeys(facts.reader for facts in found))
        return DataFacts(readers, fingerprint, absent=next((f.absent for f in found if f.absent), None))

    def _images(self, draft: _Draft) -> int:
        """How many images are looked at, as far as is known."""
        asked = int(draft.spec["analysis"].get("images", 0))
        if asked or not draft.data:
            return asked
        listing = self.below.facts_of(_plain(draft.data[0])).listing
        part = draft.spec["analysis"].get("part", "pretrain")
        return len(getattr(listing, part)) if listing is not None else 0

    # One method for each kind ---------------------------------------------------------------------------------------

    def _cka(self, asked: Any, spec: Spec) -> _Draft:
        draft = self._on(asked.data, spec)
        spec["models"] = [self._model(model, draft, model.name) for model in asked.models]
        return draft

    def _targets(self, asked: Any, spec: Spec) -> _Draft:
        draft = self._on(asked.data, spec)
        if asked.model is not None:
            spec["network"] = self._model(asked.model, draft, "model")["network"]
        return draft

    def _gradcam(self, asked: Any, spec: Spec) -> _Draft:
        draft = self._on(asked.model.pretext_data, spec)
        spec |= self._note([asked.model.pretext_data])
        spec["network"] = self._model(asked.model, draft, "model")["network"]
        trained = self._trained(asked.model)
        self._size(asked, spec, trained.spec["pretrain"])
        if trained.spec["pretext"].get("loss") == "binary":  # weights of many classes do not tell it
            spec["loss"] = "binary"
        spec["data"] = trained.spec["data"]
        draft.parents |= {role: key for role, key in trained.parents.items() if role == "data"}
        return draft

    def _samples(self, asked: Any, spec: Spec) -> _Draft:
        draft, prepared = _Draft(spec), dict[str, str]()
        spec["panels"] = []
        for panel in asked.panels:
            about = panel.model_dump(mode="json", exclude={"data", "pretext", "pretext_data"})
            dataset = panel.data or panel.pretext_data
            data = dict(self.below.data[dataset])
            if panel.pretext is not None:
                key = self.below.prepared(panel.pretext, panel.pretext_data).key
                role = prepared.setdefault(key, "data" if not prepared else f"data {len(prepared) + 1}")
                draft.parents[role] = key
                data |= {"prepared": True, "role": role}
            else:
                draft.data.append(data)
            draft.dataset = draft.dataset or dataset
            spec["panels"].append({**about, **self._note([dataset], panel.pretext), "data": data})
        return draft

    def _curves(self, asked: Any, spec: Spec) -> _Draft | None:
        draft = _Draft(spec)
        spec["panels"] = []
        panels = [(panel.title, panel.cells) for panel in asked.panels] or self._each_column(asked.names)
        for title, selections in panels:
            lines = self._lines(selections, asked.names, draft)
            shown = [line for line in lines if not self._gap(line, draft)]
            told = []
            for line in shown:
                roles = {f"{title}/{line.name}/{cell.seed}": cell.key for cell in _each_seed_once(line)}
                draft.parents |= roles
                told.append({"name": line.name, "method": line.method, "dashed": line.dashed, "roles": list(roles)})
            gaps = [line.name for line in lines if line not in shown]
            if lines:
                note = self._note([lines[0].cells[0].dataset, *self._learnt_from(shown)])
                spec["panels"].append({"title": title, "lines": told, **note, **({"gaps": gaps} if gaps else {})})
        return draft if spec["panels"] else None

    def _predictions(self, asked: Any, spec: Spec) -> _Draft | None:
        draft = _Draft(spec)
        spec["models"], spec["panels"] = [], []
        for panel in asked.panels:
            about = panel.model_dump(mode="json", include={"title", "count", "images"})
            if panel.cells is None:
                self._predictions_of_models(panel, about, asked, draft)
            else:
                self._predictions_of_cells(panel, about, asked, draft)
        return draft if spec["panels"] else None

    def _predictions_of_models(self, panel: Any, about: Spec, asked: Any, draft: _Draft) -> None:
        spec, data = draft.spec, self.below.data[panel.data]
        spec["models"] += [self._model(model, draft, model.name) for model in panel.models]
        self._size(asked, spec, self._trained(panel.models[0]).spec["pretrain"])
        about |= {"fraction": panel.fraction, "models": [model.name for model in panel.models]}
        note = self._note([panel.data, *(model.pretext_data for model in panel.models if model.pretext)])
        spec["panels"].append({**about, **note, "data": dict(data)})
        draft.data.append(data)
        draft.dataset = draft.dataset or panel.data

    def _predictions_of_cells(self, panel: Any, about: Spec, asked: Any, draft: _Draft) -> None:
        spec = draft.spec
        lines = self._lines(panel.cells, asked.names, draft)
        if not lines:
            return
        shown = [line for line in lines if not self._gap(line, draft)]
        for line in shown:
            (cell,) = _each_seed_once(line)
            name = line.name if len(asked.panels) == 1 else f"{panel.title}: {line.name}"
            draft.parents[name] = cell.key
            self.kept.add(cell.key)
            spec["models"].append({"name": name, "network": self.below.stages[cell.key].spec["network"]})
            about.setdefault("models", []).append(name)
        first = self.below.stages[lines[0].cells[0].key].spec
        spec["seed"] = first["seed"]
        self._size(asked, spec, first["finetune"])
        data = _plain(first["data"])
        gaps = [line.name for line in lines if line not in shown]
        size = {"fraction": first["data"]["fraction"], "n_train": first["data"]["n_train"]}
        note = self._note([lines[0].cells[0].dataset, *self._learnt_from(shown)])
        spec["panels"].append({**about, **size, **note, **({"gaps": gaps} if gaps else {}), "data": data})
        draft.data.append(data)
        draft.dataset = draft.dataset or lines[0].cells[0].dataset

    def _confusion(self, asked: Any, spec: Spec) -> _Draft | None:
        return self._probes(asked, spec, lambda draft, name, probe: draft.parents.update({name: probe.key}))

    def _cam(self, asked: Any, spec: Spec) -> _Draft | None:
        def add(draft: _Draft, name: str, probe: Stage) -> None:
            self._size(asked, spec, probe.spec["probe"])
            if spec["analysis"]["weights"] == "probe":
                draft.parents[f"probe/{name}"] = probe.key
            draft.parents |= {name: probe.parents["pretrain"]} if "pretrain" in probe.parents else {}
            draft.awaits |= {name: probe.awaits["pretrain"]} if "pretrain" in probe.awaits else {}

        return self._probes(asked, spec, add)

    def _distribution(self, asked: Any, spec: Spec) -> _Draft:
        draft = self._on(asked.data, spec)
        spec |= {"names": dict(asked.names), **self._note([asked.data])}
        listing = self.below.facts_of(_plain(spec["data"])).listing
        if listing is not None:  # what is counted; the fingerprint of the data leaves it out
            spec["groups"] = listing.group_digest
        return draft

    def _probes(self, asked: Any, spec: Spec, add: Callable[[_Draft, str, Stage], None]) -> _Draft | None:
        draft = _Draft(spec)
        lines = self._lines(asked.cells, asked.names, draft)
        if not lines:
            return None
        spec["models"] = []
        for line in lines:
            probe = self.below.stages[line.cells[0].key]
            random = {} if probe.spec["pretrained"] else {"random": True}
            spec["models"].append({"name": line.name, "network": probe.spec["network"], **random})
            add(draft, line.name, probe)
            spec["data"] = _plain(probe.spec["data"])
            spec["seed"] = probe.spec["seed"]
        draft.data, draft.dataset = [spec["data"]], lines[0].cells[0].dataset
        return draft

    # What they share ------------------------------------------------------------------------------------------------

    def _on(self, dataset: str, spec: Spec) -> _Draft:
        spec["data"] = self.below.data[dataset]
        return _Draft(spec, data=[self.below.data[dataset]], dataset=dataset)

    def _note(self, datasets: Iterable[str], pretext: str | None = None) -> Spec:
        """What a figure says of data that are not those of its title, or not those that its models should see."""
        served: dict[str, list[str]] = {}
        for dataset in dict.fromkeys(datasets):
            if (actual := stand_in(self.grid, dataset)) != dataset:
                served.setdefault(actual, []).append(dataset)
        told = [f"{actual} in place of {_and(names)}" for actual, names in served.items()]
        told += ["colours made up"] if pretext in pseudo_coloured(self.grid) else []
        return {"note": ", ".join(told)} if told else {}

    def _learnt_from(self, lines: Sequence[Line]) -> list[str]:
        """The data sets that the pretexts of cells are trained on, so none where weights are imported."""
        found = list[str]()
        for cell in (cell for line in lines for cell in line.cells):
            parents = self.below.stages[cell.key].parents.values()
            if cell.pretext_data and not any(self.below.stages[key].kind == "import" for key in parents):
                found.append(cell.pretext_data)
        return found

    def _size(self, asked: Any, spec: Spec, training: Mapping[str, Any]) -> None:
        """The pictures have the size that the networks were trained at, unless the grid says another."""
        if "input_size" not in asked.model_fields_set:
            spec["analysis"]["input_size"] = training["input_size"]

    def _network(self, model: Any) -> Spec:
        return network_of(self.grid, Row(scenario="random-init", model="model", network=model.network))

    def _trained(self, model: Any) -> Stage | Study:
        return self.below.of(model.pretext, model.pretext_data, self._network(model))

    def _model(self, model: Any, draft: _Draft, role: str) -> Spec:
        """What a spec says of a model; its stage becomes a parent."""
        about = {"name": role, "network": self._network(model)}
        if model.pretext is None:
            return {**about, "random": True}
        trained = self._trained(model)
        (draft.awaits if isinstance(trained, Study) else draft.parents)[role] = trained.key
        return about

    def _lines(self, selections: Iterable[Cells], names: Mapping[str, str], draft: _Draft) -> list[Line]:
        cells = dict.fromkeys(cell for selection in selections for cell in self.cells(selection))
        return lines_of(list(cells), names)

    def _gap(self, line: Line, draft: _Draft) -> bool:
        """Whether a line is to be left out, as something below it is blocked."""
        blocked = [stage for cell in line.cells if (stage := self.below.stages[cell.key]).blocked]
        if blocked:
            draft.gaps[line.name] = blocked[0]
        return bool(blocked)

    def _each_column(self, names: Mapping[str, str]) -> list[tuple[str, list[Cells]]]:
        """A panel for each data set and fraction of the grid's own cells."""
        cells = self.cells(Cells())
        columns = dict.fromkeys((cell.dataset, cell.fraction) for cell in cells)
        return [
            (_title(names.get(dataset, dataset), fraction), [Cells(dataset=[dataset], fraction=_only(fraction))])
            for dataset, fraction in columns
        ]


def _each_seed_once(line: Line) -> tuple[Cell, ...]:
    if len({cell.seed for cell in line.cells}) < len(line.cells):
        raise WrongRequest(f"two cells of a figure are {line.name}, seed {line.cells[0].seed}; select one by `grid:`")
    return line.cells


def _and(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _title(dataset: str, fraction: float | None) -> str:
    return dataset if fraction is None else f"{dataset}, {100 * fraction:.3g} %"


def _only(fraction: float | None) -> list[float] | None:
    return None if fraction is None else [fraction]


def _plain(data: Mapping[str, Any]) -> Spec:
    """A data set without what a cell says of it."""
    return {"reader": data["reader"], "options": data["options"]}
