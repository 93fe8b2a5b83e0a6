"""Values that remember where they were written: YAML files, profiles and `--set`, merged into one tree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.grid.errors import GridError, short

Path_ = tuple[str | int, ...]
MOST_VALUES = 200_000
_UNWRITABLE = re.compile(r"[\0\ud800-\udfff]")  # YAML can name them by escapes; no UTF-8 file or path can hold them


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

    def overlay(self, other: Source) -> Source:
        """This tree with `other` laid over it: mappings are merged, everything else is replaced.

        A list is replaced by a list; a mapping of numbers (`rows.0.model` of `--set`) changes its entries.
        """
        places = dict(self.places)
        values = _merge(self.values, other, other.values, (), places)
        places.update({path: place for path, place in other.places.items() if path})
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


def _merge(
    base: Mapping[Any, Any], other: Source, over: Mapping[Any, Any], path: Path_, places: dict[Path_, str]
) -> dict[Any, Any]:
    """`over`, the part of `other` at `path`, laid over `base`. Raises GridError for an entry that a list has not."""
    merged = dict(base)
    for key, value in over.items():
        here, below = (*path, key), merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = _merge(below, other, value, here, places)
            continue
        if isinstance(value, Mapping) and isinstance(below, list) and all(type(number) is int for number in value):
            _refuse_stray(value, below, other, here)
            merged[key] = list(_merge(dict(enumerate(below)), other, value, here, places).values())
            continue
        for old in [p for p in places if p[: len(here)] == here]:
            del places[old]
        merged[key] = value
    return merged


def _refuse_stray(changes: Mapping[int, Any], entries: list[Any], other: Source, path: Path_) -> None:
    """Changes by number are of entries that there are."""
    stray = next((number for number in changes if not 0 <= number < len(entries)), None)
    if stray is None:
        return
    name = ".".join(map(str, path))
    there = f"{name} has the entries 0 to {len(entries) - 1}" if entries else f"{name} is empty"
    raise GridError(f"{other.place((*path, stray))}: there is no {name}.{stray}; {there}")


def read_yaml(path: Path) -> Source:
    """Read a YAML mapping with the line of every value.

    Raises:
        GridError: the file is absent, is not YAML or no mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise GridError(f"{path}: cannot be read: {error.strerror}; expected a grid in YAML") from error
    except UnicodeDecodeError as error:
        raise GridError(f"{path}: cannot be read: it is no UTF-8 text; expected a grid in YAML") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_multiplied(node, str(path))
        if not isinstance(node, yaml.MappingNode):
            held = "a list" if isinstance(node, yaml.SequenceNode) else "a single value" if node else "nothing"
            raise GridError(f"{path}: expected a mapping of settings (key: value), but the file holds {held}")
        places: dict[Path_, str] = {(): str(path)}
        return Source(_construct(node, (), str(path), places), places)
    except RecursionError:
        raise GridError(f"{path}: nested too deeply; does an alias (*name) stand within its own anchor?") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise GridError(f"{path}{line}: not valid YAML: {problem}") from error


def _refuse_multiplied(node: yaml.Node | None, where: str) -> None:
    """Aliases of aliases make a few lines stand for more values than any memory holds."""
    counted: dict[int, int] = {}

    def count(inner: yaml.Node) -> int:
        if id(inner) not in counted:
            counted[id(inner)] = 1 + sum(count(child) for child in _children(inner))
        return counted[id(inner)]

    if node is not None and (values := count(node)) > MOST_VALUES:
        shown = f"{values:,}" if values < 1e12 else "countless"
        raise GridError(f"{where}: it stands for {shown} values (aliases multiply them); at most {MOST_VALUES:,}")


def _problem(error: Exception) -> str:
    return str(getattr(error, "problem", None) or str(error).splitlines()[0])


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


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
    if node.tag == "tag:yaml.org,2002:merge":
        raise GridError(f"{name}:{node.start_mark.line + 1}: merge keys (<<) are not supported; write the keys out")
    if _UNWRITABLE.search(node.value):
        line = node.start_mark.line + 1
        raise GridError(f"{name}:{line}: {node.value!r} holds a character that is in no text; expected printable ones")
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that only looks like one
        problem = getattr(error, "problem", error)
        raise GridError(f"{name}:{node.start_mark.line + 1}: {node.value!r} cannot be read: {problem}") from error
    finally:
        loader.dispose()


def read_override(text: str) -> Source:
    """`a.b=c` of the command line as a tree; the value is read as YAML."""
    name, equals, value = text.partition("=")
    shown = f"--set {short(text)}"
    words = [part.strip() for part in name.split(".")]
    keys = tuple(int(word) if word.isdecimal() else word for word in words)
    if not equals or not all(words):
        raise GridError(f"{shown}: expected KEY=VALUE, for example --set finetune.steps=200")
    try:
        _refuse_multiplied(yaml.compose(value, Loader=yaml.SafeLoader), shown)
        parsed = yaml.safe_load(value) if value.strip() else ""
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise GridError(f"{shown}: the value is not valid YAML: {_problem(error)}") from error
    tree: Any = parsed
    for key in reversed(keys):
        tree = {key: tree}
    return Source(tree, {keys[:end]: shown for end in range(1, len(keys) + 1)})
