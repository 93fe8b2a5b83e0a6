"""Table 2's Flowers column on the real Flowers 17 images, beside the paper's values, on one GPU without Ray.

    python -m tests.benchmarks.flowers_column --data-root DATA --write-plan plan.json
    python -m tests.benchmarks.flowers_column --data-root DATA --plan plan.json --store DIR --seconds 540 --device cuda

The first command needs the whole package. It takes cells and settings from the built-in grids p1-table2 and, for
vanilla ConRec, p1-table6 under their profile `paper`: 7 rows x 3 fractions x 3 seeds on 4 pretrainings, the network of
the paper at 128x128, but with fewer steps (--pretrain-steps, --finetune-steps), a curve with few points, and Flowers 17
in place of Flowers 102 for pretraining. What is not so for the paper is in the output.

The second needs torch, torchvision, numpy, scipy, pillow and safetensors. It works for about --seconds, ends with exit
code 75 and a line that says what is left, and the same command goes on, also inside a stage; 0: all is done, and the
table is printed (--table prints it at any time, --out writes it to a file as well); 1: all is done, but stages failed,
or a process broke off; 2: the request is wrong.
A kill at any moment loses at most what was done since the last checkpoint (--checkpoint-seconds).

    --parallel N   stages in N processes side by side, for a GPU that waits for its host
    --fused K      K cells of one pretraining and one size trained as one; the plan has to allow it, by
                   --set backend.fused=true
    --estimate     what has to be computed, counted, and how long it takes at several speeds; nothing is trained

The plan also fixes the precision (--set backend.precision=bfloat16), the first run in a store the kind of device. Every
minute a line tells what is in progress, the speed, and the time left at it.

What has to be kept to go on elsewhere are the files of DIR itself: `plan.json`, `results.json`, and the weights of the
pretrainings whose cells are not all done, in pieces of at most 15 MiB (18 MiB for SimCLR, 30 for the others; with
--parallel 1 there is never more than one). The folder `work` below it holds decoded images and the checkpoints of
stages in progress (some 70 MiB for a pretraining, 90 for a cell): without it those stages begin anew.

At 20,000 and 1,500 steps there are 219 PFLOP to compute: 137.5 for the pretrainings (a step of SimCLR 0.64 TFLOP,
of the others 2.1) and 81.6 for the cells (a step of 16 images 1.04).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.common import Report
from tests.benchmarks.flowers_column_run import FINISHED, Run, Store
from tests.benchmarks.flowers_column_table import make_plan, table, write_json

WRONG = 2  # the request is wrong, nothing has run
SPEEDS = (30, 45, 60, 100, 150, 200, 300)  # TFLOP/s, for --estimate


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The only run in this store, and no process of a killed one is left."""
    (folder / "work").mkdir(exist_ok=True)
    with (folder / "work" / "run.lock").open("w") as mine, (folder / "work" / "processes.lock").open("w") as processes:
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"{folder}: another run is at work there") from None
        fcntl.flock(processes, fcntl.LOCK_EX)  # they end at their next step
        fcntl.flock(processes, fcntl.LOCK_UN)
        for left in [*folder.glob("*.tmp"), *(folder / "work").glob("*/*.tmp")]:
            left.unlink()
        yield


def _opened(options: argparse.Namespace) -> Store:
    """The store with its plan; `--plan` is for the first run.

    Raises:
        SystemExit: there is no plan, or another one.
    """
    folder, own = options.store, options.store / "plan.json"
    folder.mkdir(parents=True, exist_ok=True)
    if options.plan is not None:
        given = json.loads(options.plan.read_text())
        if own.exists() and json.loads(own.read_text()) != given:
            raise SystemExit(f"{options.plan}: {folder} holds another plan; expected that one, or another --store")
        write_json(own, given)
    if not own.exists():
        raise SystemExit(f"{own}: no such file; expected --plan FILE, which --write-plan makes")
    return Store(folder)


