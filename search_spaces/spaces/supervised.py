"""Classification and segmentation: learning rate, epochs and weight decay, as the paper tuned them [P1 §5.1].

The values are *open*: rates around Adam's usual 3e-4, no decay or a small one.
"""

from __future__ import annotations

from search_spaces.spaces._base import Base, Changes, Trial, length


def supervised(trial: Trial, base: Base) -> Changes:
    """Three rates, two decays, and the lengths of the grid."""
    return {
        "pretrain.learning_rate": trial.suggest_categorical("learning_rate", [1e-4, 3e-4, 1e-3]),
        "pretrain.weight_decay": trial.suggest_categorical("weight_decay", [0.0, 1e-4]),
        **length(trial, base),
    }


def learning_rate(trial: Trial, base: Base) -> Changes:
    """For any pretext: a rate from a tenth to ten times the grid's own, and the length."""
    rate = float(base.settings["pretrain"]["learning_rate"])
    return {
        "pretrain.learning_rate": trial.suggest_float("learning_rate", rate / 10, rate * 10, log=True),
        **length(trial, base),
    }
