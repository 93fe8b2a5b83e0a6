"""The one table model: cells grouped over their seeds, with mean, std, counts and the published value beside.

Every rendering, table.csv included, shows this model and computes no number of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from orchestrator.results import ResultsError
from orchestrator.results.cells import stand_ins_of
from orchestrator.results.references import SCALES, Reference, match

IDENTITY = (
    "scenario", "frozen", "model", "pretext", "pretext_data", "network", "dataset", "fraction", "n_train", "metric",
)  # fmt: skip
COLUMN_AXES = ("metric", "dataset", "fraction", "n_train")
ROW_AXES = ("scenario", "model", "pretext_data", "network", "frozen", "pretext")
NOISE = 10  # decimals kept; what lies below is rounding of the sums, not a result


@dataclass(frozen=True)
class Group:
    """All seeds of one place of the table. Mean, std and reference are in the table's unit."""

    axes: Mapping[str, Any]
    unit: str
    mean: float | None = None  # over the seeds that have a value; None: none has
    std: float | None = None  # sample standard deviation (ddof=1); None below two values
    n: int = 0
    n_asked: int = 0
    failed: int = 0
    blocked: int = 0
    missing: int = 0
    constant: bool = False
    stand_ins: str = ""
    reference: Reference | None = None

    @property
    def difference(self) -> float | None:
        """Our mean minus the published one; None where one of the two is not there."""
        return None if self.mean is None or self.reference is None else self.mean - float(self.reference.mean)

    @property
    def state(self) -> str:
        """complete | incomplete | constant | failed | blocked | missing | absent (never asked for, only published)."""
        if self.constant:
            return "constant"
        if self.n:
            return "complete" if self.n == self.n_asked else "incomplete"
        counts = {"failed": self.failed, "blocked": self.blocked, "missing": self.missing}
        return next((state for state, count in counts.items() if count), "absent")


@dataclass(frozen=True)
class Cause:
    """Why values are not there: `status` failed or blocked, the error in one line, and how many values it costs."""

    status: str
    error: str
    count: int


