"""A whole grid as it ran, beside what it takes at least where every cell pretrains for itself.

    python -m tests.benchmarks.whole_grid_mini GRID --store DIR [--processes 2] [--out FILE]

In `mini` the 108 cells of p1-table2 would train 90 pretexts in hours, so peers are not run but reckoned, in their
favour: the stages' seconds are those that our run measured, and start-up, imports and idle processes count as nothing.
`tests.benchmarks.whole_grid` runs all of them, in small. DIR is the store of `run_grid GRID`, in which nothing else ran
before. Columns:

    stages     that are run; `pretrains` of them (preparations and trials are among the stages)
    device-s   seconds inside the stages' functions, all together
    wall       of ours, seconds from the begin of the first stage to the end of the last one; of the others device-s
               over the processes, or the longest way through the graph, whichever is more: nobody can be faster
    / ours     wall over ours
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.plan.build import restore_plan
from orchestrator.record.store import open_store
from tests.benchmarks.common import Report, header
from tests.benchmarks.whole_grid_cells import Cells

Records = Mapping[str, Mapping[str, Any]]


def wall(records: Records) -> float:
    """Seconds from the first stage's begin to the last one's end."""
    begun, ended = ([datetime.fromisoformat(r[at]) for r in records.values()] for at in ("started", "finished"))
    return (max(ended) - min(begun)).total_seconds()


def bound(seconds: Mapping[str, float], chains: Iterable[list[str]], total: float, processes: int) -> float:
    """What no schedule of `total` device-seconds can beat."""
    return max(total / processes, *(sum(seconds[key] for key in chain) for chain in chains))


def measure(grid: str, place: str, processes: int, report: Report) -> None:
    """Print the table of the newest plan of `grid`."""
    store = open_store(place)
    plan = restore_plan(store.load_plan(grid))
    leaves = dict.fromkeys(cell.key for cell in plan.cells if cell.constant is None)
    records = store.commits(leaves)
    cells = Cells.of(plan.stages, [key for key in leaves if key in records], Path())
    records = store.commits(cells.stages)
    seconds = {key: float(record["seconds"]) for key, record in records.items()}
    alone = [key for chain in cells.chains.values() for key in chain]
    report.line(f"{len(cells.leaves)} of {len(leaves)} cells finished; {processes} processes")
    report.row("contender", "stages", "pretrains", "device-s", "wall s", "/ ours")
    ours = wall(records)
    for name, keys in (
        ("ours, as it ran", list(seconds)),
        ("least, every stage once", list(seconds)),
        ("least, every cell for itself", alone),
    ):
        total = sum(seconds[key] for key in keys)
        took = ours if name.startswith("ours") else bound(seconds, cells.chains.values(), total, processes)
        pretrains = sum(records[key]["kind"] == "pretrain" for key in keys)
        report.row(name, str(len(keys)), str(pretrains), f"{total:.0f}", f"{took:.0f}", f"{took / ours:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--store", required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the report there too")
    options = parser.parse_args()
    report = Report(options.out)
    report.line(header("tests.benchmarks.whole_grid_mini", ("torch", "ray", "mlflow")))
    measure(options.grid, options.store, options.processes, report)


if __name__ == "__main__":
    main()
