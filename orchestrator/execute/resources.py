"""What each kind of stage occupies while it runs. Few shapes, so that warm workers can be used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.grid.schema import Resources, Run

# A pretraining fills a GPU; a finetune on some dozen images does not.
_GPU_SHARE = {"pretrain": 1.0, "finetune": 0.25}


@dataclass(frozen=True)
class Shape:
    """CPUs and GPUs of one worker."""

    cpus: float
    gpus: float

    def whole(self, cpus: float) -> Shape:
        """A node of `cpus` CPUs, and a GPU where this shape has a share of one, without neighbours."""
        return Shape(max(self.cpus, cpus), max(self.gpus, 1.0) if self.gpus else 0.0)

    def placement(self) -> Any:
        """The shape in Tune's terms."""
        from ray.tune import PlacementGroupFactory

        bundle = {"CPU": self.cpus}
        if self.gpus:
            bundle["GPU"] = self.gpus
        return PlacementGroupFactory([bundle])


def shape_of(kind: str, run: Run, *, gpus: bool) -> Shape:
    """The shape of a kind of stage: `run.resources`, else one CPU and, where there are GPUs, a share of one."""
    asked = run.resources.get(kind, Resources())  # type: ignore[call-overload]
    share = _GPU_SHARE.get(kind, 1.0) if gpus else 0.0
    return Shape(asked.cpus, share if asked.gpus == "auto" else float(asked.gpus))
