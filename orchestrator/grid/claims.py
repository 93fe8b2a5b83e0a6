"""`claims:` of a grid: the paper's sentences as tests. One model for each kind of test.

    claims:
      - id: p1-c1
        statement: A decoder that starts at random ends where a pretrained one does.
        source: P1 §3, Table 2
        test: equivalence
        rows: {scenario: seg-enc}
        against: {scenario: seg-enc-dec}
        match: [model]
        margin: 1.0

`rows` and `against` select rows of the table, `over` its columns, each by the values of axes. Every row of the one set
is paired with every one of the other; `match` keeps the pairs that are equal in these axes. A claim is about the mean
over its columns, and about each of its pairs; `each` says otherwise. Margins and effects are in the table's unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from orchestrator.grid.errors import GridError, near
from orchestrator.grid.faults import model_faults
from orchestrator.grid.schema import Grid, Model, Number, SeedLooks, network_of
from orchestrator.grid.source import Path_, Source, read_yaml

RowAxis = Literal["scenario", "model", "pretext", "pretext_data", "network", "frozen"]
ROW_AXES: tuple[str, ...] = get_args(RowAxis)
COLUMN_AXES = ("dataset", "fraction", "metric")
GRIDS = Path(__file__).resolve().parents[2] / "search_spaces" / "grids"


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _fraction(value: Any) -> Any:
    """A fraction may be written `0.05` or `5%`, as for `--only`."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    return value


def _words(value: Any) -> Any:
    """One line, however it was folded in the file."""
    return " ".join(value.split()) if isinstance(value, str) else value


def _filled(value: str) -> str:
    if not value:
        raise ValueError("expected some words, but got none")
    return value


Names = Annotated[list[str], BeforeValidator(_several), Field(min_length=1)]
Sentence = Annotated[str, BeforeValidator(_words), AfterValidator(_filled)]
Truths = Annotated[list[bool], BeforeValidator(_several), Field(min_length=1)]
Fractions = Annotated[list[Annotated[Number, BeforeValidator(_fraction)]], BeforeValidator(_several)]
Match = list[RowAxis]
Each = Literal["pair", "column"]
Positive = Annotated[Number, Field(gt=0)]


class Rows(Model):
    """Rows of the table, by axis; several values of one axis add up, axes intersect."""

    scenario: Names | None = None
    model: Names | None = None
    pretext: Names | None = None
    pretext_data: Names | None = None
    network: Names | None = None
    frozen: Truths | None = None


class Columns(Model):
    """Columns of the table, by axis. Without `metric` the table's first one."""

    dataset: Names | None = None
    fraction: Fractions | None = None
    metric: Names | None = None


