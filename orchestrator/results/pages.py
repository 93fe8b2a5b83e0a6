"""What a format prints: a sheet of cells with its title, where it comes from, and what stands under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.results.layout import Sheet, arrange
from orchestrator.results.notes import notes
from orchestrator.results.table import Table


@dataclass(frozen=True)
class Page:
    """A printed table. `facts`: for a comment that travels with it; `caption`: what stands in each cell."""

    name: str
    title: str
    origin: str
    facts: Mapping[str, str]
    sheet: Sheet
    notes: tuple[str, ...]
    caption: str = ""


def as_page(shown: Table | Page) -> Page:
    """A table as its grid says, ready to be printed; a page as it is."""
    if isinstance(shown, Page):
        return shown
    plan, sheet = shown.plan, arrange(shown)
    seeds = sorted({group.n_asked for group in shown.groups if not group.constant and group.n_asked}) or [0]
    n = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    facts = {
        "grid": plan["grid"],
        "profile": plan["profile"],
        "plan": plan["plan"],
        "n": f"{n} (seeds asked for in a group)",
        "made by": plan.get("command") or "",
    }
    origin = f"Grid {plan['grid']}, profile {plan['profile']}, plan {plan['plan']}"
    what = "mean ± standard deviation" if any(group.std is not None for group in shown.groups) else "value"
    below = "; below it the published one, and ours minus published" if sheet.published else ""
    caption = f"In each cell our {what}{below}."
    title = str(plan.get("title") or plan["grid"])
    return Page(plan["grid"], title, origin, facts, sheet, tuple(notes(shown)), caption)
