"""SimCLR and BYOL. Rates are relative to the grid's own, since LARS and Adam differ by a factor of hundreds."""

from __future__ import annotations

from search_spaces.spaces._base import Base, Changes, Trial, training


def simclr(trial: Trial, base: Base) -> Changes:
    """Rate, decay, length; the temperature only where trials stay comparable, since it scales the loss."""
    changes = training(trial, base, rates=_around(base), decays=(0.0, 1e-6, 1e-4))
    if base.comparable:
        changes["temperature"] = trial.suggest_float("temperature", 0.05, 1.0, log=True)
    return changes


def byol(trial: Trial, base: Base) -> Changes:
    """Rate, decay, length and the decay of the target's moving average [arXiv:2006.07733, table 5]."""
    changes = training(trial, base, rates=_around(base), decays=(0.0, 1.5e-6, 1e-4))
    if base.comparable:
        changes["momentum"] = trial.suggest_categorical("momentum", [0.9, 0.99, 0.996, 0.999])
    return changes


def _around(base: Base) -> tuple[float, float]:
    rate = float(base.settings["pretrain"]["learning_rate"])
    return rate / 10, rate * 10