@dataclass(frozen=True)
class Table:
    """A table of a plan: its groups in the order of the grid, how they are laid out, and what keeps values from it."""

    plan: Mapping[str, Any]
    index: tuple[str, ...]
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    warnings: tuple[str, ...]
    causes: tuple[Cause, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Groups by their state, constants and what is only published left out."""
        states = [group.state for group in self.groups]
        return {state: states.count(state) for state in ("complete", "incomplete", "failed", "blocked", "missing")}

    @property
    def unit(self) -> str:
        return str(self.plan["table"]["unit"])

    @property
    def decimals(self) -> int:
        return int(self.plan["table"]["decimals"])

    @property
    def higher_is_better(self) -> bool:
        return bool(self.plan["table"].get("higher_is_better", True))


def summarise(plan: Mapping[str, Any], cells: pd.DataFrame, references: Sequence[Reference] = ()) -> Table:
    """Group tidy rows over seeds and set the published values beside them.

    Args:
        plan: the resolved plan that `cells` were read for.
        cells: rows as `cells.tidy` gives them.
        references: published values of this table.

    Raises:
        ResultsError: two rows of the grid look the same, so that their seeds cannot be told apart.
    """
    layout = plan["table"]
    asked = cells[cells["metric"].isin(list(layout["value"]))]
    groups, warnings = _with_references(plan, _groups(plan, asked), references)
    index, columns, widened = separating(tuple(layout["index"]), tuple(layout["columns"]), groups)
    if widened:
        warnings.append(
            f"grid {plan['grid']}: the layout puts several groups in one place; "
            f"added {', '.join(widened)} to keep them apart"
        )
    return Table(plan, index, columns, tuple(groups), tuple(warnings), _causes(asked))


def _causes(asked: pd.DataFrame) -> tuple[Cause, ...]:
    """The errors of failed and blocked values, the most frequent first."""
    gone = asked[asked["status"].isin(("failed", "blocked"))]
    counted = Counter(zip(gone["status"], gone["error"], strict=True))
    return tuple(Cause(status, error, count) for (status, error), count in counted.most_common())


def _groups(plan: Mapping[str, Any], asked: pd.DataFrame) -> list[Group]:
    if asked.empty:
        return []
    identities = list(zip(*(asked[axis] for axis in IDENTITY), strict=True))
    number = {identity: n for n, identity in enumerate(dict.fromkeys(identities))}
    codes = pd.Series([number[identity] for identity in identities], index=asked.index)
    _check_distinct(plan, identities, asked["seed"])

    scale = 10.0 ** SCALES.get(plan["table"]["unit"], 0)
    stats = (asked["value"] * scale).groupby(codes).agg(["mean", "std", "count", "size"]).round(NOISE)
    states = ("failed", "blocked", "missing", "constant")
    status = {state: (asked["status"] == state).groupby(codes).sum() for state in states}
    columns = (stats["mean"], stats["std"], stats["count"], stats["size"], *status.values())
    stand_ins = plan.get("stand_ins") or {}
    groups = []
    for identity, row in zip(number, zip(*(column.tolist() for column in columns), strict=True), strict=True):
        mean, std, n, n_asked, failed, blocked, missing, constant = row
        axes = dict(zip(IDENTITY, identity, strict=True))
        groups.append(
            Group(
                axes=axes,
                unit=str(plan["table"]["unit"]),
                mean=mean if n else None,
                std=std if n > 1 else None,
                n=int(n),
                n_asked=int(n_asked),
                failed=int(failed),
                blocked=int(blocked),
                missing=int(missing),
                constant=bool(constant),
                stand_ins="" if constant else stand_ins_of(axes, stand_ins),
            )
        )
    return groups


def _check_distinct(plan: Mapping[str, Any], identities: Sequence[tuple[Any, ...]], seeds: pd.Series) -> None:
    seen = set()
    for identity, seed in zip(identities, seeds, strict=True):
        if (identity, seed) in seen:
            named = zip(IDENTITY, identity, strict=True)
            axes = ", ".join(f"{axis}={value}" for axis, value in named if value is not None)
            raise ResultsError(
                f"grid {plan['grid']}: two rows look the same ({axes}, seed={seed}); give them different model names"
            )
        seen.add((identity, seed))


def _with_references(
    plan: Mapping[str, Any], groups: list[Group], references: Sequence[Reference]
) -> tuple[list[Group], list[str]]:
    wanted = [r.within(plan["table"]["unit"]) for r in references if r.axes.get("metric") in plan["table"]["value"]]
    if not groups:
        return [_published_only(reference) for reference in wanted], []
    found, warnings = match([group.axes for group in groups], wanted)
    if plan.get("only") or plan.get("references") != plan["grid"]:  # a part of the published table, as asked
        warnings = [warning for warning in warnings if "without a group" not in warning]
    return [replace(group, reference=r) for group, r in zip(groups, found, strict=True)], warnings


def _published_only(reference: Reference) -> Group:
    axes = {axis: reference.axes.get(axis) for axis in IDENTITY}
    return Group(axes, reference.unit, reference=reference)


def separating(
    index: tuple[str, ...], columns: tuple[str, ...], groups: Sequence[Group]
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Index and columns, with an axis added wherever the asked ones put two groups in one place."""
    added: list[str] = []
    for axis in (*COLUMN_AXES, *ROW_AXES):
        if axis in index + columns or not _splits(axis, index + columns, groups):
            continue
        index, columns = (index, (*columns, axis)) if axis in COLUMN_AXES else ((*index, axis), columns)
        added.append(axis)
    return index, columns, added


def _splits(axis: str, layout: tuple[str, ...], groups: Sequence[Group]) -> bool:
    """Whether some place of the layout holds groups that differ in `axis`."""
    first: dict[tuple[Any, ...], Any] = {}
    return any(
        first.setdefault(tuple(group.axes[a] for a in layout), group.axes[axis]) != group.axes[axis] for group in groups
    )
