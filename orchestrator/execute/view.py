"""What a person sees of a run: a live panel on a terminal, plain lines in a log."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from orchestrator.execute.outcome import Outcome
from orchestrator.plan.stages import Stage

SHOWN_RUNNING = 12
MOST_LOOKED_AT = 256
_COLUMNS: dict[str, Literal["left", "right"]] = {"running": "left", "step": "right", "steps/s": "right", "node": "left"}
_SHOWN = {"pretrain": ("val_loss_start", "val_loss"), "trial": ("objective",), "analysis": ("best", "trials", "pruned")}


class LineView:
    """One line per ended stage."""

    def __init__(self, stages: Mapping[str, Stage], console: Console) -> None:
        self.console = console
        self.total = Counter(stage.kind for stage in stages.values())
        self.ended_by_kind: Counter[str] = Counter()
        self.bad = 0
        self._began = time.monotonic()
        self._cost_left = sum(stage.cost for stage in stages.values())
        self._cost_done = 0.0
        self._lock = threading.Lock()

    def added(self, stage: Stage) -> None:
        """Nothing: a study's stages were counted before they were known."""

    def started(self, stage: Stage) -> None:
        """Nothing: a line per end is enough."""

    def ended(self, stage: Stage, outcome: Outcome) -> None:
        """Print how a stage ended."""
        with self._lock:
            self.ended_by_kind[stage.kind] += 1
            self._cost_left -= stage.cost
            self._cost_done += stage.cost
            self.bad += outcome.outcome != "succeeded"
            number, total = sum(self.ended_by_kind.values()), sum(self.total.values())
        self._print(f"[{number:>{len(str(total))}}/{total}] {describe(stage, outcome)}")

    def preempted(self, stage: Stage, outcome: Outcome) -> None:
        """Print that a stage was lost with its worker; it has not ended."""
        self._print(f"{stage.kind} {stage.name}: preempted: {outcome.error}; tried again")

    def eta(self) -> float | None:
        """Seconds left, from the cost done so far; None before anything is done."""
        spent = time.monotonic() - self._began
        return spent * self._cost_left / self._cost_done if self._cost_done else None

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveView(LineView):
    """The same lines, and below them what runs now, with step and rate.

    Its work stays small however many stages there are and however fast they end: lines are written together once a
    second (each writing draws the panel anew), and leases are read of what was handed out only.

    Args:
        leases: the leases of some stages, by key.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        console: Console,
        leases: Callable[[Collection[str]], Mapping[str, Mapping[str, Any]]],
    ) -> None:
        super().__init__(stages, console)
        self._leases = leases
        self._handed_out: dict[str, None] = {}  # in this order
        self._lines: list[str] = []
        self._beats: list[Mapping[str, Any]] = []
        self._look_at = 0.0

    def started(self, stage: Stage) -> None:
        """Look for its lease from now on."""
        with self._lock:
            self._handed_out[stage.key] = None

    def ended(self, stage: Stage, outcome: Outcome) -> None:
        """Print how a stage ended."""
        super().ended(stage, outcome)
        with self._lock:
            self._handed_out.pop(stage.key, None)

    def _print(self, text: str) -> None:
        with self._lock:
            self._lines.append(text)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the panel on the screen meanwhile."""
        stop = threading.Event()
        with Live(self._panel(), console=self.console, refresh_per_second=4, transient=True) as live:

            def refresh() -> None:
                while not stop.wait(1.0):
                    self._write_lines()
                    self._look()
                    live.update(self._panel())

            thread = threading.Thread(target=refresh, daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
                self._write_lines()

    def _write_lines(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if lines:
            super()._print("\n".join(lines))

    def _panel(self) -> Group:
        bars = Progress(TextColumn("{task.description:<10}"), BarColumn(40), MofNCompleteColumn(), console=self.console)
        for kind, total in self.total.items():
            bars.add_task(kind, total=total, completed=self.ended_by_kind[kind])
        eta = self.eta()
        left = f"about {seconds_text(eta)} left" if eta is not None else "working out the time"
        bad = f", {self.bad} failed or blocked" if self.bad else ""
        return Group(running_table(self._beats), bars, f"{left}{bad}")

    def _look(self) -> None:
        """Read the leases again, unless that takes so long that it would be most of what this process does."""
        began = time.monotonic()
        if began < self._look_at:
            return
        with self._lock:
            keys = list(islice(self._handed_out, MOST_LOOKED_AT))
        try:
            self._beats = [beat for beat in self._leases(keys).values() if not beat.get("released")]
        except Exception:  # a view must never end a run
            self._beats = []
        now = time.monotonic()
        self._look_at = now + 10 * (now - began)


def running_table(beats: list[Mapping[str, Any]]) -> Table:
    """The stages in work: name, step, rate, node. In a narrow window the names are cut short, never the numbers."""
    rows = [_running(beat) for beat in sorted(beats, key=lambda b: float(b["started"]))[:SHOWN_RUNNING]]
    table = Table(box=None, pad_edge=False, show_header=bool(rows))  # very short stages are over before a look
    for number, (column, justify) in enumerate(_COLUMNS.items()):
        widest = max([len(column), *(len(row[number]) for row in rows)]) if number else None
        table.add_column(column, justify=justify, no_wrap=bool(number), min_width=widest, overflow="ellipsis")
    for name, *numbers in rows:
        table.add_row(Text(name, overflow="ellipsis", no_wrap=True), *numbers)
    if len(beats) > SHOWN_RUNNING:
        table.add_row(f"... and {len(beats) - SHOWN_RUNNING} more", "", "", "")
    return table


def _running(beat: Mapping[str, Any]) -> tuple[str, str, str, str]:
    spent = max(1e-6, float(beat["beat"]) - float(beat["started"]))
    steps = f"{beat['step']}/{beat['steps']}" if beat["steps"] else "starting"
    rate = f"{beat['step'] / spent:.2g}" if beat["steps"] else ""
    return f"{beat['kind']} {beat['name']}", steps, rate, f"{beat['node']} {beat['pid']}"


def describe(stage: Stage, outcome: Outcome) -> str:
    """One line: kind, name, how it ended."""
    head = f"{stage.kind} {stage.name}"
    if outcome.outcome != "succeeded":
        return f"{head}: {outcome.outcome.upper()}: {outcome.error}"
    names = _SHOWN.get(stage.kind, ("dice", "miou", "accuracy"))
    shown = [f"{name.replace('_', ' ')} {outcome.metrics[name]:.4g}" for name in names if name in outcome.metrics]
    if stage.kind == "trial" and "val_loss_start" not in outcome.metrics:
        shown.append("given up")
    return f"{head}: {', '.join([*shown, seconds_text(outcome.seconds)])}"


def seconds_text(seconds: float) -> str:
    """`42 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
