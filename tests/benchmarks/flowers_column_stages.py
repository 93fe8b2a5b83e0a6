"""What a process of `tests.benchmarks.flowers_column` does: stages with checkpoints, until there is no time left.

Needs torch, torchvision, numpy, scipy, pillow and safetensors.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trainables.context import Context, Result, StageError
from trainables.data import DataError
from trainables.downstream.finetune import LOSSES, finetune
from trainables.downstream.fused import finetune_fused
from trainables.networks import build_network, place
from trainables.pretexts import build_pretext
from trainables.pretexts._base import ImageBatch
from trainables.pretexts.pretrain import pretrain
from trainables.settings import parse_network, parse_pretext

PIECE = 15 * 2**20  # most bytes of a file of weights, so that they can be sent where only small files can
MESSAGE_SECONDS = 1.0
GENERATIONS = 2  # checkpoints kept of a stage: a kill may come when not all cells that train as one have written theirs
Outcome = Result | StageError | DataError


class OutOfTime(Exception):
    """The stage has written its checkpoint, and there is no time to go on."""


@dataclass(frozen=True)
class Options:
    """What a process is told when it starts.

    deadline: by `time.monotonic`, which all processes share. parent: number of the process to end with; 0: none.
    """

    data_root: str
    store: str
    device: str
    checkpoint_seconds: float
    deadline: float
    parent: int = 0

    def work(self, key: str) -> Path:
        """The folder of a stage's checkpoints."""
        return Path(self.store) / "work" / key


class Watch:
    """Time that is left, time that was spent, and news of steps for the parent process."""

    def __init__(self, options: Options, pipe: Connection | None, spent: float = 0.0) -> None:
        self._options, self._pipe = options, pipe
        self._began, self._told = time.monotonic() - spent, 0.0
        self.shown = ""  # of the last point of the curve

    def over(self) -> bool:
        return time.monotonic() >= self._options.deadline

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def at(self, key: str, step: int) -> None:
        """Tell that a stage has reached a step. A process whose parent was killed ends here."""
        if self._options.parent not in (0, os.getppid()):
            os._exit(1)
        if self._pipe is not None and time.monotonic() - self._told >= MESSAGE_SECONDS:
            self._told = time.monotonic()
            self._pipe.send(("step", key, step, self.shown))


class StageContext(Context):
    """Checkpoints by step in a folder of the stage; with no time left there is one more, and the stage stops.

    Args:
        start: step of the checkpoint to go on from; 0: none.
    """

    def __init__(self, stage: Mapping[str, Any], start: int, options: Options, parents: Any, watch: Watch) -> None:
        self.key, self.watch, self._start, self._saved = stage["key"], watch, start, 0
        super().__init__(
            options.data_root,
            options.work(self.key),
            parents=parents,
            device=options.device,
            checkpoint_seconds=options.checkpoint_seconds,
            cache_dir=Path(options.store) / "work" / "cache",
            fingerprint=stage["fingerprint"],
        )

    def resume(self) -> dict[str, Any] | None:
        if not self._start:
            return None
        saved = torch.load(checkpoints(self.work_dir)[self._start], map_location="cpu", weights_only=True)
        self.history = list(saved["history"])
        return dict(saved["state"])

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        super().report(step, metrics)
        named = (name for name in ("val_loss", "eval_dice") if name in metrics)
        self.watch.shown = ", ".join(f"{name} {metrics[name]:.4f} at step {step}" for name in named)

    def checkpoint_due(self) -> bool:
        return self.watch.over() or super().checkpoint_due()

    def save(self, state: dict[str, Any]) -> None:
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self._saved = int(state["step"])
        temporary = self.work_dir / f"{os.getpid()}.tmp"
        torch.save({"state": state, "history": self.history, "seconds": self.watch.seconds()}, temporary)
        temporary.replace(self.work_dir / f"checkpoint-{self._saved}.pt")
        for old in list(checkpoints(self.work_dir).values())[:-GENERATIONS]:
            old.unlink()
        self._last_save = time.monotonic()

    def progress(self, step: int, steps: int) -> None:
        self.watch.at(self.key, step)
        if step < steps and step == self._saved and self.watch.over():
            raise OutOfTime


def checkpoints(folder: Path) -> dict[int, Path]:
    """Step -> file, in the order of the steps."""
    found = {int(path.stem.partition("-")[2]): path for path in folder.glob("checkpoint-*.pt")}
    return dict(sorted(found.items()))


def resume_steps(folders: Sequence[Path]) -> list[int]:
    """Where each of these stages goes on, at 0 without a checkpoint: together, or, where one of them ended before the
    others and so has no step in common with them, each at its own last one."""
    common = max(set[int].intersection(*(set(checkpoints(folder)) for folder in folders)), default=0)
    return [common or max(checkpoints(folder), default=0) for folder in folders]


def serve(pipe: Connection, options: Options) -> None:
    """Take tasks from the parent process until it sends None or has gone."""
    device = torch.device(options.device)
    with busy(Path(options.store)):
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        versions = (
            f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
        )
        pipe.send(("ready", {"device": gpu, "versions": versions}))
        try:
            while (task := pipe.recv()) is not None:
                try:
                    pipe.send(do(task, options, pipe))
                except Exception:
                    pipe.send(("error", traceback.format_exc()))
        except (EOFError, BrokenPipeError):  # the parent was killed
            return


