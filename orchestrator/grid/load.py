"""From a name or a YAML file, a profile, `--set` and `--only` to a checked request. Nothing runs before that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.grid.errors import GridError, near, short
from orchestrator.grid.schema import (
    DEFAULT_NETWORK,
    PRETEXT_SECTIONS,
    Column,
    Downstream,
    Grid,
    Import,
    Pruning,
    Resources,
    Row,
    Run,
    Table,
    Tune,
    check_section,
)
from orchestrator.grid.select import select
from orchestrator.grid.source import Path_, Source, read_override, read_yaml
from orchestrator.grid.tuning import misfits
from trainables.settings import (
    DATASET_OPTIONS,
    ENCODER_ONLY,
    NETWORK_SETTINGS,
    PRETEXT_SETTINGS,
    SECTIONS,
    PretrainSettings,
)
from trainables.settings.datasets import PREPARE_SETTINGS

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"
METRICS = ("dice", "iou", "miou", "dice_pooled", "dice_soft", "dice_all_foreground", "loss", "dice_eval", "iou_eval",
           "dice_hard", "iou_hard", "accuracy", "accuracy_balanced")  # fmt: skip
_MODELS: dict[Path_, type[BaseModel]] = {
    (): Grid,
    ("rows", "*"): Row,
    ("columns", "*"): Column,
    ("table",): Table,
    ("run",): Run,
    ("run", "resources", "*"): Resources,
    ("pretexts", "*", "tune"): Tune,
    ("pretexts", "*", "tune", "objective"): Downstream,
    ("pretexts", "*", "tune", "pruning"): Pruning,
}
# Beginnings of pydantic's error types -> what was expected.
_EXPECTED = {
    "int_": "a whole number",
    "float_": "a number",
    "bool_": "true or false",
    "string_type": "a text",
    "string_pattern": "letters, digits, dots, dashes and underscores",
    "too_short": "at least one entry",
    **dict.fromkeys(("list_", "tuple_"), "a list"),
    **dict.fromkeys(("dict_", "mapping_", "model_"), "a mapping (key: value)"),
}


@dataclass(frozen=True)
class Request:
    """One grid as asked for: its checked content and how it was asked."""

    grid: Grid
    profile: str
    overrides: tuple[str, ...]
    only: tuple[str, ...]
    path: str


def builtin_grids() -> list[str]:
    """The names of the grids that come with the program."""
    return sorted(path.stem for path in (SPACES / "grids").glob("*.yaml"))


def grid_name(grid: str) -> str:
    """The name under which a grid's plans are kept: the `grid:` of a YAML file, else its stem, else as given."""
    path = Path(grid)
    if path.suffix not in (".yaml", ".yml"):
        return grid
    try:
        return str(read_yaml(path).values.get("grid", path.stem))
    except GridError:
        return path.stem  # a plan outlives the file it was run from


