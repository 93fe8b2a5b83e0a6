"""From a name or a YAML file, a profile, `--set` and `--only` to a checked request. Nothing runs before that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.grid.analyses import all_analyses, selections_in
from orchestrator.grid.analysis_faults import cell_faults
from orchestrator.grid.cells import restrict
from orchestrator.grid.claims import looks_faults
from orchestrator.grid.errors import GridError, near
from orchestrator.grid.faults import explain
from orchestrator.grid.meaning import meaning_faults
from orchestrator.grid.networks import fit_faults
from orchestrator.grid.reach import for_another, for_itself, grids_named
from orchestrator.grid.schema import Cells, Grid
from orchestrator.grid.select import select
from orchestrator.grid.source import Path_, Source, read_override, read_yaml

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"


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
    source, chosen = _sources(path, profile, _own(path, profile, overrides))
    grid = _with_others(_check_whole(source), source, path, chosen, overrides)
    return Request(select(grid, only), chosen, tuple(overrides), tuple(only), str(path.absolute()))


def _sources(path: Path, profile: str | None, overrides: Sequence[str]) -> tuple[Source, str]:
    """The file with everything laid over it, and the name of the profile."""
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
    return source, chosen


def _with_others(grid: Grid, source: Source, path: Path, profile: str, overrides: Sequence[str]) -> Grid:
    """The grid with those beside it that its analyses draw from, cut down to the cells that they take.

    Raises:
        GridError: there is no such grid, or it has no such cells.
    """
    asked = [a for name, analysis in all_analyses(grid).items() for a in selections_in(analysis, ("analyses", name))]
    wanted: dict[str, list[Cells]] = {}
    for one in asked:
        if one.value.grid is not None and one.value.grid != grid.grid:
            wanted.setdefault(one.value.grid, []).append(one.value)
    others = {}
    for name in wanted:
        place = next(a.path for a in asked if a.value.grid == name)
        others[name] = _other(name, source, (*place, "grid"), path, profile, overrides)
    for problem in cell_faults(grid.beside(others), source):
        raise problem
    return grid.beside({name: restrict(other, wanted[name]) for name, other in others.items()})


def _other(name: str, source: Source, place: Path_, beside: Path, profile: str, overrides: Sequence[str]) -> Grid:
    """Another grid, as a run of it with the same profile and settings would have it. A file lies beside this one."""
    where = f"{source.place(place)}: {'.'.join(map(str, place))}"
    try:
        path = _grid_path(name if name in builtin_grids() else str(beside.parent / name))
    except GridError:
        raise GridError(
            f"{where}: no grid {name!r}; {near(name, builtin_grids())} (or a YAML file beside this one)"
        ) from None
    passed = for_another(overrides, _with_profile(read_yaml(path).values, profile))
    return _check_whole(_sources(path, profile, passed)[0])


def _own(path: Path, profile: str | None, overrides: Sequence[str]) -> list[str]:
    """Of the `--set` for a grid those that are about itself."""
    values = _with_profile(read_yaml(path).values, profile)
    named = [name for name in dict.fromkeys(grids_named(values.get("analyses"))) if name in builtin_grids()]
    return for_itself(overrides, values, [read_yaml(_grid_path(name)).values for name in named])


def _with_profile(values: dict[str, Any], profile: str | None) -> dict[str, Any]:
    """The file's values with the data sets and pretexts that its profile adds; a wrong one is told elsewhere."""
    name = profile if profile is not None else values.get("profile", "paper")
    if name not in _profiles():
        return values
    return read_yaml(SPACES / "profiles" / f"{name}.yaml").overlay(Source(values)).values


def _grid_path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if os.path.isdir(name):  # noqa: PTH112 - that of Path raises for a name too long
            raise GridError(f"{name}: this is a folder; expected a grid in YAML, or a built-in name such as smoke")
        if not os.path.isfile(name):  # noqa: PTH113
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
    for problem in looks_faults(source):
        raise problem
    try:
        grid = Grid.model_validate(source.values)
    except ValidationError as error:
        raise explain(error, source, (), Grid) from None
    for problem in meaning_faults(grid, source):
        raise problem
    return grid


def _check_whole(source: Source) -> Grid:
    """As `_check`, with nothing to be laid over it any more, so that networks must fit what trains them."""
    grid = _check(source)
    for problem in fit_faults(grid, source):
        raise problem
    return grid
