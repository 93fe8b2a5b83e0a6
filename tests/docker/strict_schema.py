"""OpenAPI schemas of Kubernetes as JSON schemas that refuse unknown fields, as `kubectl --validate=strict` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

KEPT = ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "required", "minItems", "maxItems")
QUANTITY = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
METADATA = {
    name: {"type": "string"} if "ame" in name else {"type": "object", "additionalProperties": {"type": "string"}}
    for name in ("name", "generateName", "namespace", "labels", "annotations")
}


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema, closed: an object takes the fields it names and no others, unless it is a map or kept open.

    Metadata, which a CRD leaves to Kubernetes, takes name, namespace, labels and annotations.
    """
    if schema.get("x-kubernetes-int-or-string"):
        return dict(QUANTITY)
    closed: dict[str, Any] = {name: schema[name] for name in KEPT if name in schema}
    if "items" in schema:
        closed["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), Mapping):
        closed["additionalProperties"] = strict(schema["additionalProperties"])
    elif schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed["properties"] = {name: _field(name, below) for name, below in schema.get("properties", {}).items()}
        closed["additionalProperties"] = False
    return closed


def _field(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if name == "metadata" and not schema.get("properties"):
        return {"type": "object", "properties": METADATA, "additionalProperties": False}
    return strict(schema)


def faults(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What of `value` a strict schema refuses, each with its place."""
    found: Iterator[Any] = jsonschema.Draft202012Validator(dict(schema)).iter_errors(value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]
