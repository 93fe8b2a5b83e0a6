"""Planning at scale, on one core: expansion, keys, graph and diff of 100,000 cells against a store that holds half.

    python -m tests.benchmarks.planning [--cells 100000] [--files 0]

`--files 100000` also makes a data set of so many small PNG files (hard links) and times `run_grid p1-table2 --dry-run`
on it, as a new process: once while its manifest is made, then three times with it. Everything lies in a temporary
folder. The *limit* beside the first table is what nobody can do without: one canonical JSON and sha256 per stage.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
Line = tuple[str, float, float]  # name, seconds, seconds of the processor
ROWS, COLUMNS, FRACTIONS = 20, 5, 10
MODELS = ("simclr", "reconstruction", "conrec")


def grid_file(folder: Path, cells: int) -> Path:
    """20 rows on 10 pretrains each on its own data set, 5 data sets x 10 fractions, and seeds to fill up."""
    rows: list[dict[str, Any]] = [{"scenario": "random-init", "model": "Random"}]
    for number in range(ROWS - 1):
        model = f"{MODELS[number % 3]}-{number}"
        rows.append({"scenario": "cls-enc", "model": model, "pretext": model})
    datasets = {f"set-{n}": {"reader": "shapes", "count": 2000, "seed": n} for n in range(COLUMNS)}
    columns = [
        {"dataset": name, "pretext_data": name, "fractions": [round(0.05 * (n + 1), 2) for n in range(FRACTIONS)]}
        for name in datasets
    ]
    pretexts = {
        row["model"]: {"method": MODELS[n % 3], "pretrain": {"steps": 1000 + n}} for n, row in enumerate(rows[1:])
    }
    content = {
        "grid": "large", "title": "Large", "train_sizes": "fraction", "rows": rows, "columns": columns,
        "datasets": datasets, "pretexts": pretexts, "seeds": list(range(cells // (ROWS * COLUMNS * FRACTIONS))),
    }  # fmt: skip
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def timed(name: str, action: Callable[[], T], lines: list[Line]) -> T:
    began, worked = time.perf_counter(), time.process_time()
    result = action()
    lines.append((name, time.perf_counter() - began, time.process_time() - worked))
    return result


def plan_many(cells: int, folder: Path) -> None:
    from orchestrator.execute.frontier import Frontier
    from orchestrator.grid.load import load_request
    from orchestrator.plan.build import build
    from orchestrator.plan.diff import diff, summary
    from orchestrator.plan.durations import costed, worth_reading
    from orchestrator.plan.keys import canonical
    from orchestrator.record.store import open_store

    before = _peak()
    lines: list[Line] = []
    path = grid_file(folder, cells)
    request = timed("read the grid", lambda: load_request(str(path)), lines)
    built = timed("data, expansion, keys", lambda: build([request], folder, cache_dir=folder / "cache"), lines)
    stages = built.plans[0].stages
    store = open_store(str(folder / "store"), create=True)
    fill(folder / "store", list(stages.values())[: len(stages) // 2])
    finished = timed("list what is finished", store.finished, lines)
    timed("read old failures", lambda: store.failures(stages.keys() - finished), lines)
    records = timed("read durations", lambda: store.commits(worth_reading(stages, finished)), lines)
    timed("learn costs", lambda: costed(stages, records.values()), lines)
    found = timed("diff", lambda: diff(built.plans, finished), lines)
    totals = timed("count", lambda: summary(found), lines)
    timed("graph", lambda: Frontier(found.to_run, finished=found.keys("reused")), lines)
    lines.append(("together", sum(line[1] for line in lines), sum(line[2] for line in lines)))
    peak, began, worked = _peak(), time.perf_counter(), time.process_time()
    for stage in stages.values():
        hashlib.sha256(canonical(stage.spec).encode()).hexdigest()
    lines.append(("the limit", time.perf_counter() - began, time.process_time() - worked))
    print(f"{totals['cells']} cells, {len(stages)} stages, {totals['reused']} of them in the store, one core")
    print("step | seconds | of the processor | us a cell")
    for name, seconds, busy in lines:
        print(f"{name} | {seconds:.2f} | {busy:.2f} | {1e6 * busy / totals['cells']:.0f}")
    print(f"memory | {peak:.0f} MB at most, {before:.0f} MB of it before planning")


def fill(root: Path, stages: list[Any]) -> None:
    """Commits of stages, as a store keeps them; written beside it, since only their reading is timed."""
    import json

    folder = root / "commits"
    folder.mkdir(parents=True)
    for stage in stages:
        ended = {"outcome": "succeeded", "seconds": 1.0, "metrics": {"dice": 0.5}, "facts": {}, "artifacts": {}}
        record = {**stage.record(), **ended}
        (folder / f"{stage.key}.json").write_text(json.dumps(record))


def _peak() -> float:
    """The most memory this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def dry_run(files: int, folder: Path) -> None:
    """`--dry-run` of p1-table2 with and without a large data set in the place of all its own."""
    print("\np1-table2 --dry-run, new processes")
    empty = folder / "nothing"
    empty.mkdir()
    print(f"without data | {_runs(empty, folder, [])} s")
    if not files:
        return
    from PIL import Image

    root = folder / "data"
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        place = root / kind
        place.mkdir(parents=True)
        first = place / "0000000.png"
        picture = Image.new(mode, (8, 8))
        picture.putpixel((0, 0), 1 if mode == "L" else (1, 1, 1))
        picture.save(first)
        for number in range(1, files // 2):
            if number % 30_000 == 0:  # file systems limit the links of one file
                first = place / f"{number:07d}.png"
                shutil.copy(place / "0000000.png", first)
                continue
            os.link(first, place / f"{number:07d}.png")
    stand_in = ["--set", "datasets.many.reader=folder", "--set", f"datasets.many.path={root}"]
    stand_in += [w for name in ("flowers17", "flowers102", "pets") for w in ("--set", f"stand_ins.{name}=many")]
    stand_in += ["--set", "train_sizes=fraction"]
    print(f"{files} files, no manifest yet | {_run(empty, folder, stand_in):.2f} s")
    print(f"{files} files, with manifest | {_runs(empty, folder, stand_in)} s")


def _runs(data: Path, folder: Path, more: list[str]) -> str:
    times = [_run(data, folder, more) for _ in range(3)]
    return f"{statistics.median(times):.2f} (of {', '.join(f'{t:.2f}' for t in times)})"


def _run(data: Path, folder: Path, more: list[str]) -> float:
    command = [sys.executable, "-m", "orchestrator.run_grid", "p1-table2", "--dry-run", "--json"]
    command += ["--data-root", str(data), "--store", str(folder / "runs"), *more]
    began = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRANSFERGRID_CACHE": str(folder / "cache")}
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="transfergrid-planning-") as folder:
        plan_many(options.cells, Path(folder))
        dry_run(options.files, Path(folder))


if __name__ == "__main__":
    main()
