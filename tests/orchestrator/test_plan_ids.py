"""The newest plan is the one saved last, also where the clock of a machine was once ahead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest

from orchestrator import run_grid
from orchestrator.plan import build
from orchestrator.plan.build import is_ahead_of_clock, new_plan_id, newest_plan_id
from orchestrator.record.store import Store, open_store

AHEAD = timedelta(days=3)
CELL = ["smoke", "--only", "model=Random", "--only", "fraction=0.2", "--executor", "inline"]
FEW = ["--set", "pretrain.steps=2", "--set", "finetune.steps=2", "--set", "finetune.report_every=2"]


class ClockAhead(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + AHEAD


def id_at(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z-ffffffff"


def test_an_id_sorts_behind_the_newest_in_the_same_format() -> None:
    newest = id_at(datetime(2031, 12, 31, 23, 59, 59, 999000, UTC))
    assert new_plan_id(newest).startswith("20320101T000000000Z-") and len(new_plan_id(newest)) == len(newest)
    assert is_ahead_of_clock(newest)


@pytest.mark.parametrize("newest", ["", "20200101T000000000Z-ffffffff", "by-hand", "20269999T000000000Z-ffffffff"])
def test_the_clock_decides_where_it_is_not_behind(newest: str) -> None:
    before, new, after = id_at(datetime.now(UTC))[:19], new_plan_id(newest), id_at(datetime.now(UTC))[:19]
    assert before <= new[:19] <= after and not is_ahead_of_clock(newest)


def test_the_newest_of_ids_that_begin_with_a_time() -> None:
    ids = [id_at(datetime(2026, 1, day, tzinfo=UTC)) for day in (2, 3, 1)]
    assert newest_plan_id([*ids, "zebra", ""]) == ids[1]
    assert newest_plan_id(["zebra"]) == newest_plan_id([]) == ""


def test_a_clock_that_was_ahead_buries_no_later_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = [*CELL, *FEW, "--store", str(tmp_path / "runs"), "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    with monkeypatch.context() as patch:
        patch.setattr(build, "datetime", ClockAhead)
        assert run_grid.main([*ask, "--only", "seed=0"]) == 0
    assert "warning: " not in capsys.readouterr().err
    store = open_store(str(tmp_path / "runs"))
    [early] = store.plans("smoke")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "plans", lambda *_: pytest.fail("a dry run needs no listing of the plans"))
        assert run_grid.main([*ask, "--only", "seed=1", "--dry-run"]) == 0
    capsys.readouterr()
    assert run_grid.main([*ask, "--only", "seed=1"]) == 0
    [warning] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "this machine's clock is behind" in warning and early in warning
    assert store.plans("smoke")[0] == early
    assert {cell["seed"] for cell in store.load_plan("smoke")["cells"]} == {1}
