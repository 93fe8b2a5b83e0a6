"""What spaces are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Changes = dict[str, Any]


class Trial(Protocol):
    """The part of `optuna.Trial` that spaces use."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Base:
    """The pretext that a study starts from.

    Attributes:
        settings: the pretext's complete settings, its training's under `pretrain`.
        steps: the lengths of training that the grid's `tune.lengths` stands for, ascending.
        comparable: the objective does not depend on the pretext's own loss, so that what scales the loss (temperature,
            weights) can be tuned; true for `objective: downstream`.
    """

    settings: Mapping[str, Any]
    steps: tuple[int, ...]
    comparable: bool


Space = Callable[[Trial, Base], Changes]


class _First:
    """A trial that takes the first of everything."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[0]


def first_changes(space: Space, base: Base) -> Changes:
    """What a space changes in a pretext where each choice is its first: which dials it tunes, without Optuna."""
    return space(_First(), base)


def training(trial: Trial, base: Base, *, rates: tuple[float, float], decays: Sequence[float]) -> Changes:
    """Learning rate (log-uniform), weight decay and length, which every pretext has.

    Args:
        rates: smallest and largest learning rate.
        decays: the weight decays to choose from.
    """
    return {
        "pretrain.learning_rate": trial.suggest_float("learning_rate", *rates, log=True),
        "pretrain.weight_decay": trial.suggest_categorical("weight_decay", list(decays)),
        **length(trial, base),
    }


def length(trial: Trial, base: Base) -> Changes:
    """How many steps are trained. Not asked where the grid gives a single length."""
    if len(base.steps) == 1:
        return {}
    return {"pretrain.steps": trial.suggest_categorical("steps", list(base.steps))}
