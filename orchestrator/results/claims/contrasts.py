"""A claim about rows as weighted sums of groups: one contrast for each of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.grid.claims import Columns, Convergence, OfRows, Rank, Rows, Strongest, fits
from orchestrator.results import ResultsError
from orchestrator.results.claims.facts import Group
from orchestrator.results.labels import value_label
from orchestrator.results.statistics.estimates import Estimate, from_summaries, paired

Column = tuple[Any, ...]  # data set, fraction, metric
Pairs = dict[str, dict[Column, tuple[Group, Group]]]
MINUS = " − "


class NotTestable(ResultsError):
    """Why a claim cannot be tested on what there is."""


@dataclass(frozen=True)
class Contrast:
    """One part of a claim: a sum of weight x group, in words in `label`."""

    label: str
    terms: tuple[tuple[float, Group], ...]

    def series(self) -> list[float | None]:
        """The sum for each seed, in the order of the seeds; None where a group has no value of that seed."""
        return [self._at(seed) for seed in sorted({seed for _, group in self.terms for seed in group.values})]

    def ended(self) -> list[float | None]:
        """As `series`, up to the first seed whose cell has not ended in some group that asks for it."""
        pending = {seed for _, group in self.terms for seed in group.pending}
        before = min(pending, default=None)
        asked = sorted({seed for _, group in self.terms for seed in group.values})
        return [self._at(seed) for seed in asked if before is None or seed < before]

    def estimate(self) -> Estimate | None:
        """Paired over the seeds, or from what is printed; None where no seed has a value in all groups."""
        if any(group.printed is not None for _, group in self.terms):
            return from_summaries([group.term(weight) for weight, group in self.terms])
        return paired(self.series())

    def _at(self, seed: int) -> float | None:
        total = 0.0
        for weight, group in self.terms:
            value = group.constant if group.constant is not None else group.values.get(seed)
            if value is None:
                return None
            total += weight * value
        return total


def contrasts(claim: OfRows, groups: Sequence[Group], metric: str, higher_is_better: bool = True) -> list[Contrast]:
    """The parts of a claim; each effect is positive where the claim's rows are the better ones.

    Raises:
        NotTestable: the groups hold no pair of rows, or only one fraction where several are compared.
    """
    pairs = pair_up(claim.rows, claim.against, claim.match, chosen(claim.over, groups, metric))
    if not pairs:
        raise NotTestable("no two rows of these are both there")
    sign = -1.0 if isinstance(claim, Convergence) or not higher_is_better else 1.0
    if isinstance(claim, Strongest):
        return _leads(claim, pairs, sign)
    return [
        Contrast(label, _weights([(sign, pair) for pair in members], len(members)))
        for label, members in _parts(pairs, claim.each).items()
    ]


def chosen(over: Columns, groups: Sequence[Group], metric: str) -> list[Group]:
    """The groups in the columns of a claim; of the first metric unless it says otherwise."""
    wanted = over if over.metric is not None else over.model_copy(update={"metric": [metric]})
    return [group for group in groups if fits(wanted, group.axes)]


def pair_up(rows: Rows, against: Rows, match: Sequence[str], groups: Sequence[Group]) -> Pairs:
    """Every row of the one selection with every row of the other, in the columns that both have."""
    columns: dict[Column, list[Group]] = {}
    for group in groups:
        columns.setdefault(_column(group), []).append(group)
    named = _names([group for group in groups if fits(rows, group.axes) or fits(against, group.axes)])
    found: Pairs = {}
    for column, members in columns.items():
        for one in (group for group in members if fits(rows, group.axes)):
            for other in (group for group in members if fits(against, group.axes) and group is not one):
                if all(one.axes.get(axis) == other.axes.get(axis) for axis in match):
                    label = f"{named[id(one)]}{MINUS}{named[id(other)]}"
                    found.setdefault(label, {})[column] = (one, other)
    return found


def ranked(claim: Rank, groups: Sequence[Group], metric: str) -> dict[str, list[tuple[str, Group, Group]]]:
    """For each column the rows that both settings have, with their group in the one and in the other.

    Raises:
        NotTestable: no column has two rows in both settings.
    """
    found: dict[str, list[tuple[str, Group, Group]]] = {}
    members = chosen(claim.over, groups, metric)
    for label, columns in pair_up(claim.rows, claim.against, claim.match, members).items():
        for column, (one, other) in columns.items():
            found.setdefault(column_label(column), []).append((label.split(MINUS)[0], one, other))
    enough = {column: rows for column, rows in found.items() if len(rows) > 1}
    if not enough:
        raise NotTestable("no column has two rows in both settings")
    return enough


def column_label(column: Column) -> str:
    """`Oxford Pets, 5 %`."""
    dataset, fraction, metric = column
    words = [value_label("dataset", dataset), value_label("fraction", fraction) if fraction is not None else ""]
    return ", ".join(word for word in (*words, value_label("metric", metric)) if word)


def _column(group: Group) -> Column:
    return group.axes.get("dataset"), group.axes.get("fraction"), group.axes.get("metric")


def _parts(pairs: Pairs, each: Sequence[str]) -> dict[str, list[tuple[Group, Group]]]:
    """Pairs of groups by the part of the claim that they belong to; parts not kept apart are averaged."""
    parts: dict[str, list[tuple[Group, Group]]] = {}
    columns = {column for members in pairs.values() for column in members}
    for label, members in pairs.items():
        for column, pair in members.items():
            apart = [label] if "pair" in each or len(pairs) == 1 else []
            apart += [column_label(column)] if "column" in each or len(columns) == 1 else []
            parts.setdefault("; ".join(apart) or f"mean of {len(pairs)} pairs", []).append(pair)
    return parts


def _weights(signed: Sequence[tuple[float, tuple[Group, Group]]], count: int) -> tuple[tuple[float, Group], ...]:
    """A sum of signed differences over `count` as one weight for each group; a group that cancels has none."""
    weights: dict[int, tuple[float, Group]] = {}
    for sign, (one, other) in signed:
        for weight, group in ((sign / count, one), (-sign / count, other)):
            weights[id(group)] = (weights.get(id(group), (0.0, group))[0] + weight, group)
    return tuple((weight, group) for weight, group in weights.values() if weight)


def _leads(claim: Strongest, pairs: Pairs, sign: float) -> list[Contrast]:
    """The lead at one place less the lead at each other, within each pair and line of places; then their mean."""
    axis = 1 if claim.along == "fraction" else 0
    parts: dict[str, list[tuple[tuple[Group, Group], tuple[Group, Group]]]] = {}
    for label, members in pairs.items():
        lines: dict[Column, dict[Any, tuple[Group, Group]]] = {}
        for column, pair in members.items():
            if column[axis] is not None:
                lines.setdefault((*column[:axis], None, *column[axis + 1 :]), {})[column[axis]] = pair
        for rest, line in lines.items():
            at = {"smallest": min, "largest": max}.get(claim.at, lambda _: claim.at)(line)
            for place in sorted(set(line) - {at}) if at in line else ():
                apart = [label] if "pair" in claim.each and len(pairs) > 1 else []
                apart += [column_label(rest)] if "column" in claim.each and len(lines) > 1 else []
                apart += [MINUS.join(f"lead at {value_label(claim.along, value)}" for value in (at, place))]
                parts.setdefault("; ".join(apart), []).append((line[at], line[place]))
    if not parts:
        raise NotTestable(f"the rows have one {claim.along} only")
    return [
        Contrast(label, _weights([entry for at, other in leads for entry in ((sign, at), (-sign, other))], len(leads)))
        for label, leads in parts.items()
    ]


def _names(groups: Sequence[Group]) -> dict[int, str]:
    """`ConRec [seg-enc]`: the model, and what tells rows of one column apart that have the same name without it."""
    axes: list[str] = []
    for axis in ("scenario", "network", "pretext_data", "frozen"):
        if _told_apart(groups, axes) < _told_apart(groups, [*axes, axis]):
            axes.append(axis)
    names = {}
    for group in groups:
        stated = [(axis, group.axes[axis]) for axis in axes if group.axes.get(axis) not in (None, "")]
        told = [str(value) if axis == "scenario" else value_label(axis, value) for axis, value in stated]
        names[id(group)] = f"{group.axes.get('model')} [{', '.join(told)}]" if told else str(group.axes.get("model"))
    return names


def _told_apart(groups: Sequence[Group], axes: Sequence[str]) -> int:
    return len(
        {(_column(group), group.axes.get("model"), *(group.axes.get(axis) for axis in axes)) for group in groups}
    )
