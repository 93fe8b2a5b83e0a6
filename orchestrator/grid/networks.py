"""Faults of networks in a grid: wrong dials, and what cannot be trained with what they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from orchestrator.grid.analyses import all_analyses, models_in
from orchestrator.grid.errors import GridError, near
from orchestrator.grid.faults import explain
from orchestrator.grid.schema import DEFAULT_NETWORK, Downstream, Grid, Row, Tune, check_section, network_of
from orchestrator.grid.sections import checked_by
from orchestrator.grid.source import Path_, Source
from trainables.settings import NETWORK_SETTINGS, PRETEXT_SETTINGS, SECTIONS, AnyNetworkSettings, parse_network
from trainables.settings.fitting import ENCODER_WEIGHTS, SMALLEST, why_not_fed, why_not_learnt, why_not_sized

Dials = Mapping[str, Any]


def section_faults_of_networks(grid: Grid, source: Source) -> Iterator[GridError]:
    """Each section about networks with the dials of the one that it names; the networks of rows are complete."""
    usual = grid.network.get("name", DEFAULT_NETWORK)
    sections: list[tuple[Path_, Any, Dials]] = [(("network",), usual, grid.network)]
    sections += [(("networks", name), name, dials) for name, dials in grid.networks.items()]
    for path, name, dials in sections:
        if not isinstance(name, str) or name not in NETWORK_SETTINGS:
            yield _unknown(name, source, path)
            return
        yield from _part_faults(name, dials, source, path)
    for number, row in enumerate(grid.rows):
        yield from network_faults(grid, row.network, source, ("rows", number, "network"))


def network_faults(grid: Grid, own: Dials, source: Source, path: Path_) -> Iterator[GridError]:
    """What is wrong with a network of the grid.

    Args:
        own: what a row or a model says of it, at `path`.
    """
    usual = grid.network.get("name", DEFAULT_NETWORK)
    name = own.get("name", usual)
    if not isinstance(name, str) or name not in NETWORK_SETTINGS:
        yield _unknown(name, source, path)
        return
    shared = grid.network if name == usual else {}
    parts: list[tuple[Path_, Dials]] = [(path, own), (("network",), shared)]
    parts.append((("networks", name), grid.networks.get(name, {})))
    dials = {"name": name} | {dial: value for _, part in reversed(parts) for dial, value in part.items()}
    try:
        check_section(NETWORK_SETTINGS[name], dials)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["loc"]:
            yield explain(error, source, path, checked_by(NETWORK_SETTINGS[name]))
        else:
            yield _misfit(str(fault["ctx"]["error"]), parts, source)


def fit_faults(grid: Grid, source: Source) -> Iterator[GridError]:
    """Networks that cannot be trained as rows and analyses ask for, whatever the data hold."""
    for number, row in enumerate(grid.rows):
        if row.scenario != "constant":
            yield from _of_row(grid, row, source, ("rows", number))
    for name, analysis in all_analyses(grid).items():
        for asked in models_in(analysis, ("analyses", name)):
            if asked.value.pretext is not None and hasattr(asked.value, "network"):
                model = Row(scenario="random-init", model="model", network=asked.value.network)
                yield from _Training(grid, source, asked.path, _network(grid, model)).faults(asked.value.pretext)


def _unknown(name: Any, source: Source, path: Path_) -> GridError:
    where = f"{source.place((*path, 'name'))}: {'.'.join(map(str, path))}"
    return GridError(f"{where}: no network {name!r}; {near(str(name), NETWORK_SETTINGS)}")


def _part_faults(name: str, dials: Dials, source: Source, path: Path_) -> Iterator[GridError]:
    """What is wrong with dials by themselves. Whether they go together shows where a row has completed them."""
    try:
        check_section(NETWORK_SETTINGS[name], {"name": name, **dials})
    except ValidationError as error:
        if error.errors(include_url=False)[0]["loc"]:
            yield explain(error, source, path, checked_by(NETWORK_SETTINGS[name]))


def _misfit(problem: str, parts: Sequence[tuple[Path_, Dials]], source: Source) -> GridError:
    """Dials that do not go together, at the place of the first one that the problem names.

    Args:
        parts: what says the dials, and where; the one that goes before the others first.
    """
    dial = problem.partition(" ")[0]
    path = next((path for path, part in parts if dial in part), parts[0][0])
    return GridError(f"{source.place((*path, dial))}: {'.'.join(map(str, path))}: {problem}")


def _network(grid: Grid, row: Row) -> AnyNetworkSettings:
    return parse_network(network_of(grid, row))


def _of_row(grid: Grid, row: Row, source: Source, path: Path_) -> Iterator[GridError]:
    training = _Training(grid, source, path, _network(grid, row))
    if row.pretext is not None:
        yield from training.faults(row.pretext)
        given = grid.pretexts.get(row.pretext, {}).get("format", "")
        if row.scenario == "seg-enc-dec" and given in ENCODER_WEIGHTS:
            problem = f"seg-enc-dec takes over a decoder, but weights {given} have none; expected cls-enc or seg-enc"
            yield training.fault((*path, "scenario"), problem)
    kind = "probe" if row.scenario == "probe" else "finetune"
    own = row.finetune if kind == "finetune" else {}
    place = (*path, kind) if "input_size" in own else (kind,)
    yield from training.sized(kind, {**getattr(grid, kind), **own}, place)


@dataclass(frozen=True)
class _Training:
    """What a row or a model at `path` asks of its network."""

    grid: Grid
    source: Source
    path: Path_
    network: AnyNetworkSettings

    def faults(self, pretext: str) -> Iterator[GridError]:
        """Of the pretext: its method, its data, its size, and the study over it."""
        entry = self.grid.pretexts.get(pretext, {})
        method, path = entry.get("method", pretext), (*self.path, "pretext")
        if method == "imported":
            yield from self._imported(entry["format"], path)
            return
        cls, prepare = PRETEXT_SETTINGS[method], entry.get("prepare")
        if problem := why_not_learnt(cls, method, self.network):
            yield self.fault(path, problem)
        own = ("pretexts", pretext)
        if problem := why_not_fed(cls, method, prepare["kind"] if prepare else None):
            yield self.fault((*own, "prepare") if prepare else path, problem)
        if "init" in entry:
            yield from self._imported(self.grid.pretexts[entry["init"]]["format"], (*own, "init"))
        dials = entry.get("pretrain", {})
        place = (*own, "pretrain") if "input_size" in dials else ("pretrain",)
        yield from self.sized("pretrain", {**self.grid.pretrain, **dials}, place, SMALLEST.get(method, 1))
        if "tune" in entry:
            yield from self._tuned(Tune.model_validate(entry["tune"]), (*own, "tune", "objective", "finetune"))

    def sized(self, kind: str, dials: Dials, place: Path_, least: int = 1) -> Iterator[GridError]:
        """Whether the network takes pictures of the size that a section, at `place`, says."""
        size = check_section(SECTIONS[kind], dials)["input_size"]
        if problem := why_not_sized(self.network, size, least):
            yield self.fault((*place, "input_size"), problem)

    def _imported(self, name: str, path: Path_) -> Iterator[GridError]:
        from trainables.data.weight_files import FORMATS  # numpy comes with it, which `--help` can do without

        fits = FORMATS[name].fits
        if fits and self.network.name not in fits:
            expected = f"network.name {' or '.join(fits)}"
            yield self.fault(path, f"weights {name} fit {expected}, but it is {self.network.name}")

    def _tuned(self, tune: Tune, place: Path_) -> Iterator[GridError]:
        if isinstance(tune.objective, Downstream):
            own = tune.objective.finetune
            where = place if "input_size" in own else ("finetune",)
            yield from self.sized("finetune", {**self.grid.finetune, **own}, where)

    def fault(self, path: Path_, problem: str) -> GridError:
        """A problem with the place where it was written."""
        return GridError(f"{self.source.place(path)}: {'.'.join(map(str, path))}: {problem}")