def do(task: Mapping[str, Any], options: Options, pipe: Connection | None = None) -> tuple[str, Any]:
    """Count, or run stages: ("counted", ...), ("ended", records by key), or ("stopped", None)."""
    if "count" in task:
        return "counted", count(task["count"], torch.device(options.device))
    stages, files = task["stages"], [Path(options.store) / name for name in task["weights"]]
    folders = [options.work(stage["key"]) for stage in stages]
    starts, spent = resume_steps(folders), 0.0
    for folder, start in zip(folders, starts, strict=True):
        for step, path in checkpoints(folder).items():
            if step > start:
                path.unlink()
    if latest := max(starts):
        saved = torch.load(checkpoints(folders[starts.index(latest)])[latest], map_location="cpu", weights_only=True)
        spent = float(saved["seconds"])
    watch = Watch(options, pipe, spent)
    parents = {"pretrain": {k: t for file in files for k, t in load_file(file).items()}} if files else {}
    contexts = [StageContext(*each, options, parents, watch) for each in zip(stages, starts, strict=True)]
    try:
        outcomes = run(stages, contexts)
    except OutOfTime:
        return "stopped", None
    seconds = watch.seconds() / len(stages)
    return "ended", {
        stage["key"]: record(outcome, context, seconds, Path(options.store))
        for stage, outcome, context in zip(stages, outcomes, contexts, strict=True)
    }


def run(stages: Sequence[Mapping[str, Any]], contexts: Sequence[StageContext]) -> Sequence[Outcome]:
    """What each stage ends with; a fault of the stage itself is one of the ends."""
    specs = [stage["spec"] for stage in stages]
    if len(stages) > 1:
        return finetune_fused(specs, contexts)
    try:
        return [(pretrain if stages[0]["kind"] == "pretrain" else finetune)(specs[0], contexts[0])]
    except StageError as fault:
        return [fault]


def record(outcome: Outcome, context: StageContext, seconds: float, store: Path) -> dict[str, Any]:
    """A stage as the results keep it; its weights are written first."""
    if isinstance(outcome, DataError):
        raise outcome  # nothing that this stage did: the next run may find the data
    found = outcome if isinstance(outcome, Result) else Result({})
    return {
        "error": None if found is outcome else str(outcome),
        "metrics": found.metrics,
        "facts": found.facts,
        "history": context.history,
        "seconds": seconds,
        "weights": write_weights(store, context.key, found.weights),
    }


def write_weights(store: Path, key: str, weights: Mapping[str, Tensor]) -> list[str]:
    """The names of the files that hold what cells take over: all but what belongs to the pretext alone."""
    parts: list[dict[str, Tensor]] = []
    size = PIECE
    for name, tensor in weights.items():
        if name.startswith("pretext."):
            continue
        if size + tensor.nbytes > PIECE:
            parts.append({})
            size = 0
        parts[-1][name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    names = [f"weights-{key}-{number}.safetensors" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        temporary = store / f"{name}.tmp"
        save_file(part, temporary)
        temporary.replace(store / name)
    return names


def count(stages: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
    """Floating-point operations of a step by stage key (convolutions, products, their gradients; two for a
    multiplication with its sum), and the network's parameters. Curves and evaluation are not in it."""
    known: dict[str, int] = {}
    found, parameters = {}, 0
    for stage in stages:
        spec, dials = stage["spec"], stage["spec"][stage["kind"]]
        like = f"{spec.get('pretext')} {spec['network']} {dials['input_size']}"
        if like not in known:
            known[like] = _operations(spec, dials, device)
        batch = dials["batch"]
        if stage["kind"] == "finetune":
            batch = min(batch, spec["data"]["n_train"] or batch)
            parameters = parameters or sum(p.numel() for p in _network(spec).parameters())
        found[stage["key"]] = known[like] * batch // 2
    return {"operations": found, "parameters": parameters}


def _operations(spec: Mapping[str, Any], dials: Mapping[str, Any], device: torch.device) -> int:
    """Of a step on two images: all of it grows with their number, but for the few products of a contrast."""
    side = dials["input_size"]
    if "pretext" in spec:
        pretext = build_pretext(parse_pretext(spec["pretext"]), parse_network(spec["network"]), 0)
        place(pretext, device)
        images = torch.randint(256, (2, 3, side, side), dtype=torch.uint8, device=device)
        batch = ImageBatch(images, torch.tensor([[0, 0, side, side]] * 2), side)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(pretext.loss(batch, torch.Generator().manual_seed(0))["loss"])
        return int(counter.get_total_flops())
    network = _network(spec)
    place(network, device)
    masks = torch.zeros(2, side, side, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(LOSSES[dials["loss"]](network(torch.rand(2, 3, side, side, device=device)), masks))
    return int(counter.get_total_flops())


def _network(spec: Mapping[str, Any]) -> torch.nn.Module:
    return build_network(parse_network(spec["network"]), out_channels=1)


@contextmanager
def busy(store: Path) -> Iterator[None]:
    """Until then no other run's processes begin in this store."""
    with (store / "work" / "processes.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
