"""Several finetunes on one GPU, each process capped to its share; one that asks for more fails alone.

    python -m tests.benchmarks.gpu_share [--processes 4] [--share 0.125] [--device cuda]

Needs a GPU, torch, torchvision, numpy, scipy, pillow and safetensors; no Ray. Three rounds of a real finetune stage:
one process with the whole device (its peak, and the share that follows from it); `--processes` of them side by side,
each in its share; and the same once more beside a process that needs far more than its share. It must end with
torch.OutOfMemoryError, and the numbers of its neighbours must be those of the second round, digit for digit. Exit code
1 where that is not so. With `--device cpu` only the first two rounds are run, to try the script out. On a GPU it has
not run yet.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import Any

import torch

from orchestrator.execute.device_memory import device_facts, limit_device_memory
from orchestrator.execute.resources import share_for
from trainables.context import Context
from trainables.stages import STAGES

SPEC: dict[str, Any] = {
    "scenario": "random-init",
    "frozen": False,
    "network": {"name": "conrec-unet", "width": 16},
    "data": {"reader": "shapes", "options": {"count": 240, "size": 64, "seed": 0}, "fraction": None, "n_train": 64},
    "finetune": {"steps": 60, "batch": 8, "input_size": 64, "report_every": 30, "curve_images": 8},
    "backend": {"precision": "float32", "threads": 1},
    "seed": 0,
}
# Activations of 64 images of 1024 x 1024 pixels at width 64 take hundreds of GB: more than any one GPU has.
GREEDY = SPEC | {
    "network": {"name": "conrec-unet", "width": 64},
    "finetune": {"steps": 2, "batch": 64, "input_size": 1024, "report_every": 2, "curve_images": 8},
}


@dataclass(frozen=True)
class End:
    """How one process ended."""

    who: str
    metrics: dict[str, float]
    facts: dict[str, Any]
    seconds: float
    error: str


def work(who: str, spec: dict[str, Any], device: str, share: float, ends: Queue[End]) -> None:
    """One process: cap it, run the stage, tell how it ended."""
    began = time.monotonic()
    metrics, error = dict[str, float](), ""
    on = torch.device(device)
    try:
        limit_device_memory(on, share)
        with tempfile.TemporaryDirectory() as folder:
            metrics = STAGES["finetune"](spec, Context("data", folder, device=on, cache_dir=folder)).metrics
    except Exception as fault:
        error = f"{type(fault).__name__}: {str(fault).splitlines()[0]}"
    ends.put(End(who, metrics, device_facts(on), time.monotonic() - began, error))


def together(jobs: list[tuple[str, dict[str, Any], float]], device: str) -> dict[str, End]:
    """Run jobs (name, spec, share) side by side, each in a process of its own."""
    processes = multiprocessing.get_context("spawn")
    ends: Queue[End] = processes.Queue()
    started = [processes.Process(target=work, args=(who, spec, device, share, ends)) for who, spec, share in jobs]
    for process in started:
        process.start()
    found = [ends.get(timeout=900) for _ in started]
    for process in started:
        process.join()
    return {end.who: end for end in found}


def show(title: str, ends: dict[str, End]) -> None:
    """One line per process."""
    print(title)
    for end in sorted(ends.values(), key=lambda e: e.who):
        peak = f"{end.facts['peak_device_bytes'] / 2**30:6.2f} GiB" if end.facts else "  (CPU)"
        how = end.error[:90] or f"dice {end.metrics['dice']!r}"
        print(f"  {end.who:<10} {peak}  {end.seconds:6.1f} s  {how}")


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu_share", description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.125, help="of the device, for each process")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        print("no GPU here; `--device cpu` tries the script out", file=sys.stderr)
        return 2
    alone = together([("alone", SPEC, 1.0)], args.device)
    show("one process, the whole device", alone)
    facts = alone["alone"].facts
    if facts:
        share = share_for(facts["peak_device_bytes"], facts["device_bytes"])
        print(f"  {facts['device']}, {facts['device_bytes'] / 2**30:.0f} GiB: the share that follows is {share:g}")
    shared = [(f"process {n}", SPEC | {"seed": n}, args.share) for n in range(args.processes)]
    side_by_side = together(shared, args.device)
    show(f"{args.processes} processes, each capped to {args.share:g}", side_by_side)
    good = side_by_side["process 0"].metrics == alone["alone"].metrics and not any(
        end.error for end in side_by_side.values()
    )
    if args.device != "cpu":
        disturbed = together([*shared, ("greedy", GREEDY, args.share)], args.device)
        show("the same beside one that needs more than its share", disturbed)
        good = good and disturbed.pop("greedy").error.startswith("OutOfMemoryError")
        good = good and all(disturbed[who].metrics == side_by_side[who].metrics for who in side_by_side)
    print("equal, digit for digit" if good else "NOT EQUAL")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
