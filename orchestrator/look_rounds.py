"""Seeds by looks: which cells of a plan are released, and what is released after the claims have been looked at.

A plan is made with the seeds of the last look. Each place of the table (row, data set, fraction) starts with those of
the first one and gets those of the next look while a claim about it is open. Nothing is kept beside the store: the same
command finds its look again from the finished cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.grid.load import Request
from orchestrator.plan.build import Plans, plan_record
from orchestrator.plan.stages import Cell, Plan
from orchestrator.record.store import Store

if TYPE_CHECKING:
    from orchestrator.execute.driver import Report
    from orchestrator.plan.diff import Diff

Place = tuple[Any, ...]
AXES = ("scenario", "frozen", "model", "pretext", "pretext_data", "network", "dataset", "fraction")


@dataclass
class GridLooks:
    """One grid whose seeds come in by looks. `counts`: released seeds of the places beyond the first look."""

    request: Request
    counts: dict[Place, int] = field(default_factory=dict)
    decided: int = 0
    claims: int = 0
    released: int = 0
    most: int = 0

    @property
    def sizes(self) -> Sequence[int]:
        """Seeds at each look."""
        looks = self.request.grid.looks
        return looks.looks if looks else ()

    def record(self) -> dict[str, Any]:
        """What has been spent and what is left, as JSON values."""
        counts = {name: getattr(self, name) for name in ("released", "most", "claims", "decided")}
        return {"grid": self.request.grid.grid, "sizes": list(self.sizes), **counts, "saved": self.most - self.released}

    def line(self) -> str:
        """The same for people."""
        return (
            f"seeds of {self.request.grid.grid}: {self.released} of at most {self.most} runs released by looks at "
            f"{', '.join(map(str, self.sizes))} seeds, {self.most - self.released} saved so far; "
            f"{self.decided} of {self.claims} claims decided"
        )


class Rounds:
    """The looks of all grids of one command; grids with listed seeds are left as they are."""

    def __init__(self, requests: Sequence[Request], store: Store) -> None:
        self._store = store
        by_looks = [request for request in requests if request.grid.looks is not None]
        self._grids = {r.grid.grid: GridLooks(r, claims=len(r.grid.claims)) for r in by_looks}

    def __bool__(self) -> bool:
        return bool(self._grids)

    def record(self) -> list[dict[str, Any]]:
        """Each grid's looks as JSON values."""
        return [looks.record() for looks in self._grids.values()]

    def lines(self) -> Iterator[str]:
        """Each grid's looks for people."""
        yield from (looks.line() for looks in self._grids.values())

    def released(self, plans: Plans) -> Plans:
        """The plans with the cells that are released."""
        return replace(plans, plans=tuple(self._part(plan) for plan in plans.plans))

    def advance(self, plans: Plans) -> bool:
        """Look at the claims of released plans whose cells have ended. False: nothing more is released by that."""
        found = [self._look(self._grids[plan.grid], plan) for plan in plans.plans if plan.grid in self._grids]
        return any(found)

    def until_something_to_do(self, plans: Plans, compare: Callable[[Plans], Diff]) -> tuple[Plans, Diff]:
        """Take all looks whose cells have ended: the released plans, and what they have to do.

        Args:
            plans: with the cells of all seeds.
        """
        while True:
            part = self.released(plans)
            found = compare(part)
            if not self._grids or found.planned or not self.advance(part):
                return part, found

    def _part(self, plan: Plan) -> Plan:
        looks = self._grids.get(plan.grid)
        if looks is None:
            return plan
        kept, later = _split(plan.cells, lambda place: looks.counts.get(place, looks.sizes[0]))
        looks.released, looks.most = len(kept), len(kept) + len(later)
        gone = {cell.key for cell in later} - {cell.key for cell in kept}
        constants = [cell for cell in plan.cells if cell.constant is not None]
        order = {id(cell): n for n, cell in enumerate(plan.cells)}
        cells = tuple(sorted([*kept, *constants], key=lambda cell: order[id(cell)]))
        return replace(plan, cells=cells, stages={k: s for k, s in plan.stages.items() if k not in gone})

    def _look(self, looks: GridLooks, plan: Plan) -> bool:
        """One look at one grid: what its claims say, and whether it releases seeds."""
        from orchestrator.results.cells import tidy
        from orchestrator.results.claims.evaluate import groups_to_go_on
        from orchestrator.results.claims.read import findings_of

        record = plan_record(looks.request, plan, plan_id="", command="", data_root=Path())
        keys = [cell.key for cell in plan.cells if cell.key]
        cells = tidy(record, self._store.commits(keys), self._store.failures(keys))
        findings, _ = findings_of(record, cells, self._store)
        looks.claims = len(findings)
        looks.decided = sum(finding.ours.answer in ("holds", "fails") for finding in findings)
        before = dict(looks.counts)
        for group in groups_to_go_on(findings):
            place = tuple(group.axes.get(axis) for axis in AXES)
            count = looks.counts.get(place, looks.sizes[0])
            looks.counts[place] = next((size for size in looks.sizes if size > count), count)
        return looks.counts != before


def merged(first: Report, second: Report) -> Report:
    """Two rounds of one run as one report. What the first has finished is in the second's count already."""
    kinds = {**first.executed, **second.executed}
    return replace(
        second,
        failed={**first.failed, **second.failed},
        failed_trials={**first.failed_trials, **second.failed_trials},
        names={**first.names, **second.names},
        blocked={**first.blocked, **second.blocked},
        executed={kind: first.executed.get(kind, 0) + second.executed.get(kind, 0) for kind in kinds},
        metrics={**first.metrics, **second.metrics},
        wasted=first.wasted + second.wasted,
        not_in_mlflow=max(first.not_in_mlflow, second.not_in_mlflow),
    )


def _split(cells: Sequence[Cell], count: Callable[[Place], int]) -> tuple[list[Cell], list[Cell]]:
    """Cells that run by whether they are released; seeds of a place count in their order."""
    seen: dict[Place, int] = {}
    kept: list[Cell] = []
    later: list[Cell] = []
    for cell in cells:
        if cell.constant is not None:
            continue
        place = tuple(getattr(cell, axis) for axis in AXES)
        seen[place] = seen.get(place, 0) + 1
        (kept if seen[place] <= count(place) else later).append(cell)
    return kept, later
