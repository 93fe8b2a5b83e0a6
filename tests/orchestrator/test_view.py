"""The live view: every line is written, only what was handed out is looked at, and nothing it meets ends a run."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from typing import Any

from rich.console import Console

from orchestrator.execute.outcome import Outcome
from orchestrator.execute.view import MOST_LOOKED_AT, SHOWN_RUNNING, LiveView, running_table
from tests.orchestrator.made_up import graph, stage

STAGES = graph(*(stage(f"s{n}") for n in range(1000)))


def beat(key: str, name: str = "a name") -> dict[str, Any]:
    about = {"key": key, "kind": "finetune", "name": name, "node": "gpu-07", "pid": 4321}
    return {**about, "step": 150, "steps": 2000, "started": 100.0, "beat": 110.0}


class Leases:
    """Remembers which keys were asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, keys: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        self.asked.append(list(keys))
        return {key: beat(key) for key in keys}


def terminal(width: int = 100) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=True, width=width, height=40, color_system=None), text


def test_every_line_is_written_once_and_in_order() -> None:
    console, text = terminal()
    view = LiveView(STAGES, console, Leases())
    with view.shown():
        for key in STAGES:
            view.started(STAGES[key])
            view.ended(STAGES[key], Outcome(key, "succeeded", seconds=1.0, metrics={"dice": 0.5}))
    lines = [line for line in text.getvalue().splitlines() if "finetune stage s" in line]
    numbers = [int(found[1]) for line in lines if (found := re.search(r"\[ *(\d+)/1000\] finetune", line))]
    assert numbers == list(range(1, 1001))
    assert lines[0].rstrip().endswith("finetune stage s0: dice 0.5, 1 s")


def test_only_what_was_handed_out_and_has_not_ended_is_looked_at() -> None:
    leases = Leases()
    view = LiveView(STAGES, terminal()[0], leases)
    for key in ("s1", "s2", "s3"):
        view.started(STAGES[key])
    view.ended(STAGES["s2"], Outcome("s2", "failed", error="broken"))
    view._look()
    assert leases.asked == [["s1", "s3"]]
    for number in range(4, 1000):
        view.started(STAGES[f"s{number}"])
    view._look_at = 0.0
    view._look()
    assert len(leases.asked[1]) == MOST_LOOKED_AT and leases.asked[1][:3] == ["s1", "s3", "s4"]


def test_a_store_that_fails_ends_no_view() -> None:
    def broken(keys: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        raise OSError("gone")

    console, text = terminal()
    view = LiveView(STAGES, console, broken)
    view.started(STAGES["s1"])
    view._look()
    console.print(view._panel())
    assert "0/1000" in text.getvalue()


def test_a_narrow_window_cuts_names_and_no_numbers() -> None:
    console, text = terminal(60)
    console.print(running_table([beat(f"s{n}", "a name that is longer than any window " * 3) for n in range(20)]))
    lines = text.getvalue().splitlines()
    assert len(lines) == 1 + SHOWN_RUNNING + 1 and lines[-1].startswith(f"... and {20 - SHOWN_RUNNING} more")
    assert all("150/2000" in line and "15" in line and "gpu-07 4321" in line for line in lines[1:-1])
