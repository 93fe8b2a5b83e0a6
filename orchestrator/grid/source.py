"""Values that remember where they were written: YAML files, profiles and `--set`, merged into one tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.grid.errors import GridError

Path_ = tuple[str | int, ...]


@dataclass
class Source:
    """A tree of plain values, and for each path in it the place where it was written."""

    values: dict[str, Any]
    places: dict[Path_, str] = field(default_factory=dict)

    def place(self, path: Path_) -> str:
        """Where the value at `path`, or the nearest thing around it, was written."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return "the grid"

    def overlay(self, other: Source, *, label: str = "") -> Source:
        """This tree with `other` laid over it: mappings are merged, everything else is replaced."""
        places = dict(self.places)
        values = _merge(self.values, other.values, (), places)
        suffix = f" ({label})" if label else ""
        places.update({path: place + suffix for path, place in other.places.items() if path})
        return Source(values, places)

    def without(self, key: str) -> tuple[Source, Source | None]:
        """This tree less a top-level key, and that key's own subtree (None where it is absent)."""
        if key not in self.values:
            return self, None
        rest = Source({k: v for k, v in self.values.items() if k != key}, {})
        rest.places = {p: place for p, place in self.places.items() if p[:1] != (key,)}
        sub = self.values[key]
        if not isinstance(sub, Mapping):
            raise GridError(f"{self.place((key,))}: {key} must be a mapping, but is {sub!r}")
        return rest, Source(dict(sub), {p[1:]: place for p, place in self.places.items() if p[:1] == (key,)})


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], path: Path_, places: dict[Path_, str]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        here = (*path, key)
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value, here, places)
            continue
        for old in [p for p in places if p[: len(here)] == here]:
            del places[old]
        merged[key] = value
    return merged


def read_yaml(path: Path) -> Source:
    """Read a YAML mapping with the line of every value.

    Raises:
        GridError: the file is absent, is not YAML or no mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GridError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise GridError(f"{path}{line}: not valid YAML: {problem}") from error
    if not isinstance(node, yaml.MappingNode):
        raise GridError(f"{path}: expected a mapping of settings (key: value), but the file holds something else")
    places: dict[Path_, str] = {(): str(path)}
    values = _construct(node, (), str(path), places)
    return Source(values, places)


def _construct(node: yaml.Node, here: Path_, name: str, places: dict[Path_, str]) -> Any:
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(key_node, name)
            line = key_node.start_mark.line + 1
            if key in result:
                raise GridError(f"{name}:{line}: {key!r} stands here twice; keep one")
            places[(*here, key)] = f"{name}:{line}"
            result[key] = _construct(value_node, (*here, key), name, places)
        return result
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, item in enumerate(node.value):
            places[(*here, number)] = f"{name}:{item.start_mark.line + 1}"
            items.append(_construct(item, (*here, number), name, places))
        return items
    return _scalar(node, name)


def _scalar(node: yaml.Node, name: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise GridError(f"{name}:{node.start_mark.line + 1}: a key must be a plain word or number")
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise GridError(f"{name}:{node.start_mark.line + 1}: {getattr(error, 'problem', error)}") from error
    finally:
        loader.dispose()


def read_override(text: str) -> Source:
    """`a.b=c` of the command line as a tree; the value is read as YAML."""
    name, equals, value = text.partition("=")
    keys = tuple(part.strip() for part in name.split("."))
    if not equals or not all(keys):
        raise GridError(f"--set {text}: expected KEY=VALUE, for example --set finetune.steps=200")
    try:
        parsed = yaml.safe_load(value) if value.strip() else ""
    except yaml.YAMLError as error:
        raise GridError(f"--set {text}: the value is not valid YAML: {getattr(error, 'problem', error)}") from error
    tree: Any = parsed
    for key in reversed(keys):
        tree = {key: tree}
    return Source(tree, {keys[:end]: f"--set {text}" for end in range(1, len(keys) + 1)})
