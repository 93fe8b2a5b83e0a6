"""The first table of `tests.benchmarks.growth`: a training step against batch and image size."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.common import Report, ratios, spread
from tests.benchmarks.training_clock import time_steps
from tests.benchmarks.training_work import Setup, bare_loss, new_model, time_stage, write_photos

WARM_UP = 1
FEWEST_STEPS = 2
PHOTOS = 128
Point = tuple[int, int]  # batch and size
Times = dict[str, dict[Point, list[float]]]  # of limit and ours: ms of a step, one for each repeat


def step_table(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """Times of steps, then exponents."""
    torch.set_num_threads(1)
    batch, size = options.batches[0], options.sizes[min(1, len(options.sizes) - 1)]
    lines = {
        "batch": [(each, size) for each in options.batches],
        "side": [(batch, each) for each in options.sizes],
    }
    write_photos(folder, max(PHOTOS, 2 * max(options.batches)), 2 * max(options.sizes))
    rows: list[list[str]] = []
    report.row("step of", "batch", "size", "limit ms", "ours ms", "ours / limit", "limit us / image")
    for work in options.works:
        times = measure(options, folder, work, list(dict.fromkeys(chain(*lines.values()))))
        for point, limit in times["limit"].items():
            ours = times["ours"][point]
            each = 1e3 * statistics.median(limit) / point[0]
            shown = (spread(limit, 1), spread(ours, 1), spread(ratios(ours, limit)), f"{each:.0f}")
            report.row(work, *map(str, point), *shown)
        rows += [exponent_row(work, name, line, times) for name, line in lines.items() if len(set(line)) > 1]
    report.line()
    report.row("step of", "against", "at", "exponent of the limit", "of ours")
    for row in rows:
        report.row(*row)


def measure(options: argparse.Namespace, folder: Path, work: str, points: Sequence[Point]) -> Times:
    """All take their turn in each repeat."""
    times: Times = {who: {point: [] for point in points} for who in ("limit", "ours")}
    network = {"name": "conrec-unet", "width": options.width}
    setups = {point: Setup(folder, network, point[1], point[0], torch.device("cpu")) for point in points}
    limits = {}
    for point, setup in setups.items():
        model = new_model(setup, work)
        step = partial(model.step, bare_loss(setup, work, model.module, augmented=False))
        limits[point] = partial(time_steps, step, device=setup.device, warm_up=WARM_UP)
    steps = {}
    for point, limit in limits.items():
        once = limit(1)
        steps[point] = max(FEWEST_STEPS, round(options.seconds / once.seconds))
    for _ in range(options.repeats):
        for point, setup in setups.items():
            for who, found in (
                ("limit", limits[point](steps[point])),
                ("ours", time_stage(setup, work, steps[point], WARM_UP)[0]),
            ):
                times[who][point].append(1e3 * found.seconds / found.steps)
    return times


def exponent_row(work: str, name: str, line: Sequence[Point], times: Times) -> list[str]:
    """The slope of log time against log batch or log side, of each repeat."""
    along = 0 if name == "batch" else 1
    held = f"{'size' if name == 'batch' else 'batch'} {line[0][1 - along]}"
    shown = []
    for found in times.values():
        repeats = zip(*(found[point] for point in line), strict=True)
        logs = np.log([point[along] for point in line])
        shown.append(spread([float(np.polyfit(logs, np.log(each), 1)[0]) for each in repeats]))
    return [work, name, held, *shown]
