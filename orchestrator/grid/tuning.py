"""Faults of a `tune:` section that its shape does not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.grid.errors import near
from orchestrator.grid.schema import Downstream, Tune, check_section
from search_spaces.spaces import SPACES, Base, first_changes
from trainables.settings import ENCODER_ONLY, PRETEXT_SETTINGS, PretrainSettings

UNCOUNTED = {"car-patches": "patches", "cubes": "cubes"}  # preparations that may make fewer than they are asked for
Fault = tuple[tuple[str, ...], str]  # where in the section, and what is wrong


def misfits(
    tune: Tune, method: str, pretext: Mapping[str, Any], pretrain: Mapping[str, Any], prepare: str | None = None
) -> Iterator[Fault]:
    """What keeps a study from being run.

    Args:
        pretext, pretrain: the settings that the grid gives the pretext and its training.
        prepare: the kind of the stage that makes its data, if there is one.
    """
    space = tune.space or method
    if space not in SPACES:
        hint = "" if tune.space else f"; {method} has no space of its own, so name one"
        yield ("space",), f"no space {space!r}; {near(space, SPACES)}{hint}"
        return
    if pretrain.get("epochs") is not None and prepare in UNCOUNTED:
        yield (
            (),
            (
                f"a study counts in steps, and how many {UNCOUNTED[prepare]} an epoch of pretrain.epochs "
                f"{pretrain['epochs']} has is only known once `prepare` has made them; expected pretrain.steps, with "
                "pretrain.epochs null"
            ),
        )
        return
    if isinstance(tune.objective, Downstream) and tune.objective.scenario == "seg-enc-dec" and method in ENCODER_ONLY:
        yield (
            ("objective", "scenario"),
            f"seg-enc-dec takes over a decoder, but {method} trains none; expected cls-enc",
        )
    yield from _of_space(space, tune, method, pretext, pretrain)


def _of_space(
    space: str, tune: Tune, method: str, pretext: Mapping[str, Any], pretrain: Mapping[str, Any]
) -> Iterator[Fault]:
    cls = PRETEXT_SETTINGS[method]
    try:
        training = check_section(PretrainSettings, pretrain)
        settings = check_section(cls, {**pretext, "method": method})
    except ValidationError:
        return  # told where it stands
    steps = tuple(range(1, 1 + len(tune.lengths)))
    base = Base({**settings, "pretrain": training}, steps, comparable=isinstance(tune.objective, Downstream))
    dials = {"pretrain." + name for name in PretrainSettings.__dataclass_fields__} | set(cls.__dataclass_fields__)
    try:
        changes = first_changes(SPACES[space], base)
    except Exception as error:  # a space is anybody's code
        yield ("space",), f"space {space!r} fails for {method}: {type(error).__name__}: {error}"
        return
    stray = [name for name in changes if name not in dials]
    if stray:
        yield ("space",), f"space {space!r} tunes {stray[0]}, which {method} does not have; {near(stray[0], dials)}"
