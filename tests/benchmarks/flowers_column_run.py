"""The store of `tests.benchmarks.flowers_column`, and one call of it: which process runs which stage next."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.benchmarks.flowers_column_table import write_json

FINISHED, FAILED, AGAIN = 0, 1, 75
TELL_SECONDS = 60.0  # between two lines on how far it is
START_SECONDS = 5.0  # a stage that would have less is not started
Stored = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Stages that one process runs together: a pretraining, or cells that are trained as one."""

    keys: tuple[str, ...]
    parent: str | None


class Store:
    """Plan and results of a folder. Only the process that holds its lock writes there, but for weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: Stored = json.loads((folder / "plan.json").read_text())
        self.stages: Mapping[str, Stored] = {stage["key"]: stage for stage in self.plan["stages"]}
        empty: Stored = {"device": None, "operations": {}, "parameters": None, "stages": {}, "runs": []}
        path = folder / "results.json"
        self.results: Stored = json.loads(path.read_text()) if path.exists() else empty

    def write(self) -> None:
        write_json(self.folder / "results.json", self.results)

    def done(self, key: str) -> bool:
        """Ended, and where cells wait for its weights, these are there."""
        found = self.results["stages"].get(key)
        if found is None:
            return False
        return not self.waiting(key) or all((self.folder / name).exists() for name in found["weights"])

    def waiting(self, key: str) -> list[str]:
        """The cells that start from this stage and have not ended."""
        return [k for k, s in self.stages.items() if key in s["parents"].values() and k not in self.results["stages"]]

    def failed(self, key: str) -> bool:
        return bool(self.results["stages"].get(key, {}).get("error"))

    def end(self, records: Mapping[str, Stored]) -> None:
        """Keep what stages ended with."""
        self.results["stages"] |= records
        self.write()
        self.tidy()

    def tidy(self) -> None:
        """Drop what nobody needs any more: checkpoints of stages that have ended, weights that no cell waits for."""
        for key, found in self.results["stages"].items():
            if not self.done(key):
                continue  # its weights are lost: it runs again
            shutil.rmtree(self.folder / "work" / key, ignore_errors=True)
            for name in found["weights"] if not self.waiting(key) else []:
                (self.folder / name).unlink(missing_ok=True)

    def steps(self, key: str) -> int:
        stage = self.stages[key]
        return int(stage["spec"][stage["kind"]]["steps"])

    def left(self, reached: Mapping[str, int]) -> float:
        """Operations that are still to be done; `reached`: steps of stages in progress."""
        known = self.results["operations"]
        todo = [key for key in self.stages if key not in self.results["stages"]]
        return sum(float(known.get(key, 0)) * (self.steps(key) - reached.get(key, 0)) for key in todo)

    def tasks(self, fused: int) -> list[Task]:
        """What has not ended, pretraining by pretraining, so that few weights are waited for at a time."""
        order: dict[str | None, list[Task]] = {None: []}
        groups: dict[str, list[str]] = {}
        for key, stage in self.stages.items():
            if stage["kind"] == "pretrain":
                order.setdefault(key, [] if self.done(key) else [Task((key,), None)])
                continue
            spec, parent = stage["spec"], stage["parents"].get("pretrain")
            shape = [parent, spec["data"]["n_train"], *(spec[n] for n in ("network", "finetune", "frozen", "backend"))]
            groups.setdefault(json.dumps(shape), []).append(key)
        for keys in groups.values():
            parent = self.stages[keys[0]]["parents"].get("pretrain")
            for first in range(0, len(keys), fused):
                left = tuple(k for k in keys[first : first + fused] if k not in self.results["stages"])
                order[parent] += [Task(left, parent)] if left else []
        return [task for several in order.values() for task in several]


@dataclass
class Worker:
    """A process, and what it is at."""

    process: BaseProcess
    pipe: Connection
    ready: bool = False
    task: Task | None = None


@dataclass
class Run:
    """One call of the command."""

    store: Store
    options: argparse.Namespace
    began: float
    workers: list[Worker] = field(default_factory=list)
    since: float = math.inf  # when the first process was ready
    at_start: float = 0.0  # operations that were left then
    reached: dict[str, int] = field(default_factory=dict)  # steps of stages in progress
    shown: dict[str, str] = field(default_factory=dict)  # last points of their curves
    told: float = 0.0
    saved: float = 0.0
    entry: Stored = field(default_factory=dict)
    error: str = ""

    @property
    def deadline(self) -> float:
        return self.began + float(self.options.seconds)

    def go(self) -> int:
        """Work until all is done or there is no time left; the exit code."""
        o = self.options
        self.entry = {
            "began": _now(),
            "until": _now(),
            "seconds": 0.0,
            "command": shlex.join(["python", "-m", "tests.benchmarks.flowers_column", *sys.argv[1:]]),
            **{name: getattr(o, name) for name in ("parallel", "fused")},
        }
        self.reached = {key: step for key in self.store.stages if (step := _checkpointed(self.store, key))}
        self.workers = [_start(o, self.deadline) for _ in range(o.parallel)]
        try:
            while not self.error and self._assign():
                pipes = {worker.pipe: worker for worker in self.workers}
                for pipe in wait(list(pipes), timeout=1.0):
                    assert isinstance(pipe, Connection)
                    self._hear(pipes[pipe])
                self._tell()
        finally:
            self._stop()
        return self._end()

    def _assign(self) -> bool:
        """Give idle processes what is next; whether there is anything to wait for."""
        running = {key for w in self.workers if w.task for key in w.task.keys}
        queue = [t for t in self.store.tasks(self.options.fused) if not running & set(t.keys)]
        lately = time.monotonic() > self.deadline - START_SECONDS
        for worker in (w for w in self.workers if w.ready and w.task is None):
            if not self.store.results["operations"]:
                if not running:
                    self._give(worker, Task(("count",), None), {"count": list(self.store.stages.values())})
                    running = {"count"}
                continue
            ready = (
                t for t in queue if t.parent is None or (self.store.done(t.parent) and not self.store.failed(t.parent))
            )
            if lately or (task := next(ready, None)) is None:
                continue
            queue.remove(task)
            files = self.store.results["stages"][task.parent]["weights"] if task.parent else []
            self._give(worker, task, {"stages": [self.store.stages[key] for key in task.keys], "weights": files})
        busy = any(w.task for w in self.workers)
        starting = not all(w.ready for w in self.workers) and time.monotonic() < self.deadline
        return busy or (starting and bool(queue))

    def _give(self, worker: Worker, task: Task, message: Stored) -> None:
        worker.pipe.send(message)
        worker.task = task

    def _hear(self, worker: Worker) -> None:
        """Take one message of a process."""
        try:
            what, *found = worker.pipe.recv()
        except EOFError:
            worker.process.join(5)
            self.error = f"a process ended by itself, exit code {worker.process.exitcode}"
            return
        if what == "step":
            key, step, shown = found
            self.reached |= dict.fromkeys(worker.task.keys if worker.task else [key], step)
            self.shown[key] = shown
            return
        if what == "ready":
            worker.ready = True
            self.entry |= found[0]
            if self.since == math.inf:
                self.store.results["runs"].append(self.entry)
                self._begin_clock()
            return
        if what == "counted":
            self.store.results |= found[0]
            self._begin_clock()
        elif what == "ended":
            self._ended(found[0])
        elif what == "error":
            self.error = found[0]
        worker.task = None

    def _begin_clock(self) -> None:
        self.since, self.at_start = time.monotonic(), self.store.left(self.reached)

    def _ended(self, records: Mapping[str, Stored]) -> None:
        self.store.end(records)
        for key, found in records.items():
            self.reached.pop(key, None)
            value = found["error"] or ", ".join(
                f"{name} {found['metrics'][name]:.4f}" for name in ("dice", "val_loss") if name in found["metrics"]
            )
            done, all_ = len(self.store.results["stages"]), len(self.store.stages)
            print(
                f"{done} of {all_}: {self.store.stages[key]['name']} | {value} | {found['seconds']:.1f} s", flush=True
            )

    def _tell(self) -> None:
        """Note the time that the device was used; now and then, how far it is and how long it will take."""
        now = time.monotonic()
        self.entry |= {"seconds": now - self.began, "until": _now()}
        if now - self.saved > 2 and self.since < math.inf:
            self.saved = now
            self.store.write()
        if now - max(self.told, self.since) > TELL_SECONDS:
            self.told = now
            print(f"after {now - self.began:.0f} s: {self._inside()}; {self._speed()}", flush=True)

    def _inside(self) -> str:
        """Stages in progress."""
        store, shown = self.store, self.shown
        parts = [
            f"{store.stages[key]['name']} at step {step:,} of {store.steps(key):,}"
            + (f" ({shown[key]})" if shown.get(key) else "")
            for key, step in self.reached.items()
        ]
        return "; ".join(parts) or "nothing in progress"

    def _speed(self) -> str:
        left = self.store.left(self.reached)
        if not self.store.results["operations"]:
            return "nothing is counted yet"
        done, seconds = self.at_start - left, max(time.monotonic() - self.since, 1e-9)
        if done <= 0:
            return f"{left / 1e12:,.0f} TFLOP left"
        rate = done / seconds
        return f"{rate / 1e12:.2f} TFLOP/s; {left / 1e12:,.0f} TFLOP left, about {left / rate:,.0f} s at this speed"

    def _stop(self) -> None:
        """End the processes: those that are idle at their leisure, others (after an error) at once."""
        for worker in self.workers:
            if worker.task is None and worker.ready and not self.error:
                worker.pipe.send(None)
                worker.process.join(10)
            worker.process.kill()
            worker.process.join()

    def _end(self) -> int:
        self.entry |= {"seconds": time.monotonic() - self.began, "until": _now()}
        if self.since < math.inf:
            self.store.write()
        if self.error:
            print(self.error, file=sys.stderr)
            return FAILED
        ended, blocked = self.store.results["stages"], _blocked(self.store)
        open_ = [key for key in self.store.stages if key not in ended and key not in blocked]
        if not open_:
            return FAILED if blocked or any(map(self.store.failed, ended)) else FINISHED
        print(f"done: {len(ended)} of {len(self.store.stages)} stages; {self._inside()}")
        print(f"{self._speed()}; the same command goes on", flush=True)
        return AGAIN


def _start(options: argparse.Namespace, deadline: float) -> Worker:
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_process, args=(theirs, vars(options), deadline, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, ours)


def _process(pipe: Connection, options: Stored, deadline: float, parent: int) -> None:
    """Of a worker; torch is imported here alone, so that all processes do it at the same time."""
    from tests.benchmarks.flowers_column_stages import Options, serve

    root, store, seconds = str(options["data_root"]), str(options["store"]), options["checkpoint_seconds"]
    serve(pipe, Options(root, store, options["device"], seconds, deadline, parent))


def _checkpointed(store: Store, key: str) -> int:
    """The step up to which a stage need not run again."""
    names = (path.stem for path in (store.folder / "work" / key).glob("checkpoint-*.pt"))
    return max((int(name.partition("-")[2]) for name in names), default=0)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M}"


def _blocked(store: Store) -> set[str]:
    """Cells whose pretraining failed."""
    return {key for key, s in store.stages.items() if any(map(store.failed, s["parents"].values()))}
