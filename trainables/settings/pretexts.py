"""Dials of each pretext method; the names of its data, network and training are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainables.settings._dial import dial, parse

DecodingTask = Literal["reconstruction", "color", "mask", "fill"]


@dataclass(frozen=True)
class SimCLRSettings:
    """SimCLR [P1 §2.2; conrec: utils/contrastive.py]."""

    method: Literal["simclr"] = "simclr"
    temperature: float = dial(0.5, gt=0)


@dataclass(frozen=True)
class ReconstructionSettings:
    """Masked reconstruction without contrast. P1 names it without a definition; *open*: ConRec without its contrast."""

    method: Literal["reconstruction"] = "reconstruction"
    tasks: tuple[DecodingTask, ...] = ("reconstruction",)
    reconstruction_weight: float = dial(100.0, ge=0)


@dataclass(frozen=True)
class ConRecSettings:
    """Contrast plus decoding [P1 §2.2, Fig. 3; conrec: README]. One task is vanilla ConRec, four are the paper's.

    The reconstruction term is the mean over the tasks (*open*: keeps the scale of the vanilla method).
    """

    method: Literal["conrec"] = "conrec"
    tasks: tuple[DecodingTask, ...] = ("reconstruction", "color", "mask", "fill")
    temperature: float = dial(0.5, gt=0)
    reconstruction_weight: float = dial(100.0, ge=0)
    contrastive_weight: float = dial(1.0, ge=0)


PretextSettings = SimCLRSettings | ReconstructionSettings | ConRecSettings
# These train no decoder, so that no scenario can take one over.
ENCODER_ONLY = frozenset({"simclr"})
PRETEXT_SETTINGS: dict[str, type[PretextSettings]] = {
    "simclr": SimCLRSettings,
    "reconstruction": ReconstructionSettings,
    "conrec": ConRecSettings,
}


def parse_pretext(values: Mapping[str, Any]) -> PretextSettings:
    """The settings object of the method that `values["method"]` names."""
    method = values.get("method")
    if method not in PRETEXT_SETTINGS:
        raise TypeError(f"no pretext method {method!r}; there are {', '.join(PRETEXT_SETTINGS)}")
    return parse(PRETEXT_SETTINGS[method], values)
