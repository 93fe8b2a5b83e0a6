"""How costs grow: a training step with batch and image size, a grid with cells and workers, memory with cells.

    python -m tests.benchmarks.growth [--only steps grids memory] [--works finetune simclr] [--batches 4 8 16 32 64]
        [--sizes 32 64 128] [--cells 12 36 72] [--memory-cells 1000] [--repeats 3] [--seconds 0.2] [--out FILE]

Table 1, one core: milliseconds of a training step of the stage's own function (as `ours` in
`tests.benchmarks.training_step`) and of the limit (model, loss and optimiser on ready-made views), for each batch at
the second size and for each size at the first batch. All take their turn in each repeat; medians, with the least and
the largest in brackets. The exponent is the slope of a line through the logarithms, against the batch and against the
side of the images: 1 and 2 where time follows the number of pixels, less where something is paid for once a step.

Table 2: `run_grid` through real Ray on grids of ever more small cells (profile `smoke` with 10 steps a cell; half of
them from one SimCLR pretraining), with at most 1 and 2 packs at a time. Columns:

    wall       seconds from the command to its end; `start` of these before the first stage begins
    ms a cell  from the beginning of the first stage to the end of the command, by cell
    stages     seconds inside the stages' functions, all together
    ideal      seconds that N workers need at least: the larger of stages / N and the longest chain of stages, both as
               they were with one worker
    speed-up   of two workers over one: of the wall time, and without the start

Table 3: resident memory of the driver and its workers over cells that really train (two steps of a network of width 4),
two packs at a time, sampled twice a second. Mapped files and shared memory count too. `MB per 1,000 cells` is the slope
of a line against the cells that are done, after the first fifth of them; a worker runs only its share of the cells.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.benchmarks.common import Report, header
from tests.benchmarks.growth_grids import grid_table, memory_table
from tests.benchmarks.growth_steps import step_table
from tests.benchmarks.training_work import WORKS

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "numpy")
TABLES = {"steps": step_table, "grids": grid_table, "memory": memory_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--works", nargs="+", choices=WORKS, default=["finetune", "simclr"])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--width", type=int, default=8, help="of the network in the first table")
    parser.add_argument("--repeats", type=int, default=3, help="of the first table")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each measurement of a step; at least 2 steps")
    parser.add_argument("--cells", type=int, nargs="+", default=[12, 36, 72], help="multiples of 4")
    parser.add_argument("--memory-cells", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="write the report there too")
    options = parser.parse_args()
    if wrong := [count for count in options.cells if count < 4 or count % 4]:
        parser.error(f"--cells {wrong[0]}: expected a multiple of 4")
    began, report = time.monotonic(), Report(options.out)
    report.line(header("tests.benchmarks.growth", PACKAGES))
    # Ray's sockets need a short path, and its workers would make room for everything else on the machine.
    with tempfile.TemporaryDirectory(prefix="growth-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ |= {"RAY_TMPDIR": folder, "RAY_worker_niceness": "0"}
        for name in options.only:
            TABLES[name](options, Path(folder), report)
            report.line()
    report.line(f"# {time.monotonic() - began:.0f} s, all together")


if __name__ == "__main__":
    main()
