"""`python -m tests.cluster.faults [--out FILE] [FAULT ...]`: what is lost, one after the other, while a grid runs on
the three namespace hosts, and how long it takes until the work goes on. GCS keeps its state in Redis.

Each fault meets a new store in the middle of a run. Afterwards the grid must be finished, no stage lost, none executed
again after its commit, MLflow complete with one run each, and metrics, curves, weights and table equal to those of
one undisturbed process, digit for digit. Exit code 0: so it was. Linux, root, the packages of `make test-cluster`.

Before them come two runs without a fault: one that finds the head alone, and one that finds three nodes, against
which the others are measured. Columns, times in seconds:

    nodes     that were there when the job was submitted
    goes on   from the fault until all stages that trained on what was lost are finished, or trained on elsewhere
    run       from the first submission until the last job has ended and its actors are gone
    longer    that, less the undisturbed run
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from orchestrator.record.store import Store, open_store
from tests.cluster import checks, hosts, services
from tests.cluster.hosts import SHARED, Host, wait_for
from tests.cluster.onprem import BASHRC, PROJECT, OnPremises, said

SMALL = ("--only", "seed=0", "--set", "pretrain.steps=1500")  # 4 pretrainings, 12 cells
PATIENCE = 900.0  # seconds for whatever is waited for
AWAY = 30.0  # seconds for which a server is away


class Run:
    """The grid on the cluster while something is lost. `lasted`: seconds until the work went on."""

    def __init__(self, premises: OnPremises, name: str) -> None:
        self.premises, self.name = premises, name
        self.jobs: list[str] = []
        self.store: Store = open_store(str(premises.on_disk(f"{name}/runs")), create=True)
        self.submit()

    def submit(self) -> None:
        """Submit the job, or submit it again."""
        place = SHARED / self.name / "runs"
        self.jobs.append(self.premises.submit(*SMALL, store=place, experiment=self.name))

    def at_work(self, *hosts: Host) -> dict[str, dict[str, Any]]:
        """The leases of the stages that now train on any of these hosts."""
        names = {host.name for host in hosts}
        beats = self.store.leases().items()
        return {k: dict(b) for k, b in beats if b["node"] in names and b["step"] > 0 and not b.get("released")}

    def wait_for_work(self, *hosts: Host) -> dict[str, dict[str, Any]]:
        """Wait until something trains on each of them, and say what."""
        self._wait(lambda: all(self.at_work(host) for host in hosts), f"work on {[host.name for host in hosts]}")
        return self.at_work(*hosts)

    def wait_until_elsewhere(self, lost: dict[str, dict[str, Any]]) -> None:
        """Wait until each of these stages is finished, or trained by another process than before."""

        def on_again() -> bool:
            beats, finished = self.store.leases(), self.store.finished()
            mine = [(beats.get(key, old), old) for key, old in lost.items() if key not in finished]
            return all((b["node"], b["pid"]) != (old["node"], old["pid"]) and b["step"] > 0 for b, old in mine)

        self._wait(on_again, "the lost stages to go on")

    def wait_for_commits(self, more: int) -> None:
        """Wait until so many further stages are finished."""
        before = len(self.store.finished())
        self._wait(lambda: len(self.store.finished()) >= before + more, f"{more} further stages")

    def _wait(self, reached: Callable[[], object], what: str) -> None:
        wait_for(reached, f"{what}; the job said:\n{self.log()[-3000:]}", PATIENCE, 0.3)

    def finish(self) -> str:
        """Wait for the last job; how it ended."""
        return self.premises.finished(self.jobs[-1], PATIENCE)

    def log(self) -> str:
        """What the last job says."""
        return self.premises.log(self.jobs[-1])


Fault = Callable[[OnPremises, Run], float]


def undisturbed(premises: OnPremises, run: Run) -> float:
    """Nothing is lost."""
    return 0.0


def worker_cut_off(premises: OnPremises, run: Run) -> float:
    """A worker host is cut off the network and trains on unseen; the cable is put back when the grid got over it."""
    lost = run.wait_for_work(premises.worker1)
    premises.worker1.cut()
    with timed() as took:
        run.wait_until_elsewhere(lost)
    premises.worker1.mend()
    return took[0]


def worker_killed(premises: OnPremises, run: Run) -> float:
    """A worker host loses its power, and comes back at once without Ray."""
    lost = run.wait_for_work(premises.worker2)
    premises.worker2.kill()
    with timed() as took:
        premises.worker2.start()
        run.wait_until_elsewhere(lost)
    return took[0]


def driver_killed(premises: OnPremises, run: Run) -> float:
    """kill -9 of the job's driver; the job fails, and is submitted again."""
    run.wait_for_work(premises.head)
    lost = run.at_work(*premises.trainers)
    for pid in premises.head.processes("^python -m orchestrator.run_grid"):
        premises.head.run("kill", "-9", str(pid))
    with timed() as took:
        assert run.finish() == "FAILED"
        run.submit()
        run.wait_until_elsewhere(lost)
    return took[0]


