"""What benchmarks have in common: the first lines of a report, its copy in a file, spreads, a clock."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Seconds = tuple[float, float]  # wall and CPU


class Report:
    """Lines that are printed at once, and written to a file as well where one is asked for."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("")

    def line(self, text: str = "") -> None:
        print(text, flush=True)
        if self._out is not None:
            with self._out.open("a") as file:
                file.write(text + "\n")

    def row(self, *cells: str) -> None:
        self.line(" | ".join(cells))


def header(module: str, packages: Sequence[str], device: str = "") -> str:
    """What was run, when, on what, with which versions, and how much else the machine did."""
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    named = ", ".join(f"{name} {_version(name)}" for name in packages)
    load = f"load {os.getloadavg()[0]:.1f}"
    hardware = ", ".join(filter(None, (f"{os.cpu_count()} cores ({_cpu()})", device, load)))
    python = f"Python {platform.python_version()}"
    return f"# {command}\n# {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {hardware}; {python}, {named}"


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """The median, and the least and the largest value where there are several."""
    shown = f"{statistics.median(values):.{decimals}f}"
    return shown if len(values) < 2 else f"{shown} ({min(values):.{decimals}f} to {max(values):.{decimals}f})"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of measurements that were made in turns: each by the one beside it."""
    return [a / b for a, b in zip(above, below, strict=True)]


def timed(words: list[str]) -> Seconds:
    """Wall and CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
