"""The contenders of `tests.benchmarks.whole_grid` besides ours: what each writes around the same stages' functions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

SEVERAL = ("limit", "ours", "shell", "ray-tune", "hydra")


@dataclass(frozen=True)
class Ran:
    """A stage that was run, with seconds since 1970."""

    key: str
    kind: str
    began: float
    ended: float


@dataclass(frozen=True)
class Cells:
    """What is to be run: stages by key (kind, spec, parents, cost), and for each cell its stages, parents first."""

    stages: Mapping[str, Mapping[str, Any]]
    chains: Mapping[str, list[str]]
    data_root: str

    @property
    def leaves(self) -> list[str]:
        return list(self.chains)

    @classmethod
    def of(cls, stages: Mapping[str, Any], leaves: list[str], data_root: Path) -> Cells:
        """From the stages of a plan."""

        def chain(key: str) -> list[str]:
            above = [name for parent in stages[key].parents.values() for name in chain(parent)]
            return [*dict.fromkeys(above), key]

        chains = {leaf: chain(leaf) for leaf in leaves}
        used = dict.fromkeys(key for keys in chains.values() for key in keys)
        kept = {
            key: {"kind": s.kind, "spec": dict(s.spec), "parents": dict(s.parents), "cost": s.cost}
            for key, s in ((key, stages[key]) for key in used)
        }
        return cls(kept, chains, str(data_root))

    def write(self, folder: Path) -> None:
        (folder / "cells.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Cells:
        return cls(**json.loads((folder / "cells.json").read_text()))


def run_stage(cells: Cells, key: str, weights: Mapping[str, Any], folder: Path) -> Any:
    """Run a stage with its parents' weights, by key; notes when, and its metrics, in a file."""
    from trainables.context import Context
    from trainables.stages import STAGES

    began, stage = time.time(), cells.stages[key]
    parents = {role: weights[parent] for role, parent in stage["parents"].items()}
    work = folder / "work" / f"{key}-{os.getpid()}"
    context = Context(cells.data_root, work, parents=parents, cache_dir=folder / "cache")
    result = STAGES[stage["kind"]](stage["spec"], context)
    ran = asdict(Ran(key, stage["kind"], began, time.time()))
    place = folder / "ran" / f"{key}-{os.getpid()}-{time.time_ns()}.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps({**ran, "metrics": result.metrics}))
    return result.weights


def run_cell(folder: Path, leaf: str) -> None:
    """A cell from its very beginning, as a script that knows nothing of other cells."""
    cells, weights = Cells.read(folder), {}
    for key in cells.chains[leaf]:
        weights[key] = run_stage(cells, key, weights, folder)


def read_ran(folder: Path) -> tuple[list[Ran], dict[str, dict[str, float]]]:
    """All stages that were run, and the metrics of the cells among them, which are the same in every run of a cell."""
    cells, ran, metrics = Cells.read(folder), [], {}
    for path in sorted((folder / "ran").iterdir()):
        record = json.loads(path.read_text())
        found = record.pop("metrics")
        ran.append(Ran(**record))
        if record["key"] in cells.chains:
            assert metrics.setdefault(record["key"], found) == found
    return ran, metrics


def shell(folder: Path, processes: int) -> None:
    """`for cell in ...; do python -m ... & done`, as many at a time."""
    command = [sys.executable, "-m", __spec__.name, "cell", str(folder)]
    with ThreadPoolExecutor(processes) as pool:
        for _ in pool.map(lambda leaf: subprocess.run([*command, leaf], check=True), Cells.read(folder).leaves):
            pass


def ray_tune(folder: Path, processes: int) -> None:
    """A function trainable with a grid of cells; a failed trial ends the benchmark."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    import ray
    from ray import tune

    ray.init(address="local", num_cpus=processes, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    def trial(config: dict[str, Any]) -> None:
        from tests.benchmarks.whole_grid_cells import run_cell

        run_cell(folder, config["leaf"])
        tune.report({"done": True})

    found = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"leaf": tune.grid_search(Cells.read(folder).leaves)},
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), name="peer", verbose=0),
    ).fit()
    assert not found.errors, found.errors
    ray.shutdown()


def hydra(folder: Path, processes: int) -> None:
    """A multirun of the joblib launcher."""
    script = folder / "job.py"
    script.write_text(
        "import pathlib\nimport hydra\nfrom tests.benchmarks.whole_grid_cells import run_cell\n\n"
        "@hydra.main(version_base=None, config_path=None)\n"
        f"def main(cfg):\n    run_cell(pathlib.Path({str(folder)!r}), cfg.leaf)\n\nmain()\n"
    )
    leaves = ",".join(f"'{leaf}'" for leaf in Cells.read(folder).leaves)
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={processes}", f"hydra.sweep.dir={folder / 'sweep'}"]
    subprocess.run([sys.executable, str(script), "-m", f"+leaf={leaves}", *launcher], check=True, stdout=sys.stderr)


def limit(folder: Path, processes: int) -> None:
    """Warm processes, every stage once, the longest way to the end first; weights travel in memory."""
    cells = Cells.read(folder)
    way = _longest_ways(cells)
    waiting = sorted(cells.stages, key=lambda key: -way[key])
    weights: dict[str, Any] = {}
    running: dict[Future[Any], str] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        while waiting or running:
            ready = [key for key in waiting if set(cells.stages[key]["parents"].values()) <= weights.keys()]
            for key in ready[: processes - len(running)]:
                waiting.remove(key)
                given = {parent: weights[parent] for parent in cells.stages[key]["parents"].values()}
                running[pool.submit(run_stage, cells, key, given, folder)] = key
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                weights[running.pop(future)] = future.result()


def _longest_ways(cells: Cells) -> dict[str, float]:
    """Estimated seconds from the beginning of a stage to the end of the last one below it."""
    way = {key: float(stage["cost"]) for key, stage in cells.stages.items()}
    for chain in cells.chains.values():
        for number, key in enumerate(chain):
            way[key] = max(way[key], sum(float(cells.stages[below]["cost"]) for below in chain[number:]))
    return way


RUN: dict[str, Callable[[Path, int], None]] = {"limit": limit, "shell": shell, "ray-tune": ray_tune, "hydra": hydra}


def main() -> None:
    name, folder, argument = sys.argv[1:]
    if name == "cell":
        run_cell(Path(folder), argument)
    else:
        RUN[name](Path(folder), int(argument))


if __name__ == "__main__":
    main()
