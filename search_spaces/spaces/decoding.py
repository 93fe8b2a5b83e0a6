"""Reconstruction and ConRec: training, decoding tasks, and the weight of the contrast."""

from __future__ import annotations

from search_spaces.spaces._base import Base, Changes, Trial, training

TASKS = {"one": ["reconstruction"], "four": ["reconstruction", "color", "mask", "fill"]}


def reconstruction(trial: Trial, base: Base) -> Changes:
    """Rate, decay, length; one decoding task or four where trials stay comparable and the tasks have no own weights."""
    rate = float(base.settings["pretrain"]["learning_rate"])
    changes = training(trial, base, rates=(rate / 10, rate * 10), decays=(0.0, 1e-6, 1e-4))
    if base.comparable and not base.settings.get("task_weights"):
        changes["tasks"] = TASKS[trial.suggest_categorical("tasks", list(TASKS))]
    return changes


def conrec(trial: Trial, base: Base) -> Changes:
    """As reconstruction, and where trials stay comparable the temperature and the weight of reconstruction."""
    changes = reconstruction(trial, base)
    if base.comparable:
        changes["temperature"] = trial.suggest_float("temperature", 0.05, 1.0, log=True)
        changes["reconstruction_weight"] = trial.suggest_float("reconstruction_weight", 1.0, 1000.0, log=True)
    return changes
