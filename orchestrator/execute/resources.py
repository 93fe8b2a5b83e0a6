"""What each kind of stage occupies while it runs. Few shapes, so that warm workers can be used again.

The share of a GPU that a small stage gets follows from measured memory: a stage's peak is written into its commit, and
stages like it get the share that the peak needs from then on. All here is arithmetic; `device_memory` asks the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.plan.keys import canonical
from orchestrator.plan.stages import Stage
from trainables.settings import as_before

if TYPE_CHECKING:
    from orchestrator.grid.schema import Run

# Before anything was measured. A pretraining fills a GPU; a finetune on some dozen images does not.
_GPU_SHARE = {"prepare": 0.0, "import": 0.0, "finetune": 0.25, "probe": 0.25, "analysis": 0.25}
SHARES = (0.125, 0.25, 0.5, 1.0)
MARGIN = 1.15  # fragmentation, and libraries that choose other algorithms on another day
# What a process takes beside torch's allocator: CUDA's context and the kernels of cuDNN and cuBLAS.
CONTEXT_BYTES = 600 * 2**20

# Settings that change how long or how well a stage trains, and never how much memory it takes.
_WITHOUT_MEMORY = frozenset(
    (
        *("seed", "scenario", "study", "rungs", "n_train", "fraction", "options", "steps", "epochs", "report_every"),
        *("learning_rate", "momentum", "weight_decay", "temperature", "flip", "crop_area", "loss", "threads"),
    )
)


@dataclass(frozen=True)
class Shape:
    """CPUs and GPUs of one worker."""

    cpus: float
    gpus: float

    def whole_node(self, cpus: float) -> Shape:
        """A node of `cpus` CPUs, and a GPU where this shape has a share of one, without neighbours."""
        return Shape(max(self.cpus, cpus), self.whole_device().gpus)

    def whole_device(self) -> Shape:
        """The same with a GPU of its own, where this shape has a share of one."""
        return Shape(self.cpus, max(self.gpus, 1.0) if self.gpus else 0.0)

    def placement(self) -> Any:
        """The shape in Tune's terms."""
        from ray.tune import PlacementGroupFactory

        bundle = {"CPU": self.cpus}
        if self.gpus:
            bundle["GPU"] = self.gpus
        return PlacementGroupFactory([bundle])


def shape_of(kind: str, run: Run, *, gpus: bool, share: float | None = None) -> Shape:
    """The shape of a kind of stage: `run.resources`, else one CPU and, where there are GPUs, a share of one.

    What usually has a whole GPU keeps it, however little memory it takes: it fills the GPU's arithmetic, and several
    would only take turns. `run.resources.pretrain.gpus: 0.25` has them share one all the same.

    Args:
        gpus: whether there are any.
        share: of a GPU, as measured by memory; None: the kind's usual one.
    """
    from orchestrator.grid.schema import Resources  # pydantic, which a bare GPU machine may lack

    asked = run.resources.get(kind, Resources())  # type: ignore[call-overload]
    if asked.gpus != "auto":
        return Shape(asked.cpus, float(asked.gpus))
    usual = _GPU_SHARE.get(kind, 1.0)
    if share is None or not 0 < usual < 1:
        share = usual
    return Shape(asked.cpus, share if gpus else 0.0)


def memory_class(stage: Stage) -> str:
    """What stages that take the same device memory have in common: kind, method, network, sizes, batch, precision.

    Whatever is not known to be without effect counts, so that a new setting can only split a class, never mix two.
    """
    kind = "pretrain" if stage.kind == "trial" and "objective" not in stage.spec else stage.kind
    return canonical([kind, _relevant(as_before(stage.spec))])


def _relevant(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _relevant(part) for name, part in value.items() if name not in _WITHOUT_MEMORY}
    return value


def share_for(peak: float, device: float) -> float:
    """The smallest of `SHARES` that holds a peak with a margin.

    Args:
        peak: most bytes that a stage has held, the context included.
        device: bytes of the device.
    """
    return next((share for share in SHARES if peak * MARGIN <= share * device), 1.0)


def allocator_fraction(share: float, device: float) -> float:
    """Which fraction of a device torch's allocator may take, so that the whole process stays within its share.

    Args:
        share: of the device; a whole one or none is not capped.
        device: its bytes.
    """
    if not 0 < share < 1:
        return 1.0
    return max(share - CONTEXT_BYTES / device, share / 10)


@dataclass
class MeasuredShares:
    """The largest share that any measured stage of a memory class has needed."""

    _shares: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_records(cls, records: Iterable[Mapping[str, Any]]) -> MeasuredShares:
        """What commit records tell."""
        known = cls()
        for record in records:
            facts = record.get("facts", {})
            if "peak_device_bytes" in facts and facts.get("fused", 1) == 1:
                known.learn(_stage_of(record), facts["peak_device_bytes"], facts["device_bytes"])
        return known

    def learn(self, stage: Stage, peak: float, device: float) -> None:
        """A stage has held `peak` bytes of a device of `device` bytes."""
        like, share = memory_class(stage), share_for(peak, device)
        self._shares[like] = max(share, self._shares.get(like, 0.0))

    def share(self, stages: Iterable[Stage]) -> float | None:
        """The share that holds each of these stages, run one after the other; None where one was never measured."""
        shares = [self._shares.get(memory_class(stage)) for stage in stages]
        return None if None in shares else max((share for share in shares if share is not None), default=None)


def _stage_of(record: Mapping[str, Any]) -> Stage:
    return Stage(record["key"], record["kind"], record["spec"], {}, "", record.get("name", ""), {})
