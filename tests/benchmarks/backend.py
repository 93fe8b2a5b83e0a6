"""Numeric backends: what a training step gains by bfloat16 and by the compiler, and how long the compiler takes.

    python -m tests.benchmarks.backend [--device cpu|cuda] [--network conrec-unet] [--sizes 8x64 16x64] [--batch 16]
        [--backends float32 bfloat16 ...] [--only finetune conrec] [--repeats 3] [--seconds 2] [--out FILE]

Needs torch, torchvision, numpy, pillow and scipy. A step is model, loss and optimiser as the stage makes them, on
ready-made views on the device (the limit of `tests.benchmarks.training_step`); one thread. In each repeat all backends
take their turn with as many steps, so that other load on the machine hits all alike; figures are medians, with the
least and the largest in brackets.

    size          width of the network x side of the images
    images / s    of training steps, after the compiler
    ratio         to float32 of the same repeat; above 1 is faster
    cold s        the compiler's: what the first step takes longer than the others, with an empty cache
    warm s        the same for the next stage of its kind on this machine, which finds the compiler's files
    pays after    steps after which a stage, cold and warm, has won back what the compiler took
    loss          of the step that all took first, from equal weights and views

`graphs` is `compiled` with CUDA graphs; no stage uses them yet. A backend that fails, without a compiler say, has the
reason in its row. Convolutions are as in a stage: deterministic, and without TF32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tests.benchmarks.common import Report, header, ratios, spread
from tests.benchmarks.training_clock import Mark, time_steps
from tests.benchmarks.training_work import WORKS, Model, Setup, bare_loss, new_model, write_photos
from trainables import numeric
from trainables.randomness import seed_everything
from trainables.settings import BackendSettings
from trainables.training import use_backend

PACKAGES = ("torch", "triton", "numpy")
PHOTOS = 80
BACKENDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "compiled": {"compiled": True},
    "bfloat16, compiled": {"precision": "bfloat16", "compiled": True},
}
GRAPHS = "bfloat16, graphs"  # on a GPU


@dataclass
class Contender:
    """A model with a backend. `first`: seconds of its first step; `rates`: images per second of each repeat."""

    model: Model
    loss_of: Callable[[], Tensor]
    first: float = 0.0
    loss: float = 0.0
    rates: list[float] = field(default_factory=list)

    def step(self) -> None:
        self.model.step(self.loss_of)


def contender(setup: Setup, work: str, dials: Mapping[str, Any], options: Mapping[str, Any]) -> Contender:
    """Before its first step. torch.compile forgets what it had compiled before."""
    with patch.dict(numeric.OPTIONS, options):
        model = new_model(replace(setup, backend=dials), work)
    return Contender(model, bare_loss(setup, work, model.module, augmented=False))


def all_contenders(setup: Setup, work: str, names: Sequence[str], faults: dict[str, str]) -> dict[str, Contender]:
    """Each after its first step; `faults` takes up why others have not come so far."""
    made: dict[str, Contender] = {}
    for name in names:
        with noted(name, faults):
            made[name] = contender(setup, work, *_dials(name))
    for name, one in made.items():
        with noted(name, faults):
            with torch.no_grad():  # makes the views
                one.model.module.eval()
                one.loss_of()
                one.model.module.train()
            seed_everything(0, "step")
            one.first, one.loss = _first_step(one, setup.device)
    return made


def _dials(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Of a backend, and torch.compile's options beside a stage's."""
    return (BACKENDS["bfloat16, compiled"], {"triton.cudagraphs": True}) if name == GRAPHS else (BACKENDS[name], {})


@contextmanager
def noted(name: str, faults: dict[str, str]) -> Iterator[None]:
    """Whatever goes wrong within is noted: a compiler that is missing takes away no other backend's figures. Without
    float32 there is nothing to compare with."""
    try:
        yield
    except Exception as fault:
        if name == "float32":
            raise
        faults[name] = f"{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}"


