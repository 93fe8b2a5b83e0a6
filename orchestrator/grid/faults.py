"""What pydantic finds wrong, in the words of a grid file: one message with place, expectation and near names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.grid.errors import GridError, near, short
from orchestrator.grid.sections import check_section, checked_by
from orchestrator.grid.source import Path_, Source

# Beginnings of pydantic's error types -> what was expected.
_EXPECTED = {
    "int_": "a whole number",
    "float_": "a number",
    "bool_": "true or false",
    "string_type": "a text",
    "string_pattern": "at most 100 letters, digits, dots, dashes and underscores",
    "too_short": "at least one entry",
    **dict.fromkeys(("list_", "tuple_"), "a list"),
    **dict.fromkeys(("dict_", "mapping_", "model_"), "a mapping (key: value)"),
}


def section_faults(cls: type, values: Mapping[str, Any], source: Source, path: Path_) -> Iterator[GridError]:
    """What is wrong with a section of settings."""
    try:
        check_section(cls, values)
    except ValidationError as error:
        yield explain(error, source, path, checked_by(cls))


def model_faults(model: type[BaseModel], values: Any, source: Source, path: Path_) -> Iterator[GridError]:
    """What is wrong with a part of a grid that a model of its own checks."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        yield explain(error, source, path, model)


def explain(error: ValidationError, source: Source, prefix: Path_, model: type[BaseModel]) -> GridError:
    """The first fault of a validation of `model` as one message. `prefix`: where in the grid the values stand."""
    faults = _told_first(error.errors(include_url=False))
    loc = _place_of(faults[0], prefix)
    name = ".".join(str(part) for part in loc)
    where = f"{source.place(loc)}: {name}" if loc else source.place(loc)
    if faults[0]["type"] == "extra_forbidden":
        allowed = _fields_at(model, loc[len(prefix) : -1])
        return GridError(f"{source.place(loc)}: unknown key {name!r}; {near(str(loc[-1]), allowed)}")
    if faults[0]["type"] == "missing":
        return GridError(f"{where} is missing")
    if faults[0]["type"] == "value_error":  # raised by the schema's own validators, whose text says it all
        return GridError(f"{where}: {faults[0]['msg'].removeprefix('Value error, ')}")
    branches = [fault for fault in faults if _place_of(fault, prefix) == loc]
    wanted = " or ".join(dict.fromkeys(_expected(fault) for fault in branches))
    value = faults[0]["input"]
    return GridError(f"{where}: expected {wanted}, but got {'nothing' if value is None else short(repr(value))}")


def _told_first(faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """An unknown key goes before what is missing because of it; of a mapping that it is no plain word says nothing."""
    meant = [
        f for f in faults if not (isinstance(f["input"], Mapping) and str((f["loc"] or [""])[-1])[:8] == "literal[")
    ]
    return sorted(meant or faults, key=lambda fault: fault["type"] != "extra_forbidden")


def _place_of(fault: ErrorDetails, prefix: Path_) -> Path_:
    return (*prefix, *(part for part in fault["loc"] if not _is_tag(part)))


def _expected(fault: ErrorDetails) -> str:
    """Pydantic's complaint in the words of a grid file."""
    plain = next((words for kind, words in _EXPECTED.items() if fault["type"].startswith(kind)), None)
    return plain or fault["msg"].removeprefix("Input should be ")


def _is_tag(part: Any) -> bool:
    """Pydantic adds such words for the branches of a union; they are no keys of the file."""
    return isinstance(part, str) and (
        part in ("float", "int", "[key]", "Downstream") or part.startswith(("literal[", "function-"))
    )


def _fields_at(model: type[BaseModel], path: Path_) -> list[str]:
    """The keys that the mapping at `path` below `model` may have."""
    hint: Any = model
    for part in path:
        hint = next((inner for option in _options(hint) for inner in _inside(option, part)), model)
    found = [option for option in _options(hint) if isinstance(option, type) and issubclass(option, BaseModel)]
    return list((found[0] if found else model).model_fields)


def _inside(option: Any, part: str | int) -> Iterator[Any]:
    if isinstance(option, type) and issubclass(option, BaseModel):
        if part in option.model_fields:
            yield option.model_fields[str(part)].annotation
    elif isinstance(part, int) and get_origin(option) in (list, tuple, Sequence):
        yield get_args(option)[0]
    elif get_origin(option) in (dict, Mapping):
        yield get_args(option)[1]


def _options(hint: Any) -> Iterator[Any]:
    """The types that a hint stands for, less their annotations."""
    if get_origin(hint) is Annotated:
        yield from _options(get_args(hint)[0])
    elif get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from _options(option)
    else:
        yield hint
