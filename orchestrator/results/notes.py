"""What stands under a table: what the numbers are, and everything that keeps them from being the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.results.labels import DATASETS, METRICS, PSEUDO_COLOURS
from orchestrator.results.layout import CONSTANT_MARK
from orchestrator.results.table import Table

MOST_CAUSES, LONGEST_CAUSE = 3, 200


def notes(table: Table) -> list[str]:
    """The footnotes of a table, in plain text."""
    return [*_meaning(table), *_gaps(table), *departures(table), *_given(table)]


def _meaning(table: Table) -> Iterator[str]:
    metrics = ", ".join(METRICS.get(metric, metric) for metric in table.plan["table"]["value"])
    unit = {"percent": "in percent", "fraction": "as fractions"}.get(table.unit, table.unit)
    seeds = sorted({group.n_asked for group in table.groups if not group.constant and group.n_asked})
    if seeds and seeds[-1] > 1:
        n = f"n = {seeds[-1]}" if len(seeds) == 1 else f"n = {seeds[0]} to {seeds[-1]}"
        yield f"{metrics} {unit}; mean ± sample standard deviation (ddof = 1) over seeds, {n}."
    else:
        yield f"{metrics} {unit}; one seed each, no standard deviation."
    better = "highest" if table.higher_is_better else "lowest"
    yield f"Bold: {better} of its column at the printed precision."
    if any(group.reference for group in table.groups):
        yield "Published: the values as the paper prints them; ours have its decimals where it has more."
    if any(group.constant for group in table.groups):
        yield f"{CONSTANT_MARK} taken from the literature, not run."


def _gaps(table: Table) -> Iterator[str]:
    groups = [group for group in table.groups if not group.constant]
    incomplete = sum(group.state == "incomplete" for group in groups)
    if incomplete:
        yield (
            f"(k/n): mean over the k of n seeds that have a value, no others counted; "
            f"{incomplete} of {len(groups)} groups are incomplete."
        )
    asked = sum(group.n_asked for group in groups)
    counts = {
        "failed": sum(group.failed for group in groups),
        "blocked": sum(group.blocked for group in groups),
        "missing (—)": sum(group.missing for group in groups),
    }
    if any(counts.values()):
        listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        yield f"{sum(counts.values())} of {asked} values are not there: {listed}."
    for cause in table.causes[:MOST_CAUSES]:
        yield f"{cause.status.capitalize()} ({cause.count}): {_short(cause.error) or 'no error was recorded'}"
    if len(table.causes) > MOST_CAUSES:
        yield f"{len(table.causes) - MOST_CAUSES} further causes stand in cells.csv."


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_CAUSE else text[: LONGEST_CAUSE - 1].rstrip() + "…"


def departures(table: Table) -> Iterator[str]:
    """What keeps the numbers from being the paper's: profile, settings by hand, stand-ins."""
    plan = table.plan
    if plan["profile"] != "paper":
        yield f"{plan['profile']} profile: sizes and budgets are not the paper's; rankings at this size prove nothing."
    if plan.get("overrides"):
        yield f"Settings changed by hand: {', '.join(plan['overrides'])}."
    if plan.get("only"):
        yield f"Restricted to {', '.join(map(str, plan['only']))}."
    for used, asked in _served_by(plan.get("stand_ins") or {}).items():
        what = "Not the paper's colours" if used == PSEUDO_COLOURS else "Stand-in data"
        yield f"{what}: {DATASETS.get(used, used)} in place of {', '.join(asked)}."


def _served_by(stand_ins: Mapping[str, str]) -> dict[str, list[str]]:
    """The data sets that each stand-in serves for."""
    served: dict[str, list[str]] = {}
    for asked, used in stand_ins.items():
        if asked != used:
            served.setdefault(used, []).append("every data set" if asked == "*" else DATASETS.get(asked, asked))
    return served


def _given(table: Table) -> Iterator[str]:
    yield from map(str, table.plan.get("footnotes") or [])
