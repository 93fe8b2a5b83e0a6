"""Several sets of results of one grid side by side: before and after, one cluster and another.

The first set is the base. Rows are matched by what they are (scenario, model, data set, fraction, metric, ...), cells
by their seed as well: the same subset and order, so that the luck of the draw cancels in their difference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator.plan.keys import meaning
from orchestrator.results import ResultsError
from orchestrator.results.collected import Collected
from orchestrator.results.references import SCALES
from orchestrator.results.statistics.estimates import Estimate, paired
from orchestrator.results.statistics.paired import holm
from orchestrator.results.table import IDENTITY, Group
from trainables.settings import as_now

PLACE = tuple(axis for axis in IDENTITY if axis != "n_train")  # sizes differ between profiles
MOST_REASONS = 5

Place = tuple[Any, ...]


@dataclass(frozen=True)
class Side:
    """One set of results: a letter, what it is called, and its groups by place."""

    letter: str
    name: str
    found: Collected
    groups: Mapping[Place, Group]


@dataclass(frozen=True)
class Change:
    """A row of one set against the same row of the base.

    estimate: this minus base over the shared seeds, in the table's unit; None where they share none. same: True where
    both sets hold the very same results (equal keys and values). p_holm: corrected over all rows of this set; None
    where nothing can be tested.
    """

    estimate: Estimate | None
    same: bool
    p_holm: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Sets of results, their places in the order of the base, and the changes of each further set by place."""

    sides: tuple[Side, ...]
    places: tuple[Place, ...]
    changes: tuple[Mapping[Place, Change], ...]
    warnings: tuple[str, ...]


def compare(sets: Sequence[Collected]) -> Comparison:
    """Compare every further set with the first.

    Raises:
        ResultsError: they are not of one grid, or their tables have another unit or metric.
    """
    for other in sets[1:]:
        _check(sets[0], other)
    names = _names(sets)
    sides = tuple(
        Side(chr(ord("A") + n), name, found, {_place(group.axes): group for group in found.table.groups})
        for n, (name, found) in enumerate(zip(names, sets, strict=True))
    )
    places = tuple(dict.fromkeys(place for side in sides for place in side.groups))
    values = [_values(side.found) for side in sides]
    changes = tuple(_changes(places, values[0], other) for other in values[1:])
    warnings = [text for side in sides[1:] for text in _warnings(sides[0], side)]
    for side, theirs in zip(sides[1:], values[1:], strict=True):
        warnings += _not_reproduced(f"{sides[0].letter} and {side.letter}", values[0], theirs)
    return Comparison(sides, places, changes, tuple(warnings))


def _check(base: Collected, other: Collected) -> None:
    for what in ("grid", "unit", "value"):
        one, two = (c.plan[what] if what == "grid" else c.plan["table"][what] for c in (base, other))
        if one != two:
            raise ResultsError(f"plans {base.plan['plan']} and {other.plan['plan']} differ in {what}: {one} and {two}")


def _place(axes: Mapping[str, Any]) -> Place:
    return tuple(axes[axis] for axis in PLACE)


def _names(sets: Sequence[Collected]) -> list[str]:
    """What tells the sets apart: store, profile and plan, as far as they differ."""
    stores = [PurePosixPath(c.store.uri.rstrip("/")).name or c.store.uri for c in sets]
    if len(set(stores)) < len({c.store.address for c in sets}):
        stores = [c.store.uri for c in sets]
    parts = [
        [f"store {store}" for store in stores],
        [f"profile {c.plan['profile']}" for c in sets],
        [f"plan {c.plan['plan']}" for c in sets],
    ]
    telling = [part for part in parts if len(set(part)) > 1]
    return [", ".join(texts) for texts in zip(*telling, strict=True)]


def _values(found: Collected) -> dict[Place, dict[int, tuple[str, float | None]]]:
    """Place -> seed -> key and value in the table's unit, of the table's metrics; constants have no seeds to pair."""
    scale = 10.0 ** SCALES.get(found.table.unit, 0)
    cells = found.cells[found.cells["metric"].isin(list(found.plan["table"]["value"]))]
    columns = [cells[name].tolist() for name in (*PLACE, "seed", "key", "value", "status")]
    values: dict[Place, dict[int, tuple[str, float | None]]] = {}
    for *place, seed, key, value, status in zip(*columns, strict=True):
        if status != "constant" and seed is not None:
            there = None if value is None or not math.isfinite(value) else scale * value
            values.setdefault(tuple(place), {})[seed] = (key, there)
    return values


