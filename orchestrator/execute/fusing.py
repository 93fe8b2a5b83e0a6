"""Which finetunes a worker trains as one model: where the grid's backend allows it, and where it has proved faster."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.execute.outcome import Outcome
from orchestrator.plan.stages import Stage
from trainables.settings.fusing import fused_shape

if TYPE_CHECKING:
    from orchestrator.grid.schema import Run


@dataclass
class _Pace:
    """What cells have taken, trained alone or fused."""

    handed_out: int = 0
    seconds: float = 0.0  # of whole devices
    estimated: float = 0.0  # seconds that were estimated for them

    @property
    def slowness(self) -> float | None:
        """Seconds taken per second estimated; None before any cell has ended."""
        return self.seconds / self.estimated if self.estimated else None


class Fusing:
    """Chooses for each shape of finetunes, from what the cells of this run have taken.

    Until both ways have been measured, cells go the way that fewer went before; then the faster one. Several cells
    beside each other on a device count with their share of it.

    Args:
        choice: `always`: wherever it is allowed, whatever is measured.
    """

    def __init__(self, choice: Literal["measured", "always"]) -> None:
        self._choice = choice
        self._shapes: dict[str, str | None] = {}
        self._paces: dict[str, tuple[_Pace, _Pace]] = defaultdict(lambda: (_Pace(), _Pace()))
        self._shares: dict[str, float] = {}
        self._refused: set[str] = set()

    def shape(self, stage: Stage) -> str | None:
        """Equal for stages that can be trained as one; None where this one has to be trained alone."""
        if stage.key in self._refused:
            return None
        if stage.key not in self._shapes:
            self._shapes[stage.key] = _shape(stage)
        return self._shapes[stage.key]

    def pays(self, stage: Stage) -> bool:
        """Whether this stage is to be trained as one with others of its shape."""
        shape = self.shape(stage)
        if shape is None or self._choice == "always":
            return shape is not None
        alone, fused = self._paces[shape]
        if alone.slowness is None or fused.slowness is None:
            return fused.handed_out <= alone.handed_out
        return fused.slowness < alone.slowness

    def most(self, stage: Stage, run: Run) -> int:
        """How many stages like this are to be trained as one; no more than travel together until it is known which way
        is the faster one, as a try with many could take longer than all the others."""
        alone, fused = self._paces[self.shape(stage) or ""]
        if self._choice == "always" or None not in (alone.slowness, fused.slowness):
            return run.fused_cells
        return max(2, min(run.pack, run.fused_cells))

    def handed_out(self, pack: Iterable[Stage], share: float, *, fused: bool) -> None:
        """These stages run on `share` of a device."""
        for stage in pack:
            if (shape := self.shape(stage)) is not None:
                self._paces[shape][fused].handed_out += 1
                self._shares[stage.key] = share

    def learn(self, stage: Stage, outcome: Outcome) -> None:
        """How long a stage has taken, where the outcome tells."""
        shape, share = self.shape(stage), self._shares.get(stage.key)
        if shape is None or share is None or outcome.resumed or not outcome.executed or outcome.outcome != "succeeded":
            return
        pace = self._paces[shape][outcome.fused > 1]
        pace.seconds += outcome.seconds * share
        pace.estimated += stage.cost

    def refuse(self, keys: Collection[str]) -> None:
        """Train these alone from now on: their worker died, and one of them may be at fault."""
        self._refused.update(keys)


def _shape(stage: Stage) -> str | None:
    """Batches that are equal, too: cells of unequal ones would be trained one after the other."""
    if stage.kind != "finetune" or not stage.spec.get("backend", {}).get("fused"):
        return None
    batch = min(stage.spec["finetune"]["batch"], stage.spec["data"]["n_train"] or stage.spec["finetune"]["batch"])
    return json.dumps([fused_shape(stage.spec), batch])
