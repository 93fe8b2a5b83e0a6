"""Numeric backends: what a training step gains by bfloat16 and by the compiler, and how long the compiler takes.

    python -m tests.benchmarks.backend [--device cpu|cuda] [--network conrec-unet] [--sizes 8x64 16x64] [--batch 16]
        [--only finetune conrec] [--repeats 3] [--seconds 2] [--out FILE]

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

`graphs` is `compiled` with CUDA graphs; no stage uses them yet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.common import Report, header, ratios, spread
from tests.benchmarks.training_clock import Mark, time_steps
from tests.benchmarks.training_work import WORKS, Model, Setup, bare_loss, new_model, write_photos
from trainables import numeric
from trainables.randomness import seed_everything
from trainables.settings import BackendSettings

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
    model = new_model(setup, work)
    before = dict(numeric.OPTIONS)
    numeric.OPTIONS.update(options)
    numeric.apply_backend(model.module, BackendSettings(**dials), setup.device)
    numeric.OPTIONS.clear()
    numeric.OPTIONS.update(before)
    return Contender(model, bare_loss(setup, work, model.module, augmented=False))


def all_contenders(setup: Setup, work: str) -> dict[str, Contender]:
    made = {name: contender(setup, work, dials, {}) for name, dials in BACKENDS.items()}
    if setup.device.type == "cuda":
        made[GRAPHS] = contender(setup, work, BACKENDS["bfloat16, compiled"], {"triton.cudagraphs": True})
    for one in made.values():
        with torch.no_grad():  # makes the views
            one.model.module.eval()
            one.loss_of()
            one.model.module.train()
        seed_everything(0, "step")
        one.first, one.loss = _first_step(one, setup.device)
    return made


def _first_step(one: Contender, device: torch.device) -> tuple[float, float]:
    found: list[float] = []

    def loss_of() -> Tensor:
        loss = one.loss_of()
        found.append(float(loss.detach()))
        return loss

    began = Mark.now(device)
    one.model.step(loss_of)
    return Mark.now(device).wall - began.wall, found[0]


def measure(setup: Setup, work: str, repeats: int, seconds: float) -> list[list[str]]:
    """A row for each backend."""
    made = all_contenders(setup, work)
    once = time_steps(made["float32"].step, 2, setup.device)
    steps = max(5, round(seconds * once.steps / once.seconds))
    for _ in range(repeats):
        for one in made.values():
            timing = time_steps(one.step, steps, setup.device)
            one.rates.append(setup.batch * timing.steps / timing.seconds)
    exact = made["float32"].rates
    warm = {name: again(setup, work, name) for name in made if name not in ("float32", "bfloat16")}
    rows = []
    for name, one in made.items():
        each, plain = (setup.batch / statistics.median(rates) for rates in (one.rates, exact))
        row = [name, spread(one.rates, 0), spread(ratios(one.rates, exact)), "", "", "", f"{one.loss:.5f}"]
        if name in warm:
            took = [max(0.0, first - each) for first in (one.first, warm[name])]
            row[3:6] = [*(f"{t:.1f}" for t in took), ", ".join(_pays_after(t, plain - each) for t in took)]
        rows.append(row)
    return rows


def again(setup: Setup, work: str, name: str) -> float:
    """Seconds of the first step of another stage with this backend."""
    options = {"triton.cudagraphs": True} if name == GRAPHS else {}
    dials = BACKENDS["bfloat16, compiled" if name == GRAPHS else name]
    return _first_step(contender(setup, work, dials, options), setup.device)[0]


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
    parser.add_argument("--only", nargs="+", choices=WORKS, default=["finetune", "conrec"])
    parser.add_argument("--out", type=Path, help="write the report there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
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
                for row in measure(setup(photos, network, side), work, options.repeats, options.seconds):
                    report.row(work, f"{width}x{side}", *row)
    seconds = time.process_time()
    report.line(f"# {seconds:.0f} processor seconds, the compiler's own processes not counted")


if __name__ == "__main__":
    main()
