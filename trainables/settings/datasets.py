"""Options of each dataset reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trainables.settings._dial import dial


@dataclass(frozen=True)
class ShapesOptions:
    """The synthetic set: textured shapes on a textured ground, made from numbers, nothing on disk."""

    count: int = dial(240, ge=4)
    size: int = dial(48, ge=8)
    seed: int = 0


@dataclass(frozen=True)
class FolderOptions:
    """`images/` + `masks/` (equal stems) + optional `splits/*.txt` below `path`; see `trainables.data.folder`.

    `classes` maps pixel values to names; empty: read from `classes.yaml` in the folder, else taken as binary.
    `target` is the class to segment; empty: the only one that is not the background. `ignore` are values not counted.
    """

    path: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    ignore: tuple[int, ...] = ()


@dataclass(frozen=True)
class Flowers17Options:
    """`rim`: pixels labelled neither flower nor background (*open*: not counted)."""

    rim: Literal["ignore", "background"] = "ignore"


@dataclass(frozen=True)
class Flowers102Options:
    """Oxford Flowers 102 has no choices (*open*: all 8189 images)."""


@dataclass(frozen=True)
class PetsOptions:
    """`border`: the unclassified band of the trimaps (*open*: foreground, since it holds thin parts)."""

    border: Literal["foreground", "background", "ignore"] = "foreground"


DatasetOptions = ShapesOptions | FolderOptions | Flowers17Options | Flowers102Options | PetsOptions
DATASET_OPTIONS: dict[str, type[DatasetOptions]] = {
    "shapes": ShapesOptions,
    "folder": FolderOptions,
    "flowers17": Flowers17Options,
    "flowers102": Flowers102Options,
    "pets": PetsOptions,
}