class Statement(Model):
    """What every claim has: who says what, and how sure its test shall be."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    statement: Sentence
    source: Sentence
    note: Annotated[str, BeforeValidator(_words)] = ""
    alpha: Number = Field(0.05, gt=0, lt=0.5)


class _OfRows(Statement):
    """A claim about the difference of rows."""

    rows: Rows
    against: Rows
    over: Columns = Columns()
    match: Match = Field(default_factory=list)
    each: list[Each] = Field(default_factory=lambda: list[Each](("pair",)))
    beside: list[str] = Field(default_factory=list)


class Difference(_OfRows):
    """`rows` are better than `against` by more than `margin`; a negative one asks that they are not worse by more."""

    test: Literal["difference"]
    margin: Number = 0.0


class Equivalence(_OfRows):
    """`rows` and `against` differ by less than `margin`."""

    test: Literal["equivalence"]
    margin: Positive


class Strongest(_OfRows):
    """The lead of `rows` over `against` is greater at one place than at each other one, by more than `margin`.

    along: the fractions of a data set, or the data sets of a fraction. at: smallest or largest fraction, or a data set.
    """

    test: Literal["strongest"]
    along: Literal["fraction", "dataset"] = "fraction"
    at: str = "smallest"
    margin: Annotated[Number, Field(ge=0)] = 0.0

    @field_validator("at")
    @classmethod
    def _place(cls, at: str, info: ValidationInfo) -> str:
        if info.data.get("along") == "fraction" and at not in ("smallest", "largest"):
            raise ValueError(f"expected 'smallest' or 'largest' of the fractions, but got {at!r}")
        if info.data.get("along") == "dataset" and at in ("smallest", "largest"):
            raise ValueError(f"expected the data set at which the lead is greatest, but got {at!r}")
        return at


class Convergence(_OfRows):
    """`rows` need fewer steps than `against` to `share` of their own last value, by more than `margin` steps."""

    test: Literal["convergence"]
    share: Number = Field(0.95, gt=0, le=1)
    curve: str = "eval_dice"
    margin: Number = 0.0


class Similarity(Statement):
    """Models `among` are more alike in an analysis than they are like those of `than`, by more than `margin`.

    each: true: every two of the one kind are more alike than any two of the other; false: on the mean.
    """

    test: Literal["similarity"]
    analysis: str = "cka"
    among: Annotated[list[str], Field(min_length=2)]
    than: Annotated[list[str], Field(min_length=1)]
    each: bool = True
    margin: Number = 0.0


class Rank(Statement):
    """Whether the rows of two settings, paired by `match`, stand in the same order.

    differ: their rank correlation is below `margin`; agree: it is above.
    """

    test: Literal["rank"]
    rows: Rows
    against: Rows
    over: Columns = Columns()
    match: Annotated[Match, Field(min_length=1)]
    beside: list[str] = Field(default_factory=list)
    expect: Literal["differ", "agree"] = "differ"
    coefficient: Literal["kendall", "spearman"] = "kendall"
    margin: Annotated[Number, Field(ge=-1, le=1)] = 0.5


OfRows = Difference | Equivalence | Strongest | Convergence
Claim = OfRows | Similarity | Rank
KINDS: dict[str, type[Claim]] = {
    "difference": Difference,
    "equivalence": Equivalence,
    "strongest": Strongest,
    "convergence": Convergence,
    "similarity": Similarity,
    "rank": Rank,
}


def parse_claims(entries: Iterable[Mapping[str, Any]]) -> list[Claim]:
    """The claims of a checked grid, or of a stored plan."""
    return [KINDS[entry["test"]].model_validate(dict(entry)) for entry in entries]


def looks_faults(source: Source) -> Iterator[GridError]:
    """What is wrong with `seeds:` where they come in by looks."""
    stated = source.values.get("seeds")
    if not isinstance(stated, Mapping):
        return
    yield from model_faults(SeedLooks, stated, source, ("seeds",))
    where = f"{source.place(('seeds',))}: seeds"
    if not source.values.get("claims"):
        yield GridError(f"{where}: looks go on until claims are decided; add `claims:`, or list the seeds")
    if source.values.get("analyses"):
        yield GridError(f"{where}: looks do not go with `analyses:`, which draw from all cells; list the seeds")


def claim_faults(grid: Grid, source: Source) -> Iterator[GridError]:
    """What is wrong with the claims of a grid: their shape, ids that stand twice, and names that select nothing.

    Names are not checked where `--set` changes rows, columns, network or table: then a claim may lose what it is about,
    and its result says so.
    """
    first: dict[str, int] = {}
    changed = any(source.place((key,)).startswith("--set") for key in ("rows", "columns", "network", "table"))
    for number, entry in enumerate(grid.claims):
        path: Path_ = ("claims", number)
        test = entry.get("test")
        if not isinstance(test, str) or test not in KINDS:
            place = source.place((*path, "test"))
            yield GridError(f"{place}: claims.{number}.test: no test {test!r}; {near(str(test), KINDS)}")
            return
        faults = list(model_faults(KINDS[test], entry, source, path))
        yield from faults
        if faults:
            return
        claim = KINDS[test].model_validate(entry)
        if (before := first.setdefault(claim.id, number)) < number:
            place = source.place((*path, "id"))
            yield GridError(f"{place}: claims.{before} and claims.{number} have the same id {claim.id!r}; change one")
        for below, what in () if changed else _strangers(claim, grid, source):
            where = (*path, *below)
            yield GridError(f"{source.place(where)}: {'.'.join(map(str, where))}: {what}")


def fits(selection: Rows | Columns, axes: Mapping[str, Any]) -> bool:
    """Whether a row, column or cell with these axes is selected; an axis that it does not state fits."""
    wanted = {axis: values for axis, values in selection if values is not None}
    return all(_has(values, axes[axis]) for axis, values in wanted.items() if axis in axes)


def _has(values: Sequence[Any], value: Any) -> bool:
    if isinstance(value, float):
        return any(abs(value - v) < 1e-9 for v in values)
    return value in values


def _strangers(claim: Claim, grid: Grid, source: Source) -> Iterator[tuple[Path_, str]]:
    """Place and message of each value that selects nothing. Names of an analysis are checked where it is read."""
    if isinstance(claim, Similarity):
        return
    there = {path.stem: path for path in GRIDS.glob("*.yaml")}
    lost = [name for name in claim.beside if name not in there]
    if lost:
        yield ("beside",), f"no built-in grid {lost[0]!r}; {near(lost[0], there)}"
        return
    drawn = [name for name in _drawn_from(grid.analyses) if name in there]  # a figure's cells are those of other grids
    grids = [grid, *(_read(there[name]) for name in dict.fromkeys((*claim.beside, *drawn)))]
    if not any(g.rows for g in grids):
        return
    for key, selection in (("rows", claim.rows), ("against", claim.against), ("over", claim.over)):
        for axis, values in selection:
            known = _values(grids, axis)
            for value in values or []:
                if not _has(known, value):
                    yield (key, axis), f"the grid has no such {axis}: {value!r}; {near(str(value), map(str, known))}"
    if isinstance(claim, Strongest) and claim.along == "dataset" and claim.at not in _values(grids, "dataset"):
        yield ("at",), f"the grid has no such dataset: {claim.at!r}; {near(claim.at, _values(grids, 'dataset'))}"
    for key, rows in (("rows", claim.rows), ("against", claim.against)):
        if not any(fits(rows, axes) for axes in _row_axes(grids)):
            yield (key,), "no row of the grid has all of these"


def _drawn_from(entry: Any) -> Iterator[str]:
    """The grids that selections of cells name, anywhere below an analysis."""
    if isinstance(entry, Mapping):
        if isinstance(entry.get("grid"), str):
            yield entry["grid"]
        entry = list(entry.values())
    if isinstance(entry, list):
        for inner in entry:
            yield from _drawn_from(inner)


def _read(path: Path) -> Grid:
    values = read_yaml(path).values
    return Grid.model_validate({key: value for key, value in values.items() if key != "profiles"})


def _values(grids: Sequence[Grid], axis: str) -> list[Any]:
    if axis in ROW_AXES:
        found = [axes[axis] for axes in _row_axes(grids)]
    elif axis == "dataset":
        found = [column.dataset for grid in grids for column in grid.columns]
    elif axis == "fraction":
        found = [f for grid in grids for column in grid.columns for f in column.fractions or []]
    else:
        found = [metric for grid in grids for metric in grid.table.value]
    return list(dict.fromkeys(value for value in found if value is not None))


def _row_axes(grids: Sequence[Grid]) -> Iterator[dict[str, Any]]:
    """The axes of every row, once for each data set that its pretext may come from."""
    for grid in grids:
        for row in grid.rows:
            own: dict[str, Any] = {"scenario": row.scenario, "model": row.model, "pretext": row.pretext}
            own |= {"frozen": row.frozen or row.scenario == "probe", "network": network_of(grid, row)["name"]}
            sources = [row.pretext_data] if row.pretext_data else [column.pretext_data for column in grid.columns]
            for source in dict.fromkeys(sources if row.pretext else [None]):
                yield {**own, "pretext_data": source}