def load_request(
    name: str, *, profile: str | None = None, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Request:
    """Read, overlay and check one grid.

    Args:
        name: a built-in name or the path of a YAML file.
        profile: overlay to use; None takes the grid's own.
        overrides: `KEY=VALUE`, applied last, in order.
        only: `AXIS=VALUE`, restricting rows, columns or seeds.

    Raises:
        GridError: anything wrong, with file, line and what was expected.
    """
    path = _grid_path(name)
    source = read_yaml(path)
    chosen = profile if profile is not None else source.values.get("profile", "paper")
    source, own = source.without("profiles")
    _check(source)  # a fault of the file is told under every profile, also where an overlay would hide it
    overlay = _profile(chosen, source, asked=profile is not None)
    for name_, part in _own_profiles(own):
        _check(source.overlay(part))
        if name_ == chosen:
            overlay = overlay.overlay(part)
    source = source.overlay(overlay)
    for text in overrides:
        source = source.overlay(_override(text))
    return Request(select(_check(source), only), chosen, tuple(overrides), tuple(only), str(path.absolute()))


def _grid_path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if path.is_dir():
            raise GridError(f"{name}: this is a folder; expected a grid in YAML, or a built-in name such as smoke")
        if not path.is_file():
            raise GridError(f"{name}: no such file; expected a grid in YAML, or a built-in name such as smoke")
        return path
    if name not in builtin_grids():
        raise GridError(f"no grid {name!r}: {near(name, builtin_grids())} (a file must end in .yaml)")
    return SPACES / "grids" / f"{name}.yaml"


def _profiles() -> list[str]:
    return sorted(path.stem for path in (SPACES / "profiles").glob("*.yaml"))


def _profile(name: Any, source: Source, *, asked: bool) -> Source:
    known = _profiles()
    if name not in known:
        where = "--profile" if asked else source.place(("profile",)) + ": profile"
        raise GridError(f"{where} {name}: no such profile; {near(str(name), known)}")
    return read_yaml(SPACES / "profiles" / f"{name}.yaml")


def _own_profiles(own: Source | None) -> Iterator[tuple[str, Source]]:
    """The overlays that a grid states itself, by profile."""
    known = _profiles()
    for name in own.values if own is not None else ():
        assert own is not None
        if name not in known:
            raise GridError(f"{own.place((name,))}: profiles.{name}: no such profile; {near(str(name), known)}")
        part = own.without(name)[1]
        assert part is not None
        yield name, part


def _override(text: str) -> Source:
    override = read_override(text)
    if "profile" in override.values:
        raise GridError(f"--set {text}: a profile is chosen by --profile NAME")
    return override


def _check(source: Source) -> Grid:
    """The grid that the values state. Raises GridError for the first fault."""
    try:
        grid = Grid.model_validate(source.values)
    except ValidationError as error:
        raise _explain(error, source, ()) from None
    for problem in _meaning(grid, source):
        raise problem
    return grid


def _explain(error: ValidationError, source: Source, prefix: Path_, names: Sequence[str] = ()) -> GridError:
    """The first fault of a validation as one message."""
    faults = _told_first(error.errors(include_url=False))
    loc = _place_of(faults[0], prefix)
    name = ".".join(str(part) for part in loc)
    where = f"{source.place(loc)}: {name}" if loc else source.place(loc)
    if faults[0]["type"] == "extra_forbidden":
        allowed = names or list(_model_at(loc[:-1]).model_fields)
        return GridError(f"{source.place(loc)}: unknown key {name!r}; {near(str(loc[-1]), allowed)}")
    if faults[0]["type"] == "missing":
        return GridError(f"{where} is missing")
    if faults[0]["type"] == "value_error":  # raised by the schema's own validators, whose text says it all
        return GridError(f"{where}: {faults[0]['msg'].removeprefix('Value error, ')}")
    branches = [fault for fault in faults if _place_of(fault, prefix) == loc]
    wanted = " or ".join(dict.fromkeys(_expected(fault) for fault in branches))
    value = faults[0]["input"]
    return GridError(f"{where}: expected {wanted}, but got {'nothing' if value is None else short(repr(value))}")


def _told_first(faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """An unknown key goes before what is missing because of it; of a mapping that it is no plain word says nothing."""
    meant = [
        f for f in faults if not (isinstance(f["input"], Mapping) and str((f["loc"] or [""])[-1])[:8] == "literal[")
    ]
    return sorted(meant or faults, key=lambda fault: fault["type"] != "extra_forbidden")


def _place_of(fault: ErrorDetails, prefix: Path_) -> Path_:
    return (*prefix, *(part for part in fault["loc"] if not _is_tag(part)))


def _expected(fault: ErrorDetails) -> str:
    """Pydantic's complaint in the words of a grid file."""
    plain = next((words for kind, words in _EXPECTED.items() if fault["type"].startswith(kind)), None)
    return plain or fault["msg"].removeprefix("Input should be ")


def _is_tag(part: Any) -> bool:
    """Pydantic adds such words for the branches of a union; they are no keys of the file."""
    return isinstance(part, str) and (
        part in ("float", "int", "[key]", "Downstream") or part.startswith(("literal[", "function-"))
    )


def _model_at(path: Path_) -> type[BaseModel]:
    for pattern, model in _MODELS.items():
        if len(pattern) == len(path) and all(p in ("*", q) for p, q in zip(pattern, path, strict=True)):
            return model
    return Grid


def _meaning(grid: Grid, source: Source) -> Iterator[GridError]:
    """Faults that the shape does not show: names that stand for nothing, sections with wrong dials, equal lines."""
    for section, cls in SECTIONS.items():
        if section != "network":
            yield from _section(cls, getattr(grid, section), source, (section,))
    yield from _networks(grid, source)
    for number, row in enumerate(grid.rows):
        yield from _section(
            SECTIONS["finetune"], {**grid.finetune, **row.finetune}, source, ("rows", number, "finetune")
        )
    yield from _pretexts(grid, source)
    yield from _datasets(grid, source)
    yield from _constants(grid, source)
    yield from _twins(grid, source)
    for value in grid.table.value:
        if value not in METRICS:
            yield GridError(f"{source.place(('table', 'value'))}: no metric {value!r}; {near(value, METRICS)}")


def _networks(grid: Grid, source: Source) -> Iterator[GridError]:
    """Each section about networks with the dials of the one that it names."""
    usual = grid.network.get("name", DEFAULT_NETWORK)
    sections: list[tuple[Path_, Any, Mapping[str, Any]]] = [(("network",), usual, grid.network)]
    sections += [(("networks", name), name, dials) for name, dials in grid.networks.items()]
    for number, row in enumerate(grid.rows):
        name = row.network.get("name", usual)
        inherited = grid.network if name == usual else {}
        sections.append((("rows", number, "network"), name, {**inherited, **row.network}))
    for path, name, dials in sections:
        if not isinstance(name, str) or name not in NETWORK_SETTINGS:
            where = f"{source.place((*path, 'name'))}: {'.'.join(map(str, path))}"
            yield GridError(f"{where}: no network {name!r}; {near(str(name), NETWORK_SETTINGS)}")
            return
        yield from _section(NETWORK_SETTINGS[name], {"name": name, **dials}, source, path)


def _section(cls: type, values: Mapping[str, Any], source: Source, path: Path_) -> Iterator[GridError]:
    try:
        check_section(cls, values)
    except ValidationError as error:
        yield _explain(error, source, path, list(cls.__dataclass_fields__))  # type: ignore[attr-defined]


def _pretexts(grid: Grid, source: Source) -> Iterator[GridError]:
    for name, entry in grid.pretexts.items():
        method = entry.get("method", name)
        if method == "imported":
            yield from _model(Import, entry, source, ("pretexts", name))
            continue
        if not isinstance(method, str) or method not in PRETEXT_SETTINGS:
            place = source.place(("pretexts", name, "method"))
            yield GridError(f"{place}: pretexts.{name}: no method {method!r}; {near(str(method), PRETEXT_SETTINGS)}")
            return
        own = {k: v for k, v in entry.items() if k not in PRETEXT_SECTIONS}
        yield from _section(PRETEXT_SETTINGS[method], {**own, "method": method}, source, ("pretexts", name))
        dials = entry.get("pretrain", {})
        if not isinstance(dials, Mapping):
            place = source.place(("pretexts", name, "pretrain"))
            yield GridError(f"{place}: pretexts.{name}.pretrain: expected a mapping (key: value), but got {dials!r}")
            return
        yield from _section(PretrainSettings, {**grid.pretrain, **dials}, source, ("pretexts", name, "pretrain"))
        if "prepare" in entry:
            yield from _prepare(entry["prepare"], source, ("pretexts", name, "prepare"))
        if "tune" in entry:
            yield from _tune(entry["tune"], method, own, {**grid.pretrain, **dials}, source, ("pretexts", name, "tune"))
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


def _model(model: type[BaseModel], values: Any, source: Source, path: Path_) -> Iterator[GridError]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        yield _explain(error, source, path, list(model.model_fields))


def _prepare(entry: Any, source: Source, path: Path_) -> Iterator[GridError]:
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if kind not in PREPARE_SETTINGS:
        where = f"{source.place((*path, 'kind'))}: {'.'.join(map(str, path))}.kind"
        yield GridError(f"{where}: no such preparation {kind!r}; {near(str(kind), PREPARE_SETTINGS)}")
        return
    yield from _section(PREPARE_SETTINGS[kind], entry, source, path)


def _tune(
    entry: Any, method: str, own: Mapping[str, Any], dials: Mapping[str, Any], source: Source, path: Path_
) -> Iterator[GridError]:
    try:
        tune = Tune.model_validate(entry)
    except ValidationError as error:
        yield _explain(error, source, path)
        return
    for below, what in misfits(tune, method, own, dials):
        place = (*path, *below)
        yield GridError(f"{source.place(place)}: {'.'.join(map(str, place))}: {what}")
    if isinstance(tune.objective, Downstream):
        finetune = (*path, "objective", "finetune")
        yield from _section(SECTIONS["finetune"], tune.objective.finetune, source, finetune)


def _datasets(grid: Grid, source: Source) -> Iterator[GridError]:
    for name, entry in grid.datasets.items():
        reader = entry.get("reader", name)
        if not isinstance(reader, str) or reader not in DATASET_OPTIONS:
            place = source.place(("datasets", name, "reader"))
            yield GridError(f"{place}: datasets.{name}: no reader {reader!r}; {near(str(reader), DATASET_OPTIONS)}")
            return
        options = {k: v for k, v in entry.items() if k != "reader"}
        yield from _section(DATASET_OPTIONS[reader], options, source, ("datasets", name))
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
    network = grid.network.get("name")
    rows = [(r.scenario, r.model, r.pretext_data, r.frozen, r.network.get("name", network)) for r in grid.rows]
    columns = [column.dataset for column in grid.columns]
    lines: tuple[tuple[str, list[Any], str], ...] = (
        ("rows", rows, "the same scenario, model, pretext_data, network and frozen; rename one model"),
        ("columns", columns, "the same dataset; put their fractions into one"),
    )
    for name, all_, advice in lines:
        for number, line in enumerate(all_):
            first = all_.index(line)
            if first < number:
                yield GridError(f"{source.place((name, number))}: {name}.{first} and {name}.{number} have {advice}")