def _first_step(one: Contender, device: torch.device) -> tuple[float, float]:
    found: list[float] = []

    def loss_of() -> Tensor:
        loss = one.loss_of()
        found.append(float(loss.detach()))
        return loss

    began = Mark.now(device)
    one.model.step(loss_of)
    return Mark.now(device).wall - began.wall, found[0]


def measure(setup: Setup, work: str, names: Sequence[str], repeats: int, seconds: float) -> list[list[str]]:
    """A row for each backend; float32 comes first."""
    faults: dict[str, str] = {}
    made = all_contenders(setup, work, names, faults)
    once = time_steps(made["float32"].step, 2, setup.device)
    steps = max(5, round(seconds * once.steps / once.seconds))
    for _ in range(repeats):
        for name in [name for name in made if name not in faults]:
            with noted(name, faults):
                timing = time_steps(made[name].step, steps, setup.device)
                made[name].rates.append(setup.batch * timing.steps / timing.seconds)
    exact, warm = made["float32"].rates, {}
    for name in [name for name in made if name not in ("float32", "bfloat16", *faults)]:
        with noted(name, faults):
            warm[name] = again(setup, work, name)
    rows = [[name, fault, *[""] * 5] for name, fault in faults.items()]
    for name in [name for name in made if name not in faults]:
        one = made[name]
        each, plain = (setup.batch / statistics.median(rates) for rates in (one.rates, exact))
        row = [name, spread(one.rates, 0), spread(ratios(one.rates, exact)), "", "", "", f"{one.loss:.5f}"]
        if name in warm:
            took = [max(0.0, first - each) for first in (one.first, warm[name])]
            row[3:6] = [*(f"{t:.1f}" for t in took), ", ".join(_pays_after(t, plain - each) for t in took)]
        rows.append(row)
    return rows


def again(setup: Setup, work: str, name: str) -> float:
    """Seconds of the first step of another stage with this backend."""
    return _first_step(contender(setup, work, *_dials(name)), setup.device)[0]


def _pays_after(took: float, gained: float) -> str:
    return f"{took / gained:,.0f}" if gained > 0 else "never"


def _size(text: str) -> tuple[int, int]:
    width, _, side = text.partition("x")
    return int(width), int(side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="conrec-unet")
    parser.add_argument("--sizes", nargs="+", type=_size, default=[(8, 64), (16, 64)], metavar="WIDTHxSIDE")
    for name, default in {"batch": 16, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, at the speed of float32")
    every = [*BACKENDS, GRAPHS]
    parser.add_argument("--backends", nargs="+", choices=every, default=every, help=f"{GRAPHS}: on a GPU alone")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=["finetune", "conrec"])
    parser.add_argument("--out", type=Path, help="write the report there too")
    options = parser.parse_args()
    use_backend(BackendSettings())
    device = torch.device(options.device)
    asked = [name for name in every if name in options.backends and (name != GRAPHS or device.type == "cuda")]
    names = ["float32", *(name for name in asked if name != "float32")]
    report = Report(options.out)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    report.line(header("tests.benchmarks.backend", PACKAGES, gpu))
    report.line(f"# {options.network}, batch {options.batch}, 1 thread, {options.repeats} repeats")
    report.row("work", "size", "backend", "images / s", "ratio", "cold s", "warm s", "pays after", "loss")
    with tempfile.TemporaryDirectory(prefix="backend-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiler")
        setup = partial(Setup, batch=options.batch, device=device)
        for width, side in options.sizes:
            photos = Path(folder) / str(side)
            if not photos.exists():
                write_photos(photos, PHOTOS, 2 * side)
            network = {"name": options.network, "width": width}
            for work in options.only:
                for row in measure(setup(photos, network, side), work, names, options.repeats, options.seconds):
                    report.row(work, f"{width}x{side}", *row)
    seconds = time.process_time()
    report.line(f"# {seconds:.0f} processor seconds, the compiler's own processes not counted")


if __name__ == "__main__":
    main()
