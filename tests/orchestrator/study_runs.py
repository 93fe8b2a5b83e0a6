"""A small grid with a study, and the commands of the program on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator import run_grid, status
from orchestrator.record.store import Store, open_store
from tests.orchestrator.made_up import write_grid

GRID = """\
grid: tuned
title: Tuned
profile: smoke
rows:
  - {scenario: random-init, model: Random}
  - {scenario: seg-enc, model: Reconstruction, pretext: reconstruction}
columns:
  - {dataset: shapes, pretext_data: shapes, fractions: [0.2]}
seeds: [0]
pretexts:
  reconstruction:
    pretrain: {steps: 8, report_every: 2, batch: 4}
    tune: TUNE
"""
TUNE = {"space": "learning-rate", "trials": 4, "lengths": "[0.5, 1]", "pruning": "{rule: asha}", "startup": 2}
TINY = ["--set", "finetune.steps=2", "--set", "network.width=4", "--set", "datasets.shapes.count=40"]
TINY += ["--set", "datasets.shapes.size=32"]
DIVERGING = "pretexts.reconstruction.pretrain={optimizer: sgd, steps: 8, report_every: 2, learning_rate: RATE}"


def tuned(folder: Path, **tune: Any) -> str:
    """The grid with a study of these settings beside `TUNE`; None takes one away."""
    section = ", ".join(f"{k}: {v}" for k, v in (TUNE | tune).items() if v is not None)
    return write_grid(folder, GRID.replace("TUNE", f"{{{section}}}"), "tuned.yaml")


def diverging(rate: float) -> list[str]:
    """At 1e12 some trials diverge, at 1e30 all do."""
    return ["--set", DIVERGING.replace("RATE", f"{rate:g}")]


class Runs:
    """The program on one store, in this process."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "TRANSFERGRID_DATA", "TRANSFERGRID_STUDY_STORAGE"):
            monkeypatch.delenv(name, raising=False)
        self.folder, self.store_folder, self._capfd = folder, folder / "runs", capfd
        self.err = ""

    @property
    def store(self) -> Store:
        return open_store(str(self.store_folder))

    def run(self, grid: str | list[str], *more: str, code: int = 0) -> dict[str, Any]:
        """Run a grid, or several, inline; its JSON."""
        grids = [grid] if isinstance(grid, str) else grid
        words = [*grids, "--store", str(self.store_folder), "--executor", "inline", "--json", *TINY, *more]
        out = self._called(run_grid.main, words, code)
        return dict(json.loads(out)) if out else {}

    def status(self, *more: str, code: int = 0) -> str:
        return self._called(status.main, ["--store", str(self.store_folder), *more], code)

    def studied(self) -> dict[str, Any]:
        """The only study, as `status --json` tells it."""
        (found,) = json.loads(self.status("--json"))["studies"]
        return dict(found)

    def _called(self, main: Any, words: list[str], code: int) -> str:
        self._capfd.readouterr()
        found = main(words)
        out, self.err = self._capfd.readouterr()
        assert found == code, self.err
        assert "Traceback" not in self.err
        return out

    def commits(self) -> dict[str, dict[str, Any]]:
        return self.store.commits(self.store.finished())

    def trials(self) -> dict[int, dict[str, Any]]:
        """Number -> proposal of the only study."""
        (study,) = self.store.studies()
        return {proposal["number"]: proposal for proposal in self.store.proposals(study)}

    def journal(self) -> list[optuna.trial.FrozenTrial]:
        """The trials in the Optuna journal of the only study."""
        return journal(self.store_folder)


def journal(store: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(store / "studies" / "optuna.log")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials
