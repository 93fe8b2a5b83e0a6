"""Sections of stage settings, checked: each dataclass of `trainables.settings` as a strict pydantic model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from trainables import settings
from trainables.settings.datasets import PREPARE_SETTINGS
from trainables.settings.networks import NETWORK_SETTINGS


def no_bool(value: Any) -> Any:
    """Python takes `true` for 1; no user means that."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, but got {str(value).lower()}")
    return value


def once(values: Any) -> Any:
    """Refuse a list that has an entry twice."""
    twice = [v for v in values or [] if (values or []).count(v) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} stands here twice; keep one")
    return values


def _checked(hint: Any) -> Any:
    """A field's type, with the checks that every field of that type gets."""
    if hint in (int, float, int | None, float | None):
        return Annotated[hint, BeforeValidator(no_bool)]
    if get_origin(hint) is tuple and get_origin(get_args(hint)[0]) is Literal:  # a choice of several
        return Annotated[hint, Field(min_length=1), AfterValidator(once)]
    return hint


def described(cls: type) -> dict[str, Any]:
    """The fields of a settings dataclass for pydantic's `create_model`; the limits stand in their metadata."""
    hints, found = get_type_hints(cls), dict[str, Any]()
    for dial in fields(cls):
        default: dict[str, Any] = {"default": dial.default}
        if dial.default is MISSING:
            default = {} if dial.default_factory is MISSING else {"default_factory": dial.default_factory}
        found[dial.name] = (_checked(hints[dial.name]), Field(**default, **dial.metadata))
    return found


def together(cls: type) -> dict[str, Any]:
    """For pydantic's `create_model`: the check that the dials of a settings dataclass go together, if it has one."""
    misfit = getattr(cls, "misfit", None)
    if misfit is None:
        return {}

    def check(values: BaseModel) -> BaseModel:
        if told := misfit(values):
            raise ValueError(told)
        return values

    return {"together": model_validator(mode="after")(check)}


def _strict(cls: type) -> type[BaseModel]:
    """A pydantic model of a settings dataclass."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
    return create_model(cls.__name__, __config__=config, __validators__=together(cls), **described(cls))


_CHECKS: dict[type, type[BaseModel]] = {
    cls: _strict(cls)
    for cls in (
        *settings.SECTIONS.values(),
        *settings.PRETEXT_SETTINGS.values(),
        *settings.DATASET_OPTIONS.values(),
        *NETWORK_SETTINGS.values(),
        *PREPARE_SETTINGS.values(),
    )
}


def check_section(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The complete section as JSON values, defaults filled in. Raises pydantic's ValidationError."""
    return _CHECKS[cls].model_validate(dict(values)).model_dump(mode="json")


def checked_by(cls: type) -> type[BaseModel]:
    """The model that checks a section of settings."""
    return _CHECKS[cls]