def _check(store: Store, options: argparse.Namespace) -> None:
    """One way to compute for one table.

    Raises:
        SystemExit: this store was begun on another kind of device; its cells are not to be trained as one.
    """
    asked = options.device.partition(":")[0]
    before = store.results["device"] or asked
    if before != asked:
        raise SystemExit(
            f"{store.folder} was begun on {before}; expected the same, or another --store, but got {asked}"
        )
    cells = [stage for stage in store.stages.values() if stage["kind"] == "finetune"]
    if options.fused > 1 and not all(cell["spec"]["backend"]["fused"] for cell in cells):
        raise SystemExit("--fused: the plan does not allow it; expected one written with --set backend.fused=true")
    store.results["device"] = asked


def _estimate(store: Store, device: str) -> list[str]:
    """Operations by kind of stage, and seconds at several speeds."""
    import torch

    from tests.benchmarks.flowers_column_stages import count

    found = count(list(store.stages.values()), torch.device(device))
    store.results |= found
    lines = ["stage | TFLOP a step | steps | TFLOP in all"]
    each: dict[tuple[str, float, int], int] = {}
    for key, stage in store.stages.items():
        name = stage["name"] if stage["kind"] == "pretrain" else f"cell, {stage['spec']['data']['n_train']} train"
        row = (name, found["operations"][key] / 1e12, store.steps(key))
        each[row] = each.get(row, 0) + 1
    for (name, tera, steps), times in each.items():
        lines.append(f"{times} x {name} | {tera:.4f} | {steps:,} | {times * tera * steps:,.1f}")
    total = sum(tera * steps * times for (_, tera, steps), times in each.items())
    left = store.left({}) / 1e12
    lines.append(f"in all {total:,.1f} TFLOP, left {left:,.1f}, at " + ", ".join(
        f"{speed} TFLOP/s {left / speed:,.0f} s" for speed in SPEEDS
    ))  # fmt: skip
    return lines


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.flowers_column",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with flowers17/")
    parser.add_argument("--store", type=Path, help="folder of the results")
    parser.add_argument("--plan", type=Path, help="what --write-plan wrote; needed once")
    parser.add_argument("--seconds", type=float, default=math.inf, help="how long to work")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parallel", type=int, default=1, help="processes")
    parser.add_argument("--fused", type=int, default=1, help="cells that are trained as one")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0)
    parser.add_argument("--table", action="store_true", help="print what there is; nothing runs")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--write-plan", type=Path, metavar="FILE")
    parser.add_argument("--pretrain-steps", type=int, default=20_000, help="for --write-plan")
    parser.add_argument("--finetune-steps", type=int, default=1_500, help="for --write-plan")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for --write-plan")
    parser.add_argument("--only", action="append", default=[], metavar="AXIS=VALUE", help="for --write-plan")
    options = parser.parse_args(words)
    if options.write_plan is None and options.store is None:
        parser.error("expected --store DIR, or --write-plan FILE")
    if min(options.parallel, options.fused) < 1:
        parser.error("--parallel and --fused: expected at least 1")
    return options


def main() -> int:
    """Command line; returns the exit code."""
    began, options = time.monotonic(), parse_arguments()
    if options.write_plan is not None:
        steps = options.pretrain_steps, options.finetune_steps
        plan = make_plan(options.data_root, *steps, options.set, options.only)
        write_json(options.write_plan, plan)
        print(f"{options.write_plan}: {len(plan['cells'])} cells, {len(plan['stages'])} stages")
        return FINISHED
    store, code = _opened(options), FINISHED
    if options.estimate:
        print("\n".join(_estimate(store, options.device)))
        return FINISHED
    if not options.table:
        with _alone(options.store):
            store = Store(options.store)  # as the run before has left it
            store.tidy()
            _check(store, options)
            code = Run(store, options, began).go()
    if options.table or code == FINISHED or options.out:
        report = Report(options.out)
        for line in table(store.plan, store.results):
            report.line(line)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            sys.exit(WRONG)
        raise
