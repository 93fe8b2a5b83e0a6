"""Estimated costs against measured ones: what `orchestrator.plan.cost` says before anything was measured.

    python -m tests.benchmarks.costs [NAME ...]         one training step of each method and network, in CPU seconds
    python -m tests.benchmarks.costs --store DIR        the stages of a store by kind, in seconds on the clock

A step is measured as the difference between two whole stages of a few steps, so that opening data, building networks
and evaluating are left out of it; in seconds of the process, which other work on the machine disturbs least.
NAME: parts of the lines' names, to measure those only. Printed: measured, estimated, and their ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from orchestrator.grid.schema import check_section
from orchestrator.plan.cost import device_seconds
from orchestrator.plan.durations import estimated
from orchestrator.record.store import open_store
from trainables.context import Context
from trainables.downstream.finetune import finetune
from trainables.pretexts.pretrain import pretrain
from trainables.settings import PRETEXT_SETTINGS, SECTIONS, PretrainSettings

FEW, MORE = 2, 8  # steps
SHAPES = {"reader": "textures", "options": {"count": 80, "size": 64}}
NODULES = {"reader": "nodules", "options": {"count": 24}}
# Method (None: a finetune), network, width, side, batch; as in the profile `mini`, and two at full width.
STEPS: list[tuple[str | None, str, int, int, int]] = [
    (None, "conrec-unet", 8, 64, 8),
    (None, "conrec-unet", 8, 128, 8),
    (None, "resnet18-unet", 8, 64, 8),
    (None, "resnet50-unet", 8, 32, 8),
    (None, "resnet50-unet", 8, 64, 8),
    (None, "resnet50-unet", 8, 128, 8),
    (None, "resnet50-unet", 64, 64, 2),
    (None, "sasa-resnet50-unet", 16, 32, 8),
    (None, "sasa-resnet50-unet", 16, 64, 8),
    (None, "sasa-resnet50-unet", 16, 128, 8),
    (None, "classic-unet", 8, 64, 8),
    (None, "casser-unet", 8, 64, 8),
    (None, "genesis-unet3d", 4, 16, 2),
    (None, "genesis-unet3d", 4, 32, 2),
    (None, "genesis-unet3d", 8, 32, 2),
    ("segmentation", "conrec-unet", 8, 64, 16),
    ("classification", "conrec-unet", 8, 64, 16),
    ("reconstruction", "conrec-unet", 8, 64, 16),
    ("conrec", "conrec-unet", 8, 64, 16),
    ("simclr", "conrec-unet", 8, 64, 32),
    ("byol", "conrec-unet", 8, 64, 16),
    ("moco-v2", "conrec-unet", 8, 64, 16),
    ("byol", "resnet50-unet", 8, 64, 16),
    ("byol", "resnet50-unet", 64, 64, 4),
    ("byol", "sasa-resnet50-unet", 16, 64, 16),
    ("models-genesis", "genesis-unet3d", 4, 32, 2),
]


@dataclass(frozen=True)
class Line:
    """A stage of `steps` steps, and how it is run."""

    name: str
    kind: str
    spec_of: Callable[[int], dict[str, Any]]
    run: Callable[[Mapping[str, Any]], object]


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--store")
    args = parser.parse_args()
    if args.store:
        of_store(args.store)
        return
    torch.set_num_threads(1)
    print(f"{'one step':<52}{'measured':>9}{'estimated':>10}{'ratio':>7}")
    with tempfile.TemporaryDirectory(prefix="costs-") as folder:
        for asked in STEPS:
            line = line_of(*asked, Path(folder))
            if not args.names or any(name in line.name for name in args.names):
                of_step(line)


def line_of(method: str | None, name: str, width: int, side: int, batch: int, folder: Path) -> Line:
    """The stage to measure. What depends on the number of steps is only the training."""
    network, volumes = {"name": name, "width": width}, name == "genesis-unet3d"
    base = {"network": network, "backend": {}, "seed": 0}
    dials = {"batch": batch, "input_size": side, "report_every": 1000}
    cubes = {"cubes": torch.randint(0, 255, (12, 64, 64, 32), dtype=torch.uint8)}
    context = {"parents": {"data": cubes} if method and volumes else None, "cache_dir": folder / "cache"}

    def finetuned(steps: int) -> dict[str, Any]:
        data = {**(NODULES if volumes else SHAPES), "fraction": None, "n_train": 8}
        section = check_section(SECTIONS["finetune"], {**dials, "steps": steps, "curve_images": 4})
        return {**base, "scenario": "random-init", "frozen": False, "data": data, "finetune": section}

    def pretrained(steps: int) -> dict[str, Any]:
        data = {**NODULES, "prepared": True} if volumes else SHAPES
        adam = {"optimizer": "adam", "learning_rate": 1e-4, "validation_images": 4}
        section = check_section(PretrainSettings, {**dials, **adam, "steps": steps})
        pretext = check_section(PRETEXT_SETTINGS[str(method)], {"method": method})
        return {**base, "pretext": pretext, "data": data, "pretrain": section}

    kind, spec_of, stage = ("pretrain", pretrained, pretrain) if method else ("finetune", finetuned, finetune)
    about = f"{method or 'finetune'} | {name} {width} | {side} | batch {batch}"
    return Line(about, kind, spec_of, lambda spec: stage(spec, Context(folder, folder / "work", **context)))


def of_step(line: Line) -> None:
    """Print a step's cost."""
    line.run(line.spec_of(1))  # imports and caches
    few, more = (_timed(line, steps) for steps in (FEW, MORE))
    guessed = [device_seconds(line.kind, line.spec_of(steps), n_eval=20) for steps in (FEW, MORE)]
    measured, estimate = (more - few) / (MORE - FEW), (guessed[1] - guessed[0]) / (MORE - FEW)
    print(f"{line.name:<52}{measured:>9.3f}{estimate:>10.3f}{measured / estimate:>7.2f}", flush=True)


def _timed(line: Line, steps: int) -> float:
    begun = time.process_time()
    line.run(line.spec_of(steps))
    return time.process_time() - begun


def of_store(uri: str) -> None:
    """Print what the stages of a store have cost, by kind, method and network, and all together."""
    store = open_store(uri)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in store.commits(store.finished()).values():
        spec = record["spec"]
        method = spec.get("pretext", {}).get("method") or spec.get("prepare", {}).get("kind") or ""
        about = " ".join(filter(None, (record["kind"], method, spec.get("network", {}).get("name"))))
        if record.get("seconds"):
            found[about].append((record["seconds"], estimated(record)))
    print(f"{'stages':<44}{'number':>7}{'measured':>10}{'estimated':>10}{'ratio of each':>21}")
    lines = [*sorted(found.items()), ("all", [pair for each in found.values() for pair in each])]
    for about, pairs in lines:
        measured, estimate = (sum(seconds) for seconds in zip(*pairs, strict=True))
        ratios = sorted(seconds / guess for seconds, guess in pairs)
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{about:<44}{len(pairs):>7}{measured:>10.0f}{estimate:>10.0f}{spread:>21}")


if __name__ == "__main__":
    main()