def _changes(places: Sequence[Place], base: Mapping[Place, Any], other: Mapping[Place, Any]) -> dict[Place, Change]:
    found: dict[Place, Change] = {}
    for place in places:
        one, two = base.get(place, {}), other.get(place, {})
        shared = [(one[seed], two[seed]) for seed in sorted(one.keys() & two.keys())]
        both = [(a, b) for a, b in shared if a[1] is not None and b[1] is not None]
        same = bool(shared) and all(a == b for a, b in shared)
        found[place] = Change(paired(b[1] - a[1] for a, b in both), same)
    ps = [None if c.same or c.estimate is None else c.estimate.p_different() for c in found.values()]
    return {
        place: Change(change.estimate, change.same, p)
        for (place, change), p in zip(found.items(), holm(ps), strict=True)
    }


def _warnings(base: Side, side: Side) -> Iterator[str]:
    pair = f"{base.letter} and {side.letter}"
    one, two = base.found.plan, side.found.plan
    if one["profile"] != two["profile"]:
        yield f"{pair} are of profiles {one['profile']} and {two['profile']}: not the same experiment"
    only = [len(a.groups.keys() - b.groups.keys()) for a, b in ((base, side), (side, base))]
    if any(only):
        yield f"{only[0]} rows are in {base.letter} only, {only[1]} in {side.letter} only"
    ours, theirs = _keys(one), _keys(two)
    shared = [identity for identity in ours if identity in theirs]
    changed = [identity for identity in shared if ours[identity] != theirs[identity]]
    if changed:
        reasons = Counter(text for i in changed for text in _reasons(one, two, ours[i], theirs[i]))
        listed = "; ".join(f"{text} ({count} cells)" for text, count in reasons.most_common(MOST_REASONS))
        more = f"; {len(reasons) - MOST_REASONS} further differences" if len(reasons) > MOST_REASONS else ""
        yield (
            f"{len(changed)} of {len(shared)} cells of {pair} are different versions of the same cell: {listed}{more}"
        )
    elif shared:
        yield f"{pair} ask for the same {len(shared)} cells (equal keys)"


def _not_reproduced(pair: str, base: Mapping[Place, Any], other: Mapping[Place, Any]) -> Iterator[str]:
    """One sentence where equal keys have other values: the numbers depend on the machine, or on a library."""
    gaps = [
        abs(theirs[1] - ours[1])
        for place in base.keys() & other.keys()
        for seed, ours in base[place].items()
        if (theirs := other[place].get(seed)) and ours[0] == theirs[0] and None not in (ours[1], theirs[1])
    ]
    differing = [gap for gap in gaps if gap]
    if differing:
        yield (
            f"{len(differing)} of {len(gaps)} values of {pair} differ although their cells have equal keys, by at most "
            f"{max(differing):.3g}: other hardware, other versions of libraries, or other cells that were trained with "
            "them as one (backend.fused)"
        )


def _keys(plan: Mapping[str, Any]) -> dict[Place, str]:
    axes = tuple(axis for axis in PLACE if axis != "metric")
    return {
        (*(cell.get(axis) for axis in axes), cell.get("seed")): cell["key"] for cell in plan["cells"] if cell.get("key")
    }


def _reasons(one: Mapping[str, Any], two: Mapping[str, Any], key: str, other: str) -> Iterator[str]:
    """What makes two versions of a cell differ, as far as their plans tell."""
    a, b = (plan.get("stages", {}).get(k) for plan, k in ((one, key), (two, other)))
    if a is None or b is None:
        yield "unknown, their plans have no such stage"
        return
    told = list(_settings(as_now(meaning(a["spec"])), as_now(meaning(b["spec"]))))
    if a["fingerprint"] != b["fingerprint"]:
        told.append("other files of the data set")
    if not told and a["parents"] != b["parents"]:
        told = ["pretraining: " + reason for reason in _parents(one, two, a, b)]
    yield from told or ["another version of the stage's code"]


def _parents(
    one: Mapping[str, Any], two: Mapping[str, Any], a: Mapping[str, Any], b: Mapping[str, Any]
) -> Iterator[str]:
    for role in a["parents"].keys() & b["parents"].keys():
        if a["parents"][role] != b["parents"][role]:
            yield from _reasons(one, two, a["parents"][role], b["parents"][role])


def _settings(one: Any, two: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for name in sorted({*one, *two} - {"path"}):
            yield from _settings(one.get(name), two.get(name), f"{path}.{name}" if path else name)
    elif one != two:
        yield f"{path} {one} and {two}"
