"""Faults of `analyses:`: unknown kinds, keys, data and pretexts, and cells that there are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from orchestrator.grid.analyses import ANALYSES, Asked, analysis_of, datasets_in, models_in, selections_in
from orchestrator.grid.cells import AXES, places, source_of, taken
from orchestrator.grid.errors import GridError, near
from orchestrator.grid.faults import explain
from orchestrator.grid.networks import network_faults
from orchestrator.grid.schema import Grid
from orchestrator.grid.source import Path_, Source
from trainables.settings import PRETEXT_SETTINGS

# Kind of analysis -> the method that its models must have been trained by, where it is not all the same.
_METHODS = {"gradcam": ("classification",), "targets": ("conrec",), "predictions": ("segmentation",)}
_PROBED = frozenset({"confusion", "cam"})  # kinds that are drawn from probes; curves of probes are no Dice
_ONE_SEED = frozenset({"confusion", "cam", "predictions"})


def shape_faults(grid: Grid, source: Source) -> Iterator[GridError]:
    """Unknown kinds, keys and wrong values. Nothing else can be looked at where there are any."""
    for name, entry in grid.analyses.items():
        kind = entry.get("kind")
        if not isinstance(kind, str) or kind not in ANALYSES:
            where = f"{source.place(('analyses', name, 'kind'))}: analyses.{name}.kind"
            yield GridError(
                f"{where}: no analysis {kind!r}; {near(str(kind), ANALYSES)}" if kind else f"{where} is missing"
            )
            continue
        try:
            analysis_of(entry)
        except ValidationError as error:
            yield explain(error, source, ("analyses", name), ANALYSES[kind])


def name_faults(grid: Grid, source: Source) -> Iterator[GridError]:
    """Models that stand for nothing: no such pretext, network or preparation; two of one name."""
    for name, entry in grid.analyses.items():
        analysis = analysis_of(entry)
        for asked in models_in(analysis, ("analyses", name)):
            yield from _pretext(grid, analysis.kind, asked, source)
            yield from _network(grid, asked, source)
        yield from _titles(analysis, name, source)


def datasets_asked(grid: Grid) -> list[tuple[Path_, str]]:
    """Every data set that the analyses name, with its place."""
    found: list[tuple[Path_, str]] = []
    for name, entry in grid.analyses.items():
        analysis = analysis_of(entry)
        found += [(asked.path, asked.value) for asked in datasets_in(analysis, ("analyses", name))]
        for asked in models_in(analysis, ("analyses", name)):
            source = asked.value.pretext_data
            if source is not None and _method(grid, asked.value.pretext) != "imported":
                found.append(((*asked.path, "pretext_data"), source))
    return found


def cell_faults(grid: Grid, source: Source) -> Iterator[GridError]:
    """Selections that take no cell, or cells that do not go together. The grids that they name stand beside `grid`."""
    for number, selection in enumerate(grid.run.keep_weights):
        yield from _selection(grid, Asked(("run", "keep_weights", number), selection), source)
    for name, entry in grid.analyses.items():
        analysis = analysis_of(entry)
        found = list(selections_in(analysis, ("analyses", name)))
        for asked in found:
            yield from _selection(grid, asked, source)
        if analysis.kind == "curves" and not analysis.panels and not grid.rows:
            where = f"{source.place(('analyses', name))}: analyses.{name}"
            yield GridError(f"{where}: this grid has no cells to draw; add `panels:` with the cells of another grid")
        if analysis.kind in _ONE_SEED:
            yield from _one_of_each(grid, analysis, name, source)
        for asked in found:
            yield from _fits(grid, analysis.kind, asked, source)


def _where(source: Source, path: Path_) -> str:
    return f"{source.place(path)}: {'.'.join(map(str, path))}"


def _method(grid: Grid, pretext: str) -> Any:
    return grid.pretexts.get(pretext, {}).get("method", pretext)


def _pretext(grid: Grid, kind: str, asked: Asked, source: Source) -> Iterator[GridError]:
    pretext, known = asked.value.pretext, {*grid.pretexts, *PRETEXT_SETTINGS}
    wanted = _METHODS.get(kind)
    where = _where(source, (*asked.path, "pretext"))
    if pretext is None:
        if wanted:
            yield GridError(f"{_where(source, asked.path)}: {kind} needs a trained model; add `pretext:` and its data")
    elif pretext not in known:
        yield GridError(f"{where}: no pretext {pretext!r}; {near(pretext, known)}")
    elif wanted and (method := _method(grid, pretext)) not in wanted:
        yield GridError(f"{where}: {kind} needs a model trained by {' or '.join(wanted)}, but {pretext} is {method}")
    elif kind == "samples" and "prepare" not in grid.pretexts.get(pretext, {}):
        yield GridError(f"{where}: nothing is prepared for {pretext}; expected one with `prepare:`, or `data:`")


def _network(grid: Grid, asked: Asked, source: Source) -> Iterator[GridError]:
    yield from network_faults(grid, getattr(asked.value, "network", {}), source, (*asked.path, "network"))


def _titles(analysis: Any, name: str, source: Source) -> Iterator[GridError]:
    """Names by which a figure tells its models and panels apart."""
    panels = [panel.title for panel in getattr(analysis, "panels", ())]
    models = [m.value.name for m in models_in(analysis, ()) if hasattr(m.value, "name")]
    for what, names in (("panels", panels), ("models", models)):
        for twice in [n for n, count in Counter(names).items() if count > 1][:1]:
            where = _where(source, ("analyses", name))
            yield GridError(f"{where}: two of its {what} are called {twice!r}; rename one")


def _selection(grid: Grid, asked: Asked, source: Source) -> Iterator[GridError]:
    if taken(grid, asked.value):
        return
    there = list(places(source_of(grid, asked.value)))
    name = asked.value.grid or grid.grid
    if not there:
        yield GridError(f"{_where(source, asked.path)}: the grid {name} has no cells; name another one by `grid:`")
        return
    for axis in AXES:
        present = dict.fromkeys(str(value) for place in there if (value := place.axes[axis]) is not None)
        wanted = getattr(asked.value, axis)
        stray = [v for v in (wanted if isinstance(wanted, list) else [wanted]) if v is not None]
        stray = [v for v in stray if str(v) not in present]
        if stray:
            where = _where(source, (*asked.path, axis))
            known = near(str(stray[0]), present) if present else f"its cells have no {axis}"
            yield GridError(f"{where}: the grid {name} has no cell with {axis} {stray[0]}; {known}")
            return
    yield GridError(f"{_where(source, asked.path)}: no cell of the grid {name} has all of these")


def _fits(grid: Grid, kind: str, asked: Asked, source: Source) -> Iterator[GridError]:
    """Probes where probes are meant, else finetuned networks."""
    for place in taken(grid, asked.value):
        probe = place.axes["scenario"] == "probe"
        if probe != (kind in _PROBED) and kind != "curves":
            what = "probes" if kind in _PROBED else "finetuned networks"
            yield GridError(f"{_where(source, asked.path)}: {kind} draws {what}, but {place.axes['model']} is none")
            return


def _one_of_each(grid: Grid, analysis: Any, name: str, source: Source) -> Iterator[GridError]:
    """One seed of each model, and one data set in a panel."""
    groups: list[tuple[Path_, Any]] = [(("analyses", name, "cells"), getattr(analysis, "cells", None))]
    groups += [
        (("analyses", name, "panels", n, "cells"), getattr(panel, "cells", None))
        for n, panel in enumerate(getattr(analysis, "panels", ()))
    ]
    for path, selections in groups:
        cells = [place.axes for selection in selections or () for place in taken(grid, selection)]
        for axis in ("dataset", "fraction", "seed"):
            values = list(dict.fromkeys(cell[axis] for cell in cells))
            if len(values) > 1:
                shown = ", ".join(map(str, values))
                yield GridError(f"{_where(source, path)}: these cells have more than one {axis} ({shown}); name one")
                return