def head_killed(premises: OnPremises, run: Run) -> float:
    """The head host loses its power and comes back empty; `ray down`, `ray up`, and the job is submitted again."""
    run.wait_for_work(premises.head)
    lost = run.at_work(*premises.trainers)
    premises.head.kill()
    with timed() as took:
        premises.head.start()
        premises.desk.run(*said("ray down").split(), cwd=PROJECT)  # as its disk is lost: see docker/README.md
        premises.up(redis=True)
        assert premises.status(run.jobs[0]), "the GCS in Redis has forgotten the job"
        run.submit()
        run.wait_until_elsewhere(lost)
    return took[0]


def mlflow_stopped(premises: OnPremises, run: Run) -> float:
    """kill -9 of the MLflow server; the grid trains on. It is started again."""
    run.wait_for_commits(2)
    premises.services.stop_mlflow()
    with timed() as took:
        run.wait_for_commits(2)
    time.sleep(AWAY)
    premises.services.start_mlflow()
    premises.services.wait()
    return took[0]


def postgres_restarted(premises: OnPremises, run: Run) -> float:
    """PostgreSQL under MLflow stops as in a crash, and is started again; the grid trains on."""
    run.wait_for_commits(2)
    premises.services.stop_postgres()
    with timed() as took:
        run.wait_for_commits(2)
    time.sleep(AWAY)
    premises.services.start_postgres()
    premises.services.wait()
    return took[0]


FAULTS: dict[str, Fault] = {
    "worker-cut-off": worker_cut_off,
    "worker-killed": worker_killed,
    "driver-killed": driver_killed,
    "head-killed": head_killed,
    "mlflow-stopped": mlflow_stopped,
    "postgres-restarted": postgres_restarted,
}


WITHOUT = {"growing": undisturbed, "undisturbed": undisturbed}


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """The seconds of the body, in the list."""
    took, began = [0.0], time.monotonic()
    yield took
    took[0] = time.monotonic() - began


def suffer(premises: OnPremises, name: str, usual: float | None, say: Callable[[str], None]) -> tuple[bool, float]:
    """One fault in one run, told in a line. True: nothing was wrong; and the seconds of the run.

    Args:
        usual: seconds of the undisturbed run.
    """
    nodes, began = len(premises.alive()), time.monotonic()
    try:
        run = Run(premises, name)
        recovered = (FAULTS | WITHOUT)[name](premises, run)
        how = run.finish()
        if how == "SUCCEEDED" and "MLflow lacks" in run.log():  # it was away until the end
            run.submit()
            how = run.finish()
        found = [] if how == "SUCCEEDED" else [f"the job ended as {how}: {run.log()[-1500:]}"]
        with contextlib.suppress(TimeoutError):  # what is left then is told
            wait_for(lambda: not premises.leaks(), "the last actors to go", 120)
        seconds = time.monotonic() - began
        found += [f"left over: {leak}" for leak in premises.leaks()]
        folder, log = premises.on_disk(f"{name}/runs"), premises.on_disk("executions.log")
        found += checks.faults(premises.services.runs(name), folder, premises.reference(), log)
    except (TimeoutError, AssertionError) as error:
        say(f"{name:<19} FAILED: {error}")
        return False, 0.0
    said = "; ".join(found) or "finished, nothing lost, nothing twice, MLflow complete, table equal"
    goes_on = f"{recovered:.0f}" if recovered else "-"
    longer = "-" if usual is None else f"{seconds - usual:+.0f}"
    say(f"{name:<19} {nodes:>5} {goes_on:>8} {seconds:>5.0f} {longer:>7} {len(run.jobs):>5}  {said}")
    return not found, seconds


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.faults", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"{', '.join(FAULTS)} (default: all)")
    parser.add_argument("--out", type=Path, help="also write the list to this file")
    args = parser.parse_args()
    names = args.faults or list(FAULTS)
    if unknown := [name for name in names if name not in FAULTS]:
        parser.error(f"no fault {', '.join(unknown)}; expected some of {', '.join(FAULTS)}")
    reason = hosts.lacking() or services.lacking()
    if reason:
        print(f"skipped: {reason}")
        return 0
    with args.out.open("w") if args.out else contextlib.nullcontext() as out:
        return 0 if _all(names, out) else 1


def _all(names: list[str], out: TextIO | None) -> bool:
    def say(text: str) -> None:
        for stream in (sys.stdout, out):
            if stream is not None:
                print(text, file=stream, flush=True)

    say(f"# python -m tests.cluster.faults {' '.join(names if names != list(FAULTS) else [])}".rstrip())
    machine = f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} when it began)"
    versions = f"Python {platform.python_version()}, Ray {version('ray')}"
    say(f"# {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, {versions}; columns: the module's first lines")
    with hosts.Network("desk", "head", "worker1", "worker2", "services", bashrc=BASHRC) as network:
        premises = OnPremises(network)
        try:
            premises.prepare()
            premises.begin_reference(*SMALL)
            say(f"ray up, GCS on Redis: {premises.up(redis=True):.0f} s")
            premises.reference()
            say("fault               nodes  goes on   run  longer  jobs  what then held")
            good, usual = [], None
            for name in (*WITHOUT, *names):
                fine, seconds = suffer(premises, name, usual, say)
                good.append(fine)
                usual = seconds if name == "undisturbed" and fine else usual
            say(f"# load {os.getloadavg()[0]:.1f} when it ended")
            return all(good)
        finally:
            if kept := os.environ.get("TRANSFERGRID_KEEP_LOGS"):
                premises.keep_logs(Path(kept))


if __name__ == "__main__":
    sys.exit(main())
