"""Resolved plans in a store, by grid and id: plans/GRID/PLAN.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from orchestrator.record import documents
from orchestrator.record.backend import Backend, StoreError
from orchestrator.record.documents import Record
from orchestrator.record.shape import fault_of_plan


class Plans:
    """The part of a store that keeps plans. Their ids begin with the time, so they sort by age."""

    _backend: Backend

    def save_plan(self, plan: Mapping[str, Any]) -> None:
        """Keep a resolved plan under its grid and id."""
        documents.write(self._backend, f"plans/{plan['grid']}/{plan['plan']}.json", plan)

    def grids(self) -> list[str]:
        """The grids that have a plan here."""
        paths = documents.names(self._backend, "plans")
        return sorted({path.split("/")[1] for path in paths if path.count("/") == 2})

    def plans(self, grid: str) -> list[str]:
        """The plan ids of a grid, oldest first."""
        return sorted(PurePosixPath(path).stem for path in documents.names(self._backend, f"plans/{grid}"))

    def load_plan(self, grid: str, plan_id: str | None = None) -> Record:
        """A resolved plan, the newest where no id is given.

        Raises:
            StoreError: no such grid or plan, and the message lists those that are there; or the plan is damaged.
        """
        ids, uri = self.plans(grid), self._backend.uri
        if not ids:
            there = ", ".join(self.grids()) or "no grid at all"
            raise StoreError(f"store {uri}: no plan of grid {grid!r}; it holds plans of {there}")
        chosen = plan_id or ids[-1]
        path = f"plans/{grid}/{chosen}.json"
        found = documents.read(self._backend, path) if chosen in ids else None
        if found is None:
            newest = ", ".join(ids[:-6:-1])
            raise StoreError(f"store {uri}: grid {grid!r} has no plan {chosen!r}; its newest are {newest}")
        if fault := fault_of_plan(grid, chosen, found):
            raise documents.damaged(self._backend, path, fault)
        return found
