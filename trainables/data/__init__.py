"""Datasets: what they hold (`open_dataset`), whether they are sound (`survey`), who trains (`split`), their pixels.

The listing half imports no torch, so that planning stays fast; pixels as tensors are in `trainables.data.stack`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trainables.data.listing import AbsentData, DataError, Listing, WrongRequest
from trainables.data.split import Split, hold_out, split
from trainables.data.survey import Survey, survey
from trainables.settings import DATASET_OPTIONS, parse

__all__ = [
    "READERS",
    "AbsentData",
    "DataError",
    "Listing",
    "Split",
    "Survey",
    "WrongRequest",
    "hold_out",
    "open_dataset",
    "split",
    "survey",
]

# Each module has `open_listing(data_root, options) -> Listing`; it is imported when asked for. One that `LOOKS_INSIDE`
# its files takes the folder of the cache too.
READERS: dict[str, str] = {
    "shapes": "trainables.data.shapes",
    "textures": "trainables.data.shapes",
    "folder": "trainables.data.folder",
    "flowers17": "trainables.data.flowers17",
    "flowers102": "trainables.data.flowers102",
    "pets": "trainables.data.pets",
    "pets-dogs": "trainables.data.pets_dogs",
    "voc": "trainables.data.voc",
    "voc-aeroplane": "trainables.data.voc",
    "voc-cat": "trainables.data.voc",
    "voc-horse": "trainables.data.voc",
    "voc-bus": "trainables.data.voc",
    "voc-car": "trainables.data.voc",
    "voc-person": "trainables.data.voc",
    "voc-motorbike": "trainables.data.voc",
    "voc-four": "trainables.data.voc",
    "cityscapes-bus": "trainables.data.cityscapes",
    "cityscapes-car": "trainables.data.cityscapes",
    "sceneparse150": "trainables.data.sceneparse150",
    "lucchi": "trainables.data.plusplus",
    "kasthuri": "trainables.data.plusplus",
    "cem500k": "trainables.data.cem500k",
    "lidc-nodules": "trainables.data.lidc",
    "luna16": "trainables.data.luna16",
    "nodules": "trainables.data.nodules",
}


def open_dataset(
    reader: str,
    data_root: Path | str,
    options: Mapping[str, Any] | None = None,
    *,
    cache_dir: Path | str | None = None,
) -> Listing:
    """List a dataset below `data_root`.

    Nothing is decoded (see `survey`), but for the masks of sets whose lists depend on what masks hold (VOC,
    Cityscapes); the manifest remembers those.

    Args:
        reader: a name in `READERS`.
        options: fields of the reader's options in `trainables.settings`.
        cache_dir: where manifests are kept; default $TRANSFERGRID_CACHE, else ~/.cache/transfergrid.

    Raises:
        AbsentData: data root or folder missing; nothing in it.
        WrongRequest: no such reader or option.
        DataError: what is there is not readable.
    """
    if reader not in READERS:
        raise WrongRequest(f"no dataset reader {reader!r}; there are {', '.join(READERS)}")
    module = import_module(READERS[reader])
    inside = {"cache_dir": cache_dir} if getattr(module, "LOOKS_INSIDE", False) else {}
    listing: Listing = module.open_listing(Path(data_root), _options(reader, options or {}), **inside)
    return listing


def _options(reader: str, values: Mapping[str, Any]) -> Any:
    cls = DATASET_OPTIONS[reader]
    try:
        options = parse(cls, values)
    except TypeError as error:
        raise WrongRequest(f"options of {reader}: {error}") from None
    for name, hint in get_type_hints(cls).items():
        value = getattr(options, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise WrongRequest(f"options of {reader}: {name} must be {' or '.join(get_args(hint))}, but got {value!r}")
        if hint is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise WrongRequest(f"options of {reader}: {name} must be a whole number, but got {value!r}")
    return options
