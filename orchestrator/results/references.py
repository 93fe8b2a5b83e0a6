"""Published values beside ours: `search_spaces/references/<table>.csv`, in our ids and in the unit as printed.

An empty field of a reference says nothing and fits every group; but where a scenario is named and no fraction, all
images are meant. Numbers are kept as the paper prints them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from orchestrator.results import ResultsError

COLUMNS = (
    "scenario", "frozen", "model", "pretext_data", "network", "dataset", "fraction", "n_train", "metric",
    "unit", "mean", "std", "note",
)  # fmt: skip
MATCHED = ("scenario", "frozen", "model", "pretext_data", "network", "dataset", "metric")  # and `fraction`
FOLDER = Path(__file__).resolve().parents[2] / "search_spaces" / "references"
SCALES = {"fraction": 0, "percent": 2}  # powers of ten from the fraction

Axes = Mapping[str, Any]


@dataclass(frozen=True)
class Reference:
    """One published value. `std` is None where none is printed; `axes` holds only the fields that say something."""

    axes: Axes
    unit: str
    mean: Decimal
    std: Decimal | None
    note: str

    def within(self, unit: str) -> Reference:
        """The same value in another unit, digits kept: 0.7896 becomes 78.96."""
        shift = SCALES.get(unit, 0) - SCALES.get(self.unit, 0)
        if shift == 0 or unit not in SCALES or self.unit not in SCALES:
            return self
        std = None if self.std is None else self.std.scaleb(shift)
        return Reference(self.axes, unit, self.mean.scaleb(shift), std, self.note)

    def __str__(self) -> str:
        return ", ".join(f"{axis}={value}" for axis, value in self.axes.items())


def load(name: str) -> list[Reference]:
    """The published values of a built-in table, or of a CSV file given by its path.

    Raises:
        ResultsError: no such file, or a row that is not as `COLUMNS` says.
    """
    source = _source(name)
    try:
        with source.open(encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ResultsError(f"{source}: expected the columns {','.join(COLUMNS)}, but got {reader.fieldnames}")
            return [_parse(row, f"{source}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise ResultsError(f"{source}: cannot be read as a CSV file of published values: {error}") from error


def match(groups: Sequence[Axes], references: Sequence[Reference]) -> tuple[list[Reference | None], list[str]]:
    """The published value of each group, and one sentence for each reference or group that does not fit.

    A group that two references fit gets neither.
    """
    warnings: list[str] = []
    fitting: list[list[Reference]] = [[] for _ in groups]
    for reference in references:
        candidates = [n for n, group in enumerate(groups) if _fits(reference, group)]
        if not candidates:
            warnings.append(f"published value without a group in the grid: {reference}")
        for n in candidates:
            fitting[n].append(reference)
    found: list[Reference | None] = []
    for several in fitting:
        if len(several) > 1:
            warnings.append(f"{len(several)} published values fit one group and none is shown: {several[0]}")
        found.append(several[0] if len(several) == 1 else None)
    return found, warnings


def _fits(reference: Reference, group: Axes) -> bool:
    said = reference.axes
    if "scenario" in said and "fraction" not in said and group.get("fraction") not in (None, 1):
        return False
    return all(_same(said[axis], group.get(axis)) for axis in (*MATCHED, "fraction") if axis in said)


def _same(published: Any, ours: Any) -> bool:
    if isinstance(published, float):
        return ours is not None and abs(published - float(ours)) < 1e-9
    return bool(published == ours)


def _source(name: str) -> Path:
    if name.endswith(".csv"):
        if Path(name).is_file():
            return Path(name)
        raise ResultsError(f"published values {name}: no such file")
    source = FOLDER / f"{name}.csv"
    if not source.is_file():
        there = ", ".join(sorted(path.stem for path in FOLDER.glob("*.csv")))
        raise ResultsError(f"no published values named {name!r}; there are {there}, or give the path of a CSV file")
    return source


def _parse(row: Mapping[str, str | None], where: str) -> Reference:
    if None in row or None in row.values():
        raise ResultsError(f"{where}: expected {len(COLUMNS)} fields")
    text = {column: (row[column] or "").strip() for column in COLUMNS}
    try:
        axes = {axis: _axis(axis, text[axis]) for axis in COLUMNS[:9] if text[axis]}
        std = Decimal(text["std"]) if text["std"] else None
        return Reference(axes, text["unit"], Decimal(text["mean"]), std, text["note"])
    except (ValueError, KeyError, InvalidOperation) as error:
        raise ResultsError(f"{where}: {dict(text)} holds a value that is no number or no true/false") from error


def _axis(axis: str, text: str) -> Any:
    if axis == "frozen":
        return {"true": True, "false": False}[text]
    if axis == "fraction":
        return float(text)
    return int(text) if axis == "n_train" else text
