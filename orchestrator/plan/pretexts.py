"""From a grid to the stages below its cells: pretrainings, what is prepared for them, imports, studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from orchestrator.grid.schema import PRETEXT_SECTIONS, Downstream, Grid, Tune, check_section
from orchestrator.plan.cost import device_seconds
from orchestrator.plan.data import DataFacts
from orchestrator.plan.datasets import (
    COLORIZER,
    DataSpec,
    colorizer_file,
    data_spec,
    datasets_of,
    import_of,
    imported,
    stand_in,
    start_of,
    tune_of,
    tuned,
    weights_file,
)
from orchestrator.plan.keys import awaited, canonical, seed_keys, stage_key
from orchestrator.plan.lengths import in_steps, lengths, rungs
from orchestrator.plan.stages import Labels, Stage, Study
from orchestrator.plan.studies import objective_of, study_key, trial_cost
from trainables.data import WrongRequest
from trainables.settings import (
    PRETEXT_SETTINGS,
    SECTIONS,
    FinetuneSettings,
    PretrainSettings,
    parse,
    parse_network,
)
from trainables.settings.datasets import PREPARE_SETTINGS
from trainables.settings.fitting import SMALLEST

FactsOf = Callable[[DataSpec], DataFacts]


class Pretexts:
    """The stages of a grid below its cells, each made once, with the facts of its data.

    Attributes:
        stages: all stages made so far by key, parents before children.
        studies: likewise.
        backend: of all stages but the cells, whose is `cell_backend`.
        data: reader and options of each data set id. facts: what the machine has of it.
        noted: what the user should know of the settings.
    """

    def __init__(self, grid: Grid, profile: str, facts_of: FactsOf) -> None:
        self.grid, self.profile = grid, profile
        self.facts_of = facts_of
        self.cell_backend = check_section(SECTIONS["backend"], grid.backend)
        self.backend = {**self.cell_backend, "fused": False}  # only finetunes can be fused
        self.stages: dict[str, Stage] = {}
        self.studies: dict[str, Study] = {}
        self.data = {d: data_spec(grid, d) for d in datasets_of(grid)}
        self.facts = {d: facts_of(spec) for d, spec in self.data.items()}
        self.noted: list[str] = []
        self._made: dict[tuple[str, str, str], Stage | Study] = {}

    def of(self, pretext: str, source: str, network: dict[str, Any]) -> Stage | Study:
        """What trains a pretext on a data set: one stage or a study; or the import of its weights."""
        cached = (pretext, source, canonical(network))
        if cached not in self._made:
            self._made[cached] = self._new(pretext, source, network)
        return self._made[cached]

    def _new(self, pretext: str, source: str, network: dict[str, Any]) -> Stage | Study:
        if imported(self.grid, pretext):
            return self._import(pretext, source, network)
        entry = self.grid.pretexts.get(pretext, {})
        method = entry.get("method", pretext)
        own = {k: v for k, v in entry.items() if k not in PRETEXT_SECTIONS}
        spec = {
            "pretext": check_section(PRETEXT_SETTINGS[method], {**own, "method": method}),
            "network": network,
            "data": self.data[source],
            "pretrain": check_section(PretrainSettings, {**self.grid.pretrain, **entry.get("pretrain", {})}),
            "backend": self.backend,
            "seed": self.grid.pretrain_seed,
        }
        actual = stand_in(self.grid, source)
        labels: Labels = {"pretext": pretext, "pretext_data": actual, "network": network["name"]}
        labels |= {"seed": self.grid.pretrain_seed, "model": None, "scenario": None, "dataset": actual}
        name, facts, parents = f"{pretext} | {actual}", self.facts[source], dict[str, str]()
        needs = PRETEXT_SETTINGS[method].needs
        if "prepare" in entry:
            prepared = self._prepare(entry["prepare"], spec, source)
            blocked = prepared.blocked or facts.why_not_pretrained(needs, prepared.spec["prepare"])
            blocked = blocked or self._why_not_cubed(method, spec, source, prepared)
            parents, spec["data"] = {"data": prepared.key}, {**self.data[source], "prepared": True}
        else:
            blocked = facts.why_not_pretrained(needs)
        if (start := start_of(self.grid, pretext)) is not None:
            weights = self.of(start, start, network)
            blocked, spec["init"], parents["init"] = blocked or weights.blocked, True, weights.key
        if tuned(self.grid, pretext):
            study = self._study(tune_of(self.grid, pretext), spec, parents, source, name, labels, blocked)
            known = self.studies.get(study.key)
            if known is None or known.tune["trials"] < study.tune["trials"]:  # two pretexts may be one study
                self.studies[study.key] = study
            return self.studies[study.key]
        return self.stage(self.draft("pretrain", spec, parents, facts, name, labels, blocked))

    def _why_not_cubed(self, method: str, spec: Mapping[str, Any], source: str, prepared: Stage) -> str | None:
        """Why the network cannot be trained on volumes of their size; scans are cut to that of the prepare stage."""
        facts = self.facts[source]
        cut = facts.listing is not None and facts.listing.kind == "scans"
        given = prepared.spec["prepare"] if cut else self.data[source]["options"]
        size, least = spec["pretrain"]["input_size"], SMALLEST.get(method, 1)
        return facts.why_not_cubed(parse_network(spec["network"]), size, given, least)

    def prepared(self, pretext: str, source: str) -> Stage:
        """What is made of a data set for a pretext with `prepare:`."""
        entry = self.grid.pretexts[pretext]
        training = check_section(PretrainSettings, {**self.grid.pretrain, **entry.get("pretrain", {})})
        return self._prepare(entry["prepare"], {"pretrain": training}, source)

    def _prepare(self, dials: Mapping[str, Any], pretrain: Mapping[str, Any], source: str) -> Stage:
        """The stage that makes what a pretext is trained on. Its pictures have the side that the pretext takes."""
        cls = PREPARE_SETTINGS[dials["kind"]]
        sized = {"size": pretrain["pretrain"]["input_size"]} if "size" in cls.__dataclass_fields__ else {}
        checked = check_section(cls, {**sized, **dials})
        file, parents = checked.pop("file", None), dict[str, str]()
        spec = {"data": self.data[source], "prepare": checked, "seed": self.grid.pretrain_seed}
        actual = stand_in(self.grid, source)
        labels: Labels = {"pretext_data": actual, "seed": self.grid.pretrain_seed, "dataset": actual}
        name = f"{dials['kind']} | {actual}"
        facts = self.facts[source]
        blocked = facts.absent
        if checked.get("colours") == "network":
            colorizer = self._colorizer(file or "")
            parents, blocked = {"colorizer": colorizer.key}, blocked or colorizer.blocked
        return self.stage(self.draft("prepare", spec, parents, facts, name, labels, blocked))

    def _colorizer(self, file: str) -> Stage:
        facts = self.facts_of(colorizer_file(file))
        spec = {"format": COLORIZER, "file": file or None}
        return self.stage(self.draft("import", spec, {}, facts, COLORIZER, {"pretext": COLORIZER}, facts.absent))

    def _import(self, pretext: str, source: str, network: dict[str, Any]) -> Stage:
        asked = import_of(self.grid, pretext)
        facts = self.facts_of(weights_file(asked))
        spec = {"format": asked.format, "file": asked.file, "network": network}
        labels: Labels = {"pretext": pretext, "pretext_data": source, "network": network["name"]}
        return self.stage(self.draft("import", spec, {}, facts, f"{pretext} | {asked.format}", labels, facts.absent))

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
        spec = {**spec, "pretrain": in_steps(spec["pretext"], spec["pretrain"], self.facts[source].listing)}
        full = spec["pretrain"]["steps"]
        dials = {**tune.model_dump(mode="json"), "space": space}
        every = spec["pretrain"]["report_every"]
        steps = lengths(tune, full, every)
        judged = rungs(tune, steps[-1], every)
        if tune.pruning is not None and not judged:
            self.noted.append(f"{name}: no trial can be given up, as its curve has no point before step {steps[-1]}")
        objective, problem = self._objective(tune, spec, f"pretexts.{labels['pretext']}.tune.objective")
        longest = {**spec, "pretrain": {**spec["pretrain"], "steps": steps[-1]}, "rungs": judged}
        facts = self.facts[source]
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
            provisional=(blocked or problem) is not None,
        )

    def _objective(self, tune: Tune, spec: dict[str, Any], where: str) -> tuple[dict[str, Any], str | None]:
        """What a trial's value is, and why it cannot be had. `where` it stands in the grid."""
        asked = tune.objective
        if not isinstance(asked, Downstream):
            metric, direction = objective_of(spec["pretext"]["method"])
            return {"kind": "validation", "metric": metric, "direction": direction}, None
        facts = self.facts[asked.dataset]
        if facts.listing is not None and not facts.listing.train:
            raise WrongRequest(
                f"{where}: {stand_in(self.grid, asked.dataset)} has no official training part: each seed draws "
                "its own, so that images held out for one seed evaluate another; expected a dataset with official "
                "parts, or `objective: validation`"
            )
        n_train, problem = facts.train_size(asked.fraction, None)
        if problem is None and n_train is not None and n_train < 2:
            problem = f"{where}: {n_train} image to train on and to validate with; raise the fraction"
        dials = check_section(SECTIONS["finetune"], {**self.grid.finetune, **asked.finetune})
        options, settings = self.data[asked.dataset]["options"], parse(FinetuneSettings, dials)
        network = parse_network(spec["network"])
        problem = problem or facts.why_not_finetuned(network, settings, n_train, options, asked.share)
        finetune = {
            "scenario": asked.scenario,
            "frozen": False,
            "network": spec["network"],
            "data": {**self.data[asked.dataset], "fraction": asked.fraction, "n_train": None, "held_out": asked.share},
            "finetune": dials,
            "backend": self.backend,
            "seed": asked.seed,
        }
        about = {"kind": "downstream", "metric": "dice", "direction": "maximize"}
        return {**about, "finetune": finetune, "data": facts.fingerprint}, problem

    def draft(
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
        """A stage with this content that has no key yet."""
        unsure = [self.stages[p].provisional for p in parents.values()] + [bool(awaits)]
        return Stage(
            key="",
            kind=kind,
            spec=spec,
            parents=parents,
            fingerprint=facts.fingerprint,
            name=name,
            labels={**labels, "profile": self.profile},
            cost=device_seconds(kind, spec, **facts.counts(spec.get("data", {}).get("n_train"))),
            blocked=blocked,
            provisional=blocked is not None or any(unsure),
            awaits=dict(awaits),
        )

    def stage(self, draft: Stage) -> Stage:
        """The stage of a draft, made once. With studies to wait for it gets its real key when they are over."""
        key = stage_key(draft.kind, draft.spec, {**draft.parents, **awaited(draft.awaits)}, draft.fingerprint)
        return self.stages.setdefault(key, replace(draft, key=key))

    def stages_of_seeds(self, draft: Stage, seeds: Sequence[int]) -> list[Stage]:
        """As `stage` with each of the seeds in the spec, the labels and the name; what they share is made once."""
        parents = {**draft.parents, **awaited(draft.awaits)}
        keys = seed_keys(draft.kind, draft.spec, seeds, parents, draft.fingerprint)
        for seed, key in zip(seeds, keys, strict=True):
            if key not in self.stages:
                self.stages[key] = replace(
                    draft,
                    key=key,
                    spec={**draft.spec, "seed": seed},
                    name=f"{draft.name} | seed {seed}",
                    labels={**draft.labels, "seed": seed},
                )
        return [self.stages[key] for key in keys]
