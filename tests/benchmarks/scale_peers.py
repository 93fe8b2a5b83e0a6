"""What others need for as many trivial jobs, without graph, store and MLflow. Started by `tests.benchmarks.scale`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.trivial_stage import POINTS

Figures = dict[str, Any]


def trivial(seed: int) -> dict[str, float]:
    """What the trivial stage computes."""
    return {"dice": seed / 1e6, "curve": sum(step / POINTS for step in range(POINTS))}


def _figures(cells: int, began: float, ends: list[float]) -> Figures:
    return {"cells": cells, "start": ends[0] - began, "engine": ends[-1] - ends[0], "wall": time.time() - began}


def _local_ray() -> Any:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    import ray

    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    return ray


def ray_remote(cells: int, pack: int, folder: Path) -> Figures:
    """The floor: one task each."""
    began, ray = time.time(), _local_ray()
    task, ends = ray.remote(trivial), []
    waiting = [task.remote(seed) for seed in range(cells)]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        ray.get(done)
        ends.append(time.time())
    return _figures(cells, began, ends)


def tune(reuse: bool) -> Callable[[int, int, Path], Figures]:
    """Stock Ray Tune over a grid of seeds."""

    def run(cells: int, pack: int, folder: Path) -> Figures:
        began = time.time()
        _local_ray()
        from ray import tune as ray_tune

        class Job(ray_tune.Trainable):  # type: ignore[misc]
            def setup(self, config: dict[str, Any]) -> None:
                self._seed = config["seed"]

            def reset_config(self, new_config: dict[str, Any]) -> bool:
                self.setup(new_config)
                return True

            def step(self) -> dict[str, Any]:
                return {**trivial(self._seed), "done": True}

            def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
                return {}

            def load_checkpoint(self, checkpoint: Any) -> None: ...

        ends: list[float] = []

        class Ends(ray_tune.Callback):  # type: ignore[misc]
            def on_trial_complete(self, *args: Any, **named: Any) -> None:
                ends.append(time.time())

        ray_tune.Tuner(
            Job,
            param_space={"seed": ray_tune.grid_search(list(range(cells)))},
            tune_config=ray_tune.TuneConfig(reuse_actors=reuse),
            run_config=ray_tune.RunConfig(storage_path=str(folder), name="peer", verbose=0, callbacks=[Ends()]),
        ).fit()
        return _figures(cells, began, ends)

    return run


def hydra_joblib(cells: int, pack: int, folder: Path) -> Figures:
    """Hydra's multirun with its joblib launcher on two processes; each job notes when it ends."""
    began = time.time()
    script = folder / "job.py"
    script.write_text(
        "import sys, time\nimport hydra\nfrom tests.benchmarks.scale_peers import trivial\n\n"
        "@hydra.main(version_base=None, config_path=None)\n"
        "def main(cfg):\n    trivial(cfg.seed)\n"
        f"    open({str(folder)!r} + f'/end-{{cfg.seed}}', 'w').write(str(time.time()))\n\nmain()\n"
    )
    import subprocess

    seeds = ",".join(map(str, range(cells)))
    command = [sys.executable, str(script), "-m", f"+seed={seeds}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    subprocess.run([*command, f"hydra.sweep.dir={folder / 'sweep'}"], check=True, stdout=sys.stderr)
    return _figures(cells, began, sorted(float(path.read_text()) for path in folder.glob("end-*")))


RUN: dict[str, Callable[[int, int, Path], Figures]] = {
    "ray.remote": ray_remote,
    "tune-reuse": tune(True),
    "tune-fresh": tune(False),
    "hydra-joblib": hydra_joblib,
}
