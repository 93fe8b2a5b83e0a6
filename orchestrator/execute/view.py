"""What a person sees of a run: a live panel on a terminal, plain lines in a log."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from orchestrator.execute.outcome import Outcome
from orchestrator.plan.stages import Stage

SHOWN_RUNNING = 12
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
        self.console.print(
            f"[{number:>{len(str(total))}}/{total}] {describe(stage, outcome)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def preempted(self, stage: Stage, outcome: Outcome) -> None:
        """Print that a stage was lost with its worker; it has not ended."""
        text = f"{stage.kind} {stage.name}: preempted: {outcome.error}; tried again"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def eta(self) -> float | None:
        """Seconds left, from the cost done so far; None before anything is done."""
        spent = time.monotonic() - self._began
        return spent * self._cost_left / self._cost_done if self._cost_done else None


class LiveView(LineView):
    """The same lines, and below them what runs now, with step and rate."""

    def __init__(
        self, stages: Mapping[str, Stage], console: Console, leases: Callable[[], Mapping[str, Mapping[str, Any]]]
    ) -> None:
        super().__init__(stages, console)
        self._stages, self._leases = dict(stages), leases

    def added(self, stage: Stage) -> None:
        """Show it while it runs."""
        self._stages[stage.key] = stage

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the panel on the screen meanwhile."""
        stop = threading.Event()
        with Live(self._panel(), console=self.console, refresh_per_second=4, transient=True) as live:

            def refresh() -> None:
                while not stop.wait(1.0):
                    live.update(self._panel())

            thread = threading.Thread(target=refresh, daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()

    def _panel(self) -> Group:
        bars = Progress(TextColumn("{task.description:<10}"), BarColumn(40), MofNCompleteColumn(), console=self.console)
        for kind, total in self.total.items():
            bars.add_task(kind, total=total, completed=self.ended_by_kind[kind])
        eta = self.eta()
        left = f"about {seconds_text(eta)} left" if eta is not None else "working out the time"
        bad = f", {self.bad} failed or blocked" if self.bad else ""
        return Group(running_table(self._beats()), bars, f"{left}{bad}")

    def _beats(self) -> list[Mapping[str, Any]]:
        try:
            return [b for key, b in self._leases().items() if key in self._stages and not b.get("released")]
        except Exception:  # a view must never end a run
            return []


def running_table(beats: list[Mapping[str, Any]]) -> Table:
    """The stages in work: name, step, rate, node."""
    table = Table(box=None, pad_edge=False)
    for column, justify in (("running", "left"), ("step", "right"), ("steps/s", "right"), ("node", "left")):
        table.add_column(column, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for beat in sorted(beats, key=lambda b: float(b["started"]))[:SHOWN_RUNNING]:
        spent = max(1e-6, float(beat["beat"]) - float(beat["started"]))
        steps = f"{beat['step']}/{beat['steps']}" if beat["steps"] else "starting"
        rate = f"{beat['step'] / spent:.2g}" if beat["steps"] else ""
        table.add_row(f"{beat['kind']} {beat['name']}", steps, rate, f"{beat['node']} {beat['pid']}")
    if len(beats) > SHOWN_RUNNING:
        table.add_row(f"... and {len(beats) - SHOWN_RUNNING} more", "", "", "")
    return table


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
