"""Studies and trials made up for tests of planning and sampling. Nothing here touches a disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from orchestrator.grid.schema import check_section
from orchestrator.plan.stages import Study
from orchestrator.plan.studies import Trial, trial_stage
from trainables.settings import PRETEXT_SETTINGS, SECTIONS, PretrainSettings

RATE = distribution_to_json(FloatDistribution(1e-4, 1e-2, log=True))
TUNE = {
    "space": "learning-rate", "trials": 6, "lengths": [1.0], "objective": "validation", "pruning": None,
    "budget": None, "parallel": None, "startup": 3, "seed": 0,
}  # fmt: skip


def study(**tune: Any) -> Study:
    """A study of reconstruction over 90 steps. Beside its `tune:` section: steps, rungs, key, direction, method."""
    given = {name: tune.pop(name) for name in ("steps", "rungs", "key", "parents") if name in tune}
    method, direction = tune.pop("method", "reconstruction"), tune.pop("direction", "minimize")
    spec = {
        "pretext": check_section(PRETEXT_SETTINGS[method], {"method": method}),
        "network": {"name": "conrec-unet", "width": 4},
        "data": {"reader": "shapes", "options": {"count": 40, "path": "here"}},
        "pretrain": check_section(PretrainSettings, {"steps": 90, "report_every": 10, "learning_rate": 1e-3}),
        "backend": check_section(SECTIONS["backend"], {}),
        "seed": 0,
    }
    about = {"key": "a" * 24, "parents": {}, "steps": (90,), "rungs": ()} | given
    return Study(
        name="reconstruction | shapes", spec=spec, fingerprint="data", labels={}, tune={**TUNE, **tune},
        objective={"kind": "validation", "metric": "val_loss", "direction": direction}, **about,
    )  # fmt: skip


def trial(
    number: int, state: Any = "COMPLETE", value: float | None = None, rate: float | None = None, **more: Any
) -> Trial:
    """A trial of the space `learning-rate`."""
    rate = 1e-3 * (1 + number / 10) if rate is None else rate
    changes = {"pretrain.learning_rate": rate}
    known = Trial(number, {"learning_rate": rate}, {"learning_rate": RATE}, changes, f"{number:024x}", state, value)
    return replace(known, **more)


def keyed(of: Study, trials: Sequence[Trial]) -> list[Trial]:
    """The trials with the keys that their stages have."""
    return [replace(trial, key=trial_stage(of, trial.changes).key) for trial in trials]


def choice(*values: Any) -> str:
    return distribution_to_json(CategoricalDistribution(values))


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
