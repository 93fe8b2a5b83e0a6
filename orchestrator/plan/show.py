"""A plan for people: what runs, what is reused, what is blocked, and what sharing saves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.plan.diff import Diff, State
from orchestrator.plan.words import counted

SHOWN = 30
WIDEST = 400
# What costs rest on, by the device that finished stages were timed on.
_BASIS = {
    None: "CPU core, as no stage was timed in this store yet",
    "cpu": "CPU core, by what finished stages took",
    "cuda": "GPU, by what finished stages took",
}


def print_plan(found: Diff, totals: Mapping[str, Any], console: Console) -> None:
    """Print stages by kind and state, the shared stages one by one, causes of blocking, faults, and the cost.

    `totals` is what `diff.summary` gives, with the `faults` and `notes` of the data.
    """
    console.print(f"profile {totals['profile']}: {counted(totals['cells'], 'cell')}", highlight=False)
    wide = type(console)(file=console.file, width=WIDEST)  # in a narrow window rich would cut numbers short
    wide.print(_by_kind(found))
    wide.print(_shared(found))
    for key in found.keys("failed"):
        say_failed = f"failed in an earlier run: {found.stages[key].name} ({key}): {found.reasons[key]}"
        console.print(say_failed, markup=False, highlight=False, soft_wrap=True)
    causes = Counter(found.reasons[key] for key in found.keys("blocked"))
    for reason, count in causes.most_common(SHOWN):
        console.print(f"blocked ({counted(count, 'stage')}): {reason}", markup=False, highlight=False, soft_wrap=True)
    if any(found.stages[key].provisional for key in found.keys("blocked")):
        console.print("keys of blocked stages are provisional: they change with what blocks them", highlight=False)
    for kind in ("faults", "notes"):
        for text in totals[kind]:
            console.print(f"{kind[:-1]}: {text}", markup=False, highlight=False, soft_wrap=True)
    console.print(_estimate(totals), highlight=False, soft_wrap=True)
    waiting = [*found.keys("to_run"), *found.keys("deferred")]
    if trials := sum(found.stages[key].kind == "trial" for key in waiting):
        console.print(
            f"that counts {counted(trials, 'trial')} at full length; shorter ones, those given up early, and steps that"
            " trials share take less",
            highlight=False,
            soft_wrap=True,
        )
    if forecast := totals.get("forecast"):
        console.print(
            f"on {counted(forecast['devices'], 'device')}: {_hours(forecast['makespan_seconds'])}, at least "
            f"{_hours(forecast['lower_bound_seconds'])} whatever the order; devices busy {forecast['utilisation']:.0%}",
            highlight=False,
            soft_wrap=True,
        )


def _estimate(totals: Mapping[str, Any]) -> str:
    """What the stages to run cost, beside what they would cost without sharing.

    That other sum is of all cells, so that where some stages are not in the first the two have no ratio.
    """
    ours, naive = totals["estimated_device_seconds"], totals["naive_device_seconds"]
    blocked = f" ({counted(totals['blocked'], 'stage')} blocked, not counted)" if totals["blocked"] else ""
    text = f"estimated time on one {_BASIS[totals['timed_on']]}: {_hours(ours)}{blocked}"
    if not totals["cells"]:
        return text
    text += f"; if every cell pretrained for itself ({counted(totals['naive_pretrain_stages'], 'pretrain stage')})"
    comparable = 0 < ours < naive and not totals["reused"] and not totals["blocked"]
    return f"{text}: {_hours(naive)}" + (f", {naive / ours:.1f} times as much" if comparable else "")


def _by_kind(found: Diff) -> Table:
    table = Table(box=None)
    states: tuple[State, ...] = ("to_run", "reused", "deferred", "failed", "blocked", "unneeded")
    table.add_column("stages")
    for state in states:
        table.add_column(state.replace("_", " "), justify="right")
    for kind in dict.fromkeys(stage.kind for stage in found.stages.values()):
        count = Counter(found.states[key] for key, stage in found.stages.items() if stage.kind == kind)
        table.add_row(kind, *(str(count[state]) for state in states))
    return table


def _shared(found: Diff) -> Table:
    """The stages that others build on; cells that figures draw aside."""
    children = Counter(parent for stage in found.stages.values() for parent in stage.parents.values())
    table = Table(box=None)
    for name in ("shared stage", "key", "feeds", "state", "cost"):
        table.add_column(name, justify="right" if name in ("feeds", "cost") else "left", no_wrap=True, overflow="fold")
    shared = [key for key in children if found.stages[key].kind not in ("finetune", "probe")]
    for key in shared[:SHOWN]:
        stage, count = found.stages[key], children[key]
        shown_key = key + (" (provisional)" if stage.provisional else "")
        table.add_row(f"{stage.kind} {stage.name}", shown_key, str(count), found.states[key], _hours(stage.cost))
    return table


def _hours(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
