"""What a grid reads: data sets and weight files, and what stands in for them."""

from __future__ import annotations

from typing import Any

from orchestrator.grid.analyses import all_analyses, datasets_in, models_in
from orchestrator.grid.schema import Column, Downstream, Grid, Import, Row, Tune, check_section
from orchestrator.plan.data import WEIGHTS
from orchestrator.plan.keys import canonical
from trainables.settings import DATASET_OPTIONS

COLORIZER = "eccv16-colorizer"  # of `trainables.data.weight_files.FORMATS`
PSEUDO_COLOURS = "pseudo-colours"
DataSpec = dict[str, Any]


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
    """The datasets of the grid that others stand in for, also below what its analyses draw from."""
    found = dict[str, str]()
    for part in (*grid.others.values(), grid):
        found |= _stand_ins(part)
    return found


def _stand_ins(grid: Grid) -> dict[str, str]:
    asked = {c.dataset for c in grid.columns} | {d for c in grid.columns for r in grid.rows if (d := source_of(r, c))}
    asked |= {name for _, name in _of_analyses(grid)}
    colours = {f"the colorizer of {pretext}": PSEUDO_COLOURS for pretext in pseudo_coloured(grid)}
    return {d: stand_in(grid, d) for d in sorted(asked) if stand_in(grid, d) != d} | colours


def data_specs(grid: Grid) -> list[DataSpec]:
    """All datasets that a grid touches, each once; also those of other grids that its analyses draw from."""
    found = [data_spec(part, name) for part in (grid, *grid.others.values()) for name in datasets_of(part)]
    return list({canonical(spec): spec for spec in found}.values())


def datasets_of(grid: Grid) -> list[str]:
    """The ids of all data sets that a grid itself touches, each once."""
    ids = [d for row in grid.rows for column in grid.columns for d in (_read(grid, row, column), column.dataset) if d]
    ids += [name for pretext, name in _of_analyses(grid) if pretext is None or not imported(grid, pretext)]
    objectives = [tune_of(grid, pretext).objective for pretext in pretexts_of(grid) if tuned(grid, pretext)]
    return list(dict.fromkeys(ids + [o.dataset for o in objectives if isinstance(o, Downstream)]))


def pretexts_of(grid: Grid) -> list[str]:
    """The pretexts of a grid's rows and analyses, and the weights that these start from, each once."""
    asked = [row.pretext for row in grid.rows] + [pretext for pretext, _ in _of_analyses(grid)]
    used = [pretext for pretext in asked if pretext is not None]
    starts = [start for pretext in used if (start := start_of(grid, pretext)) is not None]
    return list(dict.fromkeys(used + starts))


def _of_analyses(grid: Grid) -> list[tuple[str | None, str]]:
    """The data sets that the analyses of a grid name, each with the pretext that it is for, if it is for one."""
    found: list[tuple[str | None, str]] = []
    for analysis in all_analyses(grid).values():
        found += [(None, asked.value) for asked in datasets_in(analysis, ())]
        models = [asked.value for asked in models_in(analysis, ())]
        found += [(model.pretext, model.pretext_data) for model in models if model.pretext is not None]
    return found


def weight_specs(grid: Grid) -> list[DataSpec]:
    """The weight files that a grid imports, in the form of data; likewise."""
    found: list[DataSpec] = []
    for part in (grid, *grid.others.values()):
        used = pretexts_of(part)
        found += [weights_file(import_of(part, pretext)) for pretext in used if imported(part, pretext)]
        colorizers = [colorizer for pretext in used if (colorizer := colorizer_of(part, pretext)) is not None]
        found += [colorizer_file(file) for file in colorizers]
    return found


def imported(grid: Grid, pretext: str) -> bool:
    """True where a pretext's weights come from a file."""
    return bool(grid.pretexts.get(pretext, {}).get("method") == "imported")


def import_of(grid: Grid, pretext: str) -> Import:
    """The file that a grid takes a pretext's weights from."""
    return Import.model_validate(grid.pretexts[pretext])


def start_of(grid: Grid, pretext: str) -> str | None:
    """The imported weights that a pretext's encoder starts from; None: it starts at random."""
    start = grid.pretexts.get(pretext, {}).get("init")
    return None if start is None else str(start)


def colorizer_of(grid: Grid, pretext: str) -> str | None:
    """The file of the network that colours a pretext's pictures, "" for its usual place; None: no network does."""
    dials = grid.pretexts.get(pretext, {}).get("prepare", {})
    if dials.get("kind") != "colorize" or dials.get("colours", "network") != "network":
        return None
    return str(dials.get("file") or "")


def pseudo_coloured(grid: Grid) -> list[str]:
    """The pretexts of the grid whose colours are made up, so that their results are not the paper's."""
    coloured = [p for p in pretexts_of(grid) if grid.pretexts.get(p, {}).get("prepare", {}).get("kind") == "colorize"]
    return [pretext for pretext in coloured if colorizer_of(grid, pretext) is None]


def colorizer_file(file: str) -> DataSpec:
    """The colorizer's weights, in the form of data."""
    return {"reader": f"{WEIGHTS}{COLORIZER}", "options": {"file": file}}


def weights_file(asked: Import) -> DataSpec:
    """Imported weights, in the form of data."""
    return {"reader": f"{WEIGHTS}{asked.format}", "options": {"file": asked.file or ""}}


def tuned(grid: Grid, pretext: str) -> bool:
    """True where a pretext's settings are found by a study."""
    return "tune" in grid.pretexts.get(pretext, {})


def tune_of(grid: Grid, pretext: str) -> Tune:
    """The study that a grid asks for over a pretext's settings."""
    return Tune.model_validate(grid.pretexts[pretext]["tune"])


def source_of(row: Row, column: Column) -> str | None:
    """The data of a row's pretext where it feeds a column."""
    return (row.pretext_data or column.pretext_data) if row.pretext else None


def _read(grid: Grid, row: Row, column: Column) -> str | None:
    """The data set that a row's pretext is trained on; none where its weights come from a file."""
    return None if row.pretext and imported(grid, row.pretext) else source_of(row, column)
