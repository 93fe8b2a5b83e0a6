"""Datasets: what they hold (`open_dataset`), whether they are sound (`survey`), who trains (`split`), their pixels.

The listing half imports no torch, so that planning stays fast; pixels as tensors are in `trainables.data.stack`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trainables.data.listing import DataError, Listing
from trainables.data.split import Split, split
from trainables.data.survey import Survey, survey
from trainables.settings import DATASET_OPTIONS, parse

__all__ = ["READERS", "DataError", "Listing", "Split", "Survey", "open_dataset", "split", "survey"]

# Each module has `open_listing(data_root, options) -> Listing`; it is imported when asked for.
READERS: dict[str, str] = {
    "shapes": "trainables.data.shapes",
    "folder": "trainables.data.folder",
    "flowers17": "trainables.data.flowers17",
    "flowers102": "trainables.data.flowers102",
    "pets": "trainables.data.pets",
}


def open_dataset(reader: str, data_root: Path | str, options: Mapping[str, Any] | None = None) -> Listing:
    """List a dataset below `data_root`; nothing is decoded (see `survey`).

    Args:
        reader: a name in `READERS`.
        options: fields of the reader's options in `trainables.settings`.

    Raises:
        DataError: no such reader or option; data root or folder missing; nothing in it; a list unreadable.
    """
    if reader not in READERS:
        raise DataError(f"no dataset reader {reader!r}; there are {', '.join(READERS)}")
    return import_module(READERS[reader]).open_listing(Path(data_root), _options(reader, options or {}))  # type: ignore[no-any-return]


def _options(reader: str, values: Mapping[str, Any]) -> Any:
    cls = DATASET_OPTIONS[reader]
    try:
        options = parse(cls, values)
    except TypeError as error:
        raise DataError(f"options of {reader}: {error}") from None
    for name, hint in get_type_hints(cls).items():
        value = getattr(options, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise DataError(f"options of {reader}: {name} must be {' or '.join(get_args(hint))}, but got {value!r}")
        if hint is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise DataError(f"options of {reader}: {name} must be a whole number, but got {value!r}")
    return options
