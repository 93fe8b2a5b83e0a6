"""Many small finetune cells on one device: one at a time, in several processes, and fused into one batched model.

    python -m tests.benchmarks.fusion [--cells 1 2 4 8 16] [--processes 2] [--width 8] [--size 64] [--batch 8]
        [--precision float32|bfloat16]
    python -m tests.benchmarks.fusion --device cuda --processes 2 4 8 --width 64 --size 128 --batch 16 --steps 60

Needs torch, torchvision, numpy, scipy, pillow and safetensors; no Ray. Each line is a way to train cells of the real
stage on synthetic data (`finetune`, `train_fused`; reading, augmentation and optimiser are in it, curves and evaluation
are not): optimiser steps of all cells together per minute, and their ratio to one at a time in the same repeat, medians
with the least and the largest in brackets; and the share of the arithmetic limit, that is floating-point operations per
second (of convolutions and their gradients, counted by torch) against a dense product of matrices of the same precision
on the same device in the same run. The last loss of the cell with seed 0 shows that all ways train the same. A way that
fails says why, and the others go on. The ways take turns, so that other load hits all alike. On a CPU every process has
one thread, and the limit is that of as many threads as the way has processes. On a GPU processes share it as the driver
lets them, and the last column is the peak of allocated memory for each cell. The defaults take two minutes on two CPU
cores.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.common import Report, header, ratios, spread
from trainables.context import Context
from trainables.downstream.finetune import finetune
from trainables.downstream.fused_cell import Cell
from trainables.downstream.fused_training import train_fused
from trainables.losses.dice import dice_loss
from trainables.networks import build_network, place
from trainables.numeric import apply_backend
from trainables.settings import BackendSettings, parse, parse_network
from trainables.training import use_backend

WARM_UP = 3  # steps before the clock starts
PATIENCE = 900  # seconds to wait for a process


class Failed(Exception):
    """A process did not train its cell; says why."""


class Timed(Context):
    """Notes when the clock starts and stops, on the device: after the warm-up, and before the last step, whose point of
    the curve does not count."""

    began = ended = math.nan

    def progress(self, step: int, steps: int) -> None:
        if step in (WARM_UP, steps - 1):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            now = time.monotonic()
            self.began, self.ended = (now, self.ended) if step == WARM_UP else (self.began, now)


Measured = tuple[float, float]  # optimiser steps per minute of all cells together, last loss of the first cell


@dataclass
class Way:
    """One line of the table: steps per minute of all cells together, by repeat."""

    name: str
    processes: int = 1
    rates: list[float] = field(default_factory=list)
    loss: float = math.nan
    bytes_per_cell: float = math.nan
    fault: str = ""


def spec(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """A cell: `--images` train, as many evaluate, but the curve looks at one of them."""
    return {
        "scenario": "random-init",
        "frozen": False,
        "network": {"name": options.network, "width": options.width},
        "data": {
            "reader": "shapes",
            "options": {"count": 5 * options.images, "size": options.size},
            "fraction": None,
            "n_train": options.images,
        },
        "finetune": {
            "steps": WARM_UP + options.steps + 1,
            "batch": options.batch,
            "input_size": options.size,
            "report_every": 10**9,
            "curve_images": 1,
        },
        "backend": {"threads": 1, "precision": options.precision},
        "seed": seed,
    }


def contexts(options: argparse.Namespace, folder: str, count: int) -> list[Timed]:
    return [
        Timed(folder, f"{folder}/work", device=options.device, cache_dir=folder, checkpoint_seconds=math.inf)
        for _ in range(count)
    ]


def one_at_a_time(options: argparse.Namespace, folder: str) -> Measured:
    """A cell alone."""
    (context,) = contexts(options, folder, 1)
    finetune(spec(options, 0), context)
    return 60 * options.steps / (context.ended - context.began), context.history[-1]["train_loss"]


def fused(options: argparse.Namespace, folder: str, cells: int) -> Measured:
    """`cells` cells as one."""
    given = contexts(options, folder, cells)
    batch = [Cell(spec(options, seed), context) for seed, context in enumerate(given)]
    train_fused(batch)  # what `finetune_fused` does, but for one cell, too
    for cell in batch:
        if isinstance(cell.outcome, Exception):
            raise cell.outcome
    seconds = max(context.ended for context in given) - min(context.began for context in given)
    return 60 * cells * options.steps / seconds, given[0].history[-1]["train_loss"]


def worker(options: argparse.Namespace, folder: str, turn: Connection) -> None:
    """A process that trains a cell whenever it is its turn, until its first fault. Sends None when it is ready, then
    what it has measured, or why it has not."""
    while True:
        try:
            turn.send(None)
            turn.recv()
        except (EOFError, ConnectionError):  # whoever gives the turns has ended
            return
        try:
            turn.send(one_at_a_time(options, folder))
        except Exception as fault:
            turn.send(reason(fault))
            return


def reason(fault: Exception) -> str:
    """In one line."""
    return f"{type(fault).__name__}: {str(fault).strip().splitlines()[0] if str(fault).strip() else 'no message'}"


class Processes:
    """Several processes, each with a cell at a time."""

    def __init__(self, options: argparse.Namespace, folder: str, count: int) -> None:
        self._workers: list[tuple[BaseProcess, Connection]] = []
        spawn = multiprocessing.get_context("spawn")
        for _ in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=worker, args=(options, folder, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            self._workers.append((process, ours))

    def side_by_side(self) -> Measured:
        """A cell in each of them.

        Raises:
            Failed: one of them had a fault, died or takes too long; all have been ended.
        """
        try:
            self._answers()  # all are ready
            for _, turn in self._workers:
                turn.send("go")
            found: list[Measured] = self._answers()
        except (Failed, OSError) as fault:
            for process, _ in self._workers:
                process.terminate()
                process.join()
            raise Failed(str(fault)) from fault
        return sum(rate for rate, _ in found), found[0][1]

    def _answers(self) -> list[Any]:
        """The next message of each process."""
        answers: dict[int, Any] = {}
        while len(answers) < len(self._workers):
            awaited = {turn: n for n, (_, turn) in enumerate(self._workers) if n not in answers}
            come = wait(list(awaited), timeout=PATIENCE)
            if not come:
                raise Failed(f"no answer within {PATIENCE} s")
            for turn in come:
                number = awaited[turn]  # type: ignore[index]
                answers[number] = self._answer(number)
        return [answers[number] for number in range(len(self._workers))]

    def _answer(self, number: int) -> Any:
        process, turn = self._workers[number]
        try:
            answer = turn.recv()
        except (EOFError, OSError) as fault:  # it has died; a pipe ends with its process
            process.join()
            code = process.exitcode or 0
            raise Failed(f"a process ended with {signal.Signals(-code).name if code < 0 else code}") from fault
        if isinstance(answer, str):
            raise Failed(answer)
        return answer


def operations_per_step(options: argparse.Namespace) -> float:
    """Of convolutions and their gradients, for one cell."""
    device, asked = torch.device(options.device), spec(options, 0)
    network = build_network(parse_network(asked["network"]), 1)
    backend = parse(BackendSettings, asked["backend"])
    place(network, device, backend.precision)
    apply_backend(network, backend, device)
    images = torch.rand(options.batch, 3, options.size, options.size, device=device)
    masks = torch.zeros(options.batch, options.size, options.size, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(dice_loss(network(images), masks))
    return float(counter.get_total_flops())


def matmul_peak(options: argparse.Namespace) -> float:
    """The best of ten: operations per second of a product of square matrices of the networks' precision."""
    side = 8192 if options.device.startswith("cuda") else 1024
    dtype = torch.bfloat16 if options.precision == "bfloat16" else torch.float32
    a, b = (torch.rand(side, side, device=options.device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(10):
        _synchronise(options)
        began = time.monotonic()
        torch.matmul(a, b)
        _synchronise(options)
        best = min(best, time.monotonic() - began)
    return 2 * side**3 / best


def measure(options: argparse.Namespace, folder: str) -> list[Way]:
    """All ways in turns; a first round warms up and does not count."""
    pools = {count: Processes(options, folder, count) for count in options.processes}
    ways: list[tuple[Way, Any]] = [(Way("one at a time"), lambda: one_at_a_time(options, folder))]
    ways += [(Way(f"{count} processes", count), pool.side_by_side) for count, pool in pools.items()]
    ways += [(Way(f"fused {count}"), lambda count=count: fused(options, folder, count)) for count in options.cells]
    for repeat in range(options.repeats + 1):
        for way, run in ways:
            if way.fault:
                continue
            if options.device.startswith("cuda"):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                rate, way.loss = run()
            except Exception as fault:
                if way is ways[0][0]:  # what all others are compared with
                    raise
                way.fault = "out of memory" if isinstance(fault, torch.OutOfMemoryError) else reason(fault)
                continue
            if repeat:
                way.rates.append(rate)
            if options.device.startswith("cuda") and way.processes == 1:
                cells = int(way.name.split()[1]) if way.name.startswith("fused") else 1
                way.bytes_per_cell = torch.cuda.max_memory_allocated() / cells
    return [way for way, _ in ways]


def table(options: argparse.Namespace, ways: Sequence[Way], peak: float, operations: float) -> list[str]:
    """The lines to print."""
    on_gpu = options.device.startswith("cuda")
    lines = [
        header("tests.benchmarks.fusion", ("torch",), torch.cuda.get_device_name(options.device) if on_gpu else ""),
        f"# {options.network} {options.width}, {options.size}x{options.size}, batch {options.batch}"
        f"{'' if on_gpu else ', 1 thread a process'}; {options.steps} steps, {options.repeats} repeats",
        f"# {operations / 1e9:.1f} GFLOP a step; limit {peak / 1e12:.3f} TFLOP/s ({options.precision} product)",
        "way | cell-steps/min | ratio to one at a time | share of the limit | last loss | MiB a cell",
    ]
    for way in ways:
        if way.fault:
            lines.append(f"{way.name} | {way.fault} | | | |")
            continue
        rate, limit = statistics.median(way.rates), peak if on_gpu else peak * way.processes
        memory = "" if math.isnan(way.bytes_per_cell) else f"{way.bytes_per_cell / 2**20:.0f}"
        faster = spread(ratios(way.rates, ways[0].rates))
        share = rate / 60 * operations / limit
        lines.append(f"{way.name} | {spread(way.rates, 0)} | {faster} | {share:.3f} | {way.loss:.5f} | {memory}")
    return lines


def _synchronise(options: argparse.Namespace) -> None:
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.fusion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="fused cells")
    parser.add_argument("--processes", type=int, nargs="*", default=[2])
    parser.add_argument("--network", default="conrec-unet")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    numbers = {"width": 8, "size": 64, "batch": 8, "images": 16, "steps": 6, "repeats": 3}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="file for the table")
    return parser.parse_args()


def main() -> int:
    """Command line; returns the exit code."""
    options = parse_arguments()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU here; `--device cpu` tries the script out", file=sys.stderr)
        return 2
    use_backend(BackendSettings())
    with tempfile.TemporaryDirectory() as folder:
        operations, peaks = operations_per_step(options), [matmul_peak(options)]
        ways = measure(options, folder)
        peaks.append(matmul_peak(options))
        lines = table(options, ways, max(peaks), operations)
    report = Report(options.out)
    for line in lines:
        report.line(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
