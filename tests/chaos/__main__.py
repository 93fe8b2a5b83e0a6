"""Random kill -9 of driver, workers, raylet and MLflow server during runs of a small grid of real training.

`python -m tests.chaos --kills 15 --seed 0 [--out FILE]`; Linux. Each round takes a new store and repeats one and the
same command until the grid is finished; rounds follow until all kills have been dealt. Exit code 0: nothing lost,
nothing twice, nothing else wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

from orchestrator.record.leases import process_is_gone
from orchestrator.record.store import open_store
from tests.chaos.checks import ROOT, events, verify
from tests.chaos.processes import Process, descendants, kill, lives
from tests.chaos.server import MlflowServer

HERE = Path(__file__).resolve().parent
VICTIMS = ("driver", "worker", "raylet", "mlflow")
PAUSE = (0.5, 6.0)  # seconds of work between two kills
STANDSTILL = 120.0  # seconds without any event after which a driver counts as hung
MOST_STARTS = 60  # of the command in one round


class Chaos:
    """All rounds. `wrong` collects what must not be."""

    def __init__(self, kills: int, seed: int, folder: Path, out: TextIO | None) -> None:
        self.kills, self.dealt, self.folder, self._out = kills, 0, folder, out
        self.began = time.monotonic()
        self.random = random.Random(seed)
        self.server = MlflowServer(folder)
        self.reference = folder / "reference" / "runs"
        self.lost, self.twice, self.wrong = 0, 0, 0
        self.by_victim = dict.fromkeys(VICTIMS, 0)
        self._deck: list[str] = []

    def say(self, text: str) -> None:
        """One line, also to the file of `--out`."""
        for stream in (sys.stdout, self._out):
            if stream is not None:
                print(text, file=stream, flush=True)

    def clock(self) -> str:
        """Seconds since the start."""
        return f"{time.monotonic() - self.began:6.1f} s"

    def run(self) -> bool:
        """The undisturbed run, then rounds until all kills are dealt. True: nothing was wrong."""
        self.server.start()
        subprocess.run(
            command(self.reference, "--executor", "inline"), cwd=ROOT, env=environment(self.folder), check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.server.wait()
        self.say(f"{self.clock()}  undisturbed inline run done, MLflow server up at {self.server.uri}")
        number = 0
        while self.dealt < self.kills:
            number += 1
            before = self.dealt
            Round(self, number).run()
            if self.dealt == before:
                self.say(f"         round {number} was over before any kill; giving up")
                self.wrong += 1
                break
        dealt = ", ".join(f"{name} {n}" for name, n in self.by_victim.items())
        self.say(f"{self.clock()}  {number} rounds; kills by victim: {dealt}")
        other = f", otherwise wrong {self.wrong}" if self.wrong else ""
        self.say(f"kills {self.dealt}, lost {self.lost}, twice {self.twice}{other}")
        return not (self.lost or self.twice or self.wrong)

    def next_victim(self, there: dict[str, list[Process]]) -> str | None:
        """Every four kills take each victim once, in random order; one that is not there now keeps its place."""
        if not self._deck:
            self._deck = self.random.sample(VICTIMS, len(VICTIMS))
        for name in self._deck:
            if there[name] or (name == "mlflow" and self.server.up()):
                return name
        return None

    def struck(self, name: str) -> None:
        """A kill was dealt."""
        self._deck.remove(name)
        self.by_victim[name] += 1
        self.dealt += 1


class Round:
    """One store from empty to finished."""

    def __init__(self, chaos: Chaos, number: int) -> None:
        self.chaos, self.number = chaos, number
        self.folder = chaos.folder / f"round-{number}"
        self.log = self.folder / "executions.log"
        self.experiment = f"round-{number}"
        self.folder.mkdir()
        self.store = open_store(str(self.folder / "runs"), create=True)
        self.command = command(
            self.folder / "runs", "--tracking-uri", chaos.server.uri, "--experiment", self.experiment
        )
        self.seen: dict[str, Any] = {}
        self.offspring: set[Process] = set()

    def run(self) -> None:
        """Run the command again and again until it ends with 0, once more undisturbed, then judge."""
        began, starts, code = time.monotonic(), 0, -1
        try:
            while code != 0 and starts < MOST_STARTS:
                starts += 1
                code = self._live(starts)
            self._once_more()
        finally:
            left = [process for process in self.offspring if lives(process)]
            for process in left:
                kill(process)
        if left:
            self.chaos.say(f"         {len(left)} processes of Ray were still ending, and were ended")
        self._judge(starts, time.monotonic() - began)

    def _live(self, start: int) -> int:
        """One life of the driver; its exit code."""
        self.chaos.server.wait()
        since = time.time()
        with (self.folder / f"run-{start}.log").open("wb") as log:
            process = subprocess.Popen(
                self.command, cwd=ROOT, env=environment(self.chaos.folder, self.log), stdout=log, stderr=log
            )
        due: float | None = None
        last_event, known = time.monotonic(), 0
        while process.poll() is None:
            self.chaos.server.tick()
            self._observe(process.pid)
            happened = events(self.log)
            if len(happened) + len(self.seen) != known:
                known, last_event = len(happened) + len(self.seen), time.monotonic()
            at_work = [e for e in happened if e.time > since]
            if due is None and at_work:
                due = time.monotonic() + self.chaos.random.uniform(*PAUSE)
            if due is not None and time.monotonic() >= due and (victim := self._strike(process.pid)):
                ended = victim in ("driver", "raylet")  # nothing more to kill in this life
                due = float("inf") if ended else time.monotonic() + self.chaos.random.uniform(*PAUSE)
            if time.monotonic() - last_event > STANDSTILL:
                self._complain(f"nothing happened for {STANDSTILL:g} s; the driver was ended (see run-{start}.log)")
                process.kill()
            time.sleep(0.1)
        self._observe(process.pid)
        if process.returncode not in (0, -9):
            says = (self.folder / f"run-{start}.log").read_text(errors="replace").strip().splitlines()
            last = next(
                (line for line in reversed(says) if line.startswith(("stopped:", "error:", "  failed:"))), says[-1:]
            )
            self.chaos.say(f"{self.chaos.clock()}  the run ended with {process.returncode}: {str(last)[:200]}")
        return process.returncode

    def _strike(self, driver: int) -> str | None:
        """Kill somebody if there is work to disturb, and say whom."""
        chaos = self.chaos
        finished = len(self.store.finished())
        beats = self.store.leases().values()
        running = [b for b in beats if b["step"] > 0 and not b.get("released") and not process_is_gone(b)]
        if chaos.dealt >= chaos.kills or not running:
            return None
        there = self._there(driver)
        name = chaos.next_victim(there)
        if name is None:
            return None
        if name == "mlflow":
            pid = chaos.server.kill(back_after=chaos.random.uniform(1, 4))
        else:
            process = chaos.random.choice(sorted(there[name], key=lambda p: p.pid))
            kill(process)
            pid = process.pid
        chaos.struck(name)
        at = ", ".join(f"{b['kind']} {b['step']}/{b['steps']}" for b in running)
        chaos.say(
            f"{chaos.clock()}  round {self.number} kill {chaos.dealt:>3}: {name:<6} {pid:>7}; "
            f"{finished} finished, {len(running)} running ({at})"
        )
        return name

    def _there(self, driver: int) -> dict[str, list[Process]]:
        below = descendants(driver)
        return {
            "driver": [p for p in below if p.pid == driver],
            "worker": [p for p in below if p.command.startswith("ray::") and "Trainable" in p.command],
            "raylet": [p for p in below if p.command.split(" ")[0].endswith("/raylet")],
            "mlflow": [],
        }

    def _observe(self, driver: int) -> None:
        """Remember every commit as it was when it was first seen, and every process that the driver started."""
        for key in self.store.finished() - self.seen.keys():
            self.seen |= self.store.commits([key])
        self.offspring |= set(descendants(driver))

    def _once_more(self) -> None:
        """The same command on a finished grid executes nothing, and completes MLflow where it was away."""
        self.chaos.server.wait()
        done = subprocess.run(
            self.command, cwd=ROOT, env=environment(self.chaos.folder, self.log), capture_output=True, text=True
        )
        totals = json.loads(done.stdout) if done.returncode == 0 else {}
        if done.returncode != 0 or any(totals["executed"].values()) or totals["reused"] != totals["succeeded"]:
            self._complain(f"the last, undisturbed run ended with {done.returncode}: {totals or done.stderr[-300:]}")

    def _judge(self, starts: int, seconds: float) -> None:
        verdict = verify(
            self.store, self.seen, self.log, (self.chaos.server.uri, self.experiment), self.chaos.reference
        )
        for kind in ("lost", "twice", "wrong"):
            for text in getattr(verdict, kind):
                self.chaos.say(f"         {kind}: {text}")
        self.chaos.lost += len(verdict.lost)
        self.chaos.twice += len(verdict.twice)
        self.chaos.wrong += len(verdict.wrong)
        bad = len(verdict.lost) + len(verdict.twice) + len(verdict.wrong)
        good = "each recorded once; MLflow complete; table, metrics, curves and weights equal to undisturbed"
        self.chaos.say(
            f"{self.chaos.clock()}  round {self.number}: {verdict.stages} stages in {starts} starts of the command "
            f"and {verdict.executions} executions, {seconds:.0f} s; {f'{bad} FAULTS' if bad else good}"
        )

    def _complain(self, text: str) -> None:
        self.chaos.wrong += 1
        self.chaos.say(f"{self.chaos.clock()}  WRONG: {text}")


def command(store: Path, *more: str) -> list[str]:
    """The one command that is repeated."""
    return [
        sys.executable, "-m", "orchestrator.run_grid", str(HERE / "grid.yaml"), "--store", str(store), "--json", *more
    ]  # fmt: skip


def environment(folder: Path, log: Path | None = None) -> dict[str, str]:
    """Without the user's addresses; with the execution log, where one is given."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "PYTHONPATH")}
    extra = {"TRANSFERGRID_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if log is not None:
        extra |= {"PYTHONPATH": str(HERE / "execution_log"), "TRANSFERGRID_EXECUTION_LOG": str(log)}
    return {**kept, **extra}


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the output to this file")
    parser.add_argument("--keep", action="store_true", help="keep stores and logs, and say where they are")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="transfergrid-chaos-"))
    with args.out.open("w") if args.out else contextlib.nullcontext() as out:
        chaos = Chaos(args.kills, args.seed, folder, out)
        try:
            good = chaos.run()
        finally:
            chaos.server.kill()
            if args.keep:
                print(f"kept: {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
