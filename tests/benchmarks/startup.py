"""How soon the command line answers: `python -m orchestrator.run_grid --help`, and what it imports.

    python -m tests.benchmarks.startup [--repeats 7] [--out FILE]

Each line is a command in new processes, all in turns. Columns: wall and processor seconds (medians, least and largest),
processor seconds beyond those of the bare interpreter (the *limit*), and which of the large packages were imported.
The aim for `--help` is half a second of wall time, and none of them; a benchmark that finds one ends with an error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.common import Report, header, spread, timed

PACKAGES = ("torch", "ray", "mlflow")
HEAVY = ("torch", "torchvision", "ray", "mlflow", "optuna", "pandas", "scipy")
AIM = 0.5
HELP = "orchestrator.run_grid --help"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    f"python -m {HELP}": ["-m", *HELP.split()],
    "python -m orchestrator.status --help": ["-m", "orchestrator.status", "--help"],
    "python -m orchestrator.run_grid --dry-run": [
        "-m", "orchestrator.run_grid", "p1-table2", "--dry-run", "--json", "--data-root", os.devnull,
    ],
    "python -c 'import torch'": ["-c", "import torch"],
}  # fmt: skip


def imported(words: list[str]) -> list[str]:
    """Which of the large packages the command has loaded when it ends, by what Python says of its imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    return [name for name in HEAVY if name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the report there too")
    options = parser.parse_args()
    report = Report(options.out)
    report.line(header("tests.benchmarks.startup", PACKAGES))
    for words in COMMANDS.values():
        timed(words)  # bytecode and page cache
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(options.repeats):
        for name, words in COMMANDS.items():
            found[name].append(timed(words))
    bare = [cpu for _, cpu in found["python -c pass"]]
    report.row("command", "wall s", "processor s", "beyond the limit", "imports")
    loaded = {name: imported(words) for name, words in COMMANDS.items()}
    for name, times in found.items():
        walls, cpus = zip(*times, strict=True)
        beyond = [cpu - least for cpu, least in zip(cpus, bare, strict=True)]
        report.row(name, *map(spread, (walls, cpus, beyond)), ", ".join(loaded[name]) or "none")
    wall = sorted(wall for wall, _ in found[f"python -m {HELP}"])[options.repeats // 2]
    report.line(f"--help: {wall:.2f} s; aim {AIM} s: {'reached' if wall <= AIM else 'not reached'}")
    if heavy := loaded[f"python -m {HELP}"]:
        sys.exit(f"--help imports {', '.join(heavy)}; expected none of {', '.join(HEAVY)}")


if __name__ == "__main__":
    main()
