"""One table by four ways of running it: ours, Ray Tune, Hydra and a shell loop, with the same stages' functions in all.

    python -m tests.benchmarks.whole_grid [--grid p1-table2] [--profile smoke] [--data-root DIR] [--only AXIS=VALUE ...]
        [--set KEY=VALUE ...] [--processes 2] [--contenders limit ours ...] [--repeats 1] [--out FILE]
    python -m tests.benchmarks.whole_grid --plans       only the second table

By default 24 cells on synthetic shapes, their pretraining ten times as long as their finetuning (in the papers it is
thirty times as long). `ours` is `run_grid` as a user calls it, with its store and MLflow. The others run a whole cell
at a time: pretraining, then finetuning, in as many processes at once. `shell` is a loop over processes, `ray-tune` one
trial a cell as its documentation shows it, `hydra` a multirun of the joblib launcher. All wall times include start-up,
imports and, of ours, planning; every contender starts with an empty cache. That cells have the same metrics to the last
digit whoever ran them is checked. Columns:

    wall       seconds from the command to its end
    start      of these, seconds before the first stage begins
    stages     that were run; `pretrains` of them
    device-s   seconds inside the stages' functions, all together: what devices would be paid for
    / least    that over the device-seconds of the limit
    work       the same ratio where every stage that was run costs what it cost the limit: other load does not change it
    / limit    wall time over that of the limit, the least possible here: warm processes, every stage once, the longest
               first, nothing kept or logged

The second table is of the plans: for every built-in grid that trains cells, at paper sizes, the estimated device-hours
if each cell pretrained for itself, those of the plan for the same cells, and their ratio. Hours of one CPU core, as a
first `--dry-run` estimates them; no data are needed for it, so evaluations are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.common import Report, header, spread
from tests.benchmarks.whole_grid_cells import SEVERAL, Cells, Ran, read_ran

if TYPE_CHECKING:
    from orchestrator.plan.stages import Plan, Stage

PACKAGES = ("torch", "ray", "mlflow", "hydra-core", "hydra-joblib-launcher")
DEFAULT_ONLY = ("dataset=flowers17", "fraction=0.05", "fraction=0.2", "seed=0", "seed=1")
DEFAULT_SET = ("pretrain.steps=60", "finetune.steps=6")
Beside = Callable[[int], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Figures:
    """What a contender needed, and the metrics that it found, by cell."""

    wall: float
    start: float
    stages: list[Ran]
    metrics: Mapping[str, Mapping[str, float]]

    @property
    def device_seconds(self) -> float:
        return sum(ran.ended - ran.began for ran in self.stages)

    @property
    def pretrains(self) -> int:
        return sum(ran.kind == "pretrain" for ran in self.stages)


def asked(options: argparse.Namespace) -> list[str]:
    """The words of `run_grid` that say which cells."""
    words = [options.grid, "--profile", options.profile, "--data-root", str(options.data_root)]
    for name in ("only", "set"):
        for value in getattr(options, name):
            words += [f"--{name}", value]
    return words


def cells_of(options: argparse.Namespace, folder: Path) -> Cells:
    """The cells of the request, each with the stages that it stands on."""
    from orchestrator.grid.load import load_request
    from orchestrator.plan.build import build

    request = load_request(options.grid, profile=options.profile, overrides=options.set, only=options.only)
    built = build([request], options.data_root, cache_dir=folder / "cache")
    plan = built.plans[0]
    blocked = sorted({stage.blocked for stage in plan.stages.values() if stage.blocked})
    if built.faults or blocked:
        sys.exit(f"{options.grid}: expected data for every cell, but got: {', '.join([*built.faults, *blocked])}")
    keys = dict.fromkeys(cell.key for cell in plan.cells if cell.constant is None)
    return Cells.of(plan.stages, list(keys), options.data_root)


def ours(options: argparse.Namespace, cells: Cells, folder: Path, beside: Beside = nullcontext) -> Figures:
    """`run_grid` itself, and what its store says of the stages.

    Args:
        beside: entered with the process id of `run_grid` while it runs.
    """
    from datetime import datetime

    from orchestrator.record.store import open_store

    store = folder / "runs"
    words = ["-m", "orchestrator.run_grid", *asked(options), "--store", str(store), "--json"]
    began = time.time()
    out = _run([*words, "--max-concurrent", str(options.processes)], folder, beside)
    wall, told = time.time() - began, json.loads(out)
    records = open_store(str(store)).commits(cells.stages)
    assert told["failed"] == told["blocked"] == 0 and set(records) == set(cells.stages), told
    times = {
        key: [datetime.fromisoformat(r[at]).timestamp() for at in ("started", "finished")] for key, r in records.items()
    }
    ran = [Ran(key, records[key]["kind"], first, first + records[key]["seconds"]) for key, (first, _) in times.items()]
    metrics = {key: records[key]["metrics"] for key in cells.leaves}
    return Figures(wall, min(one.began for one in ran) - began, ran, metrics)


def other(name: str, options: argparse.Namespace, cells: Cells, folder: Path) -> Figures:
    """One of the others, in a process of its own; every stage notes when it ran."""
    cells.write(folder)
    began = time.time()
    _run(["-m", "tests.benchmarks.whole_grid_cells", name, str(folder), str(options.processes)], folder)
    wall = time.time() - began
    ran, metrics = read_ran(folder)
    expected = len(cells.stages) if name == "limit" else sum(map(len, cells.chains.values()))
    assert len(ran) == expected and metrics.keys() == set(cells.leaves), f"{name}: {len(ran)} of {expected} stages"
    return Figures(wall, min(one.began for one in ran) - began, ran, metrics)


def _run(words: list[str], folder: Path, beside: Beside = nullcontext) -> str:
    env = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
        "TRANSFERGRID_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp"),
    }  # fmt: skip
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=said, text=True, env=env)
        with process, beside(process.pid):
            out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(words)}: exit code {process.returncode}\n{(folder / 'said.txt').read_text()[-3000:]}")
    return out


def measure(options: argparse.Namespace, report: Report) -> None:
    """The first table."""
    found: dict[str, list[Figures]] = {name: [] for name in options.contenders}
    with tempfile.TemporaryDirectory(prefix="whole-grid-") as place:
        cells = cells_of(options, Path(place))
        for repeat in range(options.repeats):
            for name in options.contenders:
                folder = Path(place) / f"{name}-{repeat}"
                folder.mkdir()
                figures = ours(options, cells, folder) if name == "ours" else other(name, options, cells, folder)
                found[name].append(figures)
    report.line(f"{len(cells.leaves)} cells, {len(cells.stages)} different stages; {options.processes} processes")
    report.row(
        "contender", "wall s", "start s", "stages", "pretrains", "device-s", "/ least", "work", "/ limit", "/ ours"
    )
    for name, figures in found.items():
        report.row(*_row(name, figures, found))
    everyone = [one.metrics for figures in found.values() for one in figures]
    assert all(metrics == everyone[0] for metrics in everyone), "contenders found different metrics"
    report.line(f"metrics of all {len(cells.leaves)} cells: equal to the last digit in all {len(everyone)} runs")


def _row(name: str, figures: list[Figures], found: Mapping[str, list[Figures]]) -> list[str]:
    def over(other: str, value: str) -> str:
        pairs = zip(figures, found.get(other, []), strict=False)
        return spread([getattr(own, value) / getattr(one, value) for own, one in pairs]) if other in found else "-"

    first = figures[0]
    return [
        *(name, spread([one.wall for one in figures], 0), spread([one.start for one in figures], 0)),
        *(str(len(first.stages)), str(first.pretrains), spread([one.device_seconds for one in figures], 0)),
        *(over("limit", "device_seconds"), _work(figures, found), over("limit", "wall"), over("ours", "wall")),
    ]


def _work(figures: list[Figures], found: Mapping[str, list[Figures]]) -> str:
    if "limit" not in found:
        return "-"
    price = {ran.key: ran.ended - ran.began for ran in found["limit"][0].stages}
    return f"{sum(price[ran.key] for ran in figures[0].stages) / sum(price.values()):.2f}"


def plans(report: Report) -> None:
    """The second table."""
    from orchestrator.execute.preparation import examined, unfold
    from orchestrator.grid.load import builtin_grids, load_request
    from orchestrator.plan.diff import diff, summary
    from orchestrator.record.store import open_store

    requests = [load_request(name, profile="paper") for name in builtin_grids() if name != "smoke"]
    with tempfile.TemporaryDirectory(prefix="whole-grid-") as nothing:
        examination = examined(requests, Path(nothing), lambda text: None)
        built = unfold(examination, open_store(f"{nothing}/runs", create=True)).plans
    report.row("grid at paper sizes", "cells", "trainings shared", "alone", "alone h", "shared h", "alone / shared")
    for name, several in [*((plan.grid, [plan]) for plan in built), ("all together", list(built))]:
        told = summary(diff(several, set()))
        stages = {key: stage for plan in several for key, stage in plan.stages.items()}
        shared = needed(stages, several)
        trained = sum(stage.kind in ("pretrain", "trial") for stage in shared)
        seconds = sum(stage.cost for stage in shared)
        figures = sum(stage.cost for stage in stages.values()) - seconds  # no cell needs them
        hours = [(told["naive_device_seconds"] - figures) / 3600, seconds / 3600]
        if told["cells"]:
            report.row(
                *(name, str(told["cells"]), str(trained), str(told["naive_pretrain_stages"])),
                *(*(f"{each:,.0f}" for each in hours), f"{hours[0] / hours[1]:.1f}"),
            )


def needed(stages: Mapping[str, Stage], several: list[Plan]) -> list[Stage]:
    """Cells, and what is trained for them."""
    trials: dict[str, list[str]] = {}
    for key, stage in stages.items():
        if stage.study is not None:
            trials.setdefault(stage.study, []).append(key)
    waiting = [cell.key for plan in several for cell in plan.cells if cell.key in stages]
    found: dict[str, Stage] = {}
    while waiting:
        key = waiting.pop()
        if key not in found:
            stage = found[key] = stages[key]
            waiting += [*stage.parents.values(), *(t for study in stage.awaits.values() for t in trials[study])]
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="p1-table2")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--only", action="append", metavar="AXIS=VALUE")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--contenders", nargs="+", choices=SEVERAL, default=list(SEVERAL))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--plans", action="store_true", help="only the plans at paper sizes")
    parser.add_argument("--out", type=Path, help="write the report there too")
    options = parser.parse_args()
    if options.grid == "p1-table2" and options.profile == "smoke":
        options.only, options.set = options.only or list(DEFAULT_ONLY), options.set or list(DEFAULT_SET)
    options.only, options.set = options.only or [], options.set or []
    report = Report(options.out)
    report.line(header("tests.benchmarks.whole_grid", PACKAGES))
    if not options.plans:
        report.line(f"# {' '.join(asked(options))}")
        measure(options, report)
        report.line()
    plans(report)


if __name__ == "__main__":
    main()
