"""The second and third table of `tests.benchmarks.growth`: grids of ever more cells, and memory over many."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml

from tests.benchmarks.common import Report
from tests.benchmarks.memory import Sample, Watch
from tests.benchmarks.whole_grid import Figures, cells_of, ours
from tests.benchmarks.whole_grid_cells import Cells

WARM_UP = 0.2  # share of the cells after which memory is judged
LEAK = 5.0  # percent that the mean of the last quarter may lie above that of the first
COMMON = ("datasets.shapes.count=120",)  # images, most of them for evaluation
TINY = ("network.width=4", "finetune.steps=2", "finetune.batch=4", "finetune.report_every=2", "finetune.curve_images=4")
SMALL = ("finetune.steps=10",)
RANDOM = {"scenario": "random-init", "model": "Random"}
SIMCLR = {"scenario": "seg-enc", "model": "SimCLR", "pretext": "simclr"}


def request(folder: Path, name: str, cells: int, *, tiny: bool, workers: int) -> argparse.Namespace:
    """A grid of `cells` cells as `run_grid` and the benchmark of whole grids take it."""
    rows, fractions = ([RANDOM], [0.05]) if tiny else ([RANDOM, SIMCLR], [0.05, 0.2])
    content = {
        "grid": name, "title": name, "profile": "smoke", "rows": rows,
        "columns": [{"dataset": "shapes", "pretext_data": "shapes", "fractions": fractions}],
        "seeds": list(range(cells // (len(rows) * len(fractions)))),
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    sets = [*COMMON, *(TINY if tiny else SMALL)]
    return argparse.Namespace(grid=str(path), profile="smoke", data_root=folder, only=[], set=sets, processes=workers)


def run(asked: argparse.Namespace, folder: Path, watch: list[Watch] | None = None) -> tuple[Figures, Cells]:
    """One run in a folder of its own; `watch` gets what looked at its memory."""
    place = folder / f"{Path(asked.grid).stem}-{asked.processes}"
    place.mkdir()

    def beside(pid: int) -> Watch:
        found = Watch(pid)
        if watch is not None:
            watch.append(found)
        return found

    cells = cells_of(asked, place)
    return ours(asked, cells, place, beside), cells


def grid_table(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """Seconds of grids by cells and workers."""
    report.row(
        *("cells", "workers", "wall s", "start s", "ms a cell", "stages s", "ideal s", "after start / ideal"),
        *("speed-up", "without start"),
    )
    for count in options.cells:
        alone: Figures | None = None
        for workers in (1, 2):
            asked = request(folder, f"cells-{count}", count, tiny=False, workers=workers)
            found, cells = run(asked, folder)
            assert len(cells.leaves) == count, f"expected {count} cells, but the grid has {len(cells.leaves)}"
            alone = alone or found
            ideal = least(alone, cells, workers)
            report.row(
                *(str(count), str(workers), f"{found.wall:.1f}", f"{found.start:.1f}"),
                f"{1e3 * after_start(found) / count:.0f}",
                *(f"{found.device_seconds:.1f}", f"{ideal:.1f}", f"{after_start(found) / ideal:.2f}"),
                *(f"{alone.wall / found.wall:.2f}", f"{after_start(alone) / after_start(found):.2f}"),
            )


def after_start(found: Figures) -> float:
    return found.wall - found.start


def least(found: Figures, cells: Cells, workers: int) -> float:
    """Seconds that `workers` workers need at least for these stages."""
    seconds = {ran.key: ran.ended - ran.began for ran in found.stages}
    path = max(sum(seconds[key] for key in chain) for chain in cells.chains.values())
    return max(found.device_seconds / workers, path)


def memory_table(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """MB of the driver and of each worker that was there all the time."""
    watches: list[Watch] = []
    asked = request(folder, "memory", options.memory_cells, tiny=True, workers=2)
    found, cells = run(asked, folder, watches)
    ended = sorted(ran.ended for ran in found.stages)
    moments = [m for m in watches[0].moments if ended[int(WARM_UP * len(ended))] <= m.at <= ended[-1]]
    series = {"driver": [(m.at, m.driver) for m in moments]}
    lasting = set.intersection(*(set(m.workers) for m in moments)) if moments else set()
    series |= {f"worker {n}": [(m.at, m.workers[pid]) for m in moments] for n, pid in enumerate(sorted(lasting), 1)}
    report.line(
        f"# {len(cells.leaves)} cells in {found.wall:.0f} s, {1e3 * after_start(found) / len(ended):.0f} ms each; "
        f"{len(moments)} samples"
    )
    report.row("memory of", "first quarter MB", "last quarter MB", "MB per 1,000 cells", "verdict")
    for name, samples in series.items():
        report.row(name, *judged(samples, ended))


def judged(samples: list[Sample], ended: list[float]) -> list[str]:
    """Means of the first and last quarter of the samples, the slope against the cells that are done, the verdict."""
    done, megabytes = np.searchsorted(ended, [at for at, _ in samples]), np.array([mb for _, mb in samples])
    quarter = max(1, len(samples) // 4)
    first, last = megabytes[:quarter].mean(), megabytes[-quarter:].mean()
    slope = 1e3 * np.polyfit(done, megabytes, 1)[0]
    grown = 100 * (last / first - 1)
    verdict = f"{'no leak' if grown < LEAK else 'GROWS'}: {grown:+.1f} % from first to last quarter"
    return [f"{first:.0f}", f"{last:.0f}", f"{slope:+.1f}", verdict]
