"""Digests of the source that each stage's result depends on: `python -m tests.trainables.stage_digests --write`.

From a stage's function all definitions below `trainables` are followed that it names, through imports. Of a registry
only the entry of the stage counts, so that a new pretext or dataset changes no other stage's digest. Comments,
docstrings, annotations and layout do not count.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from trainables.data import shapes
from trainables.versions import VERSIONS

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("stage_digests.json")
PACKAGE = "trainables"
# Where one strategy is chosen of many: which part of a stage's name (`kind/method`) chooses it. None: not chosen by the
# stage but by its spec, and what the others say is in the spec or in the fingerprint of the data.
REGISTRIES: dict[tuple[str, str], str | None] = {
    ("trainables.stages", "STAGES"): "kind",
    ("trainables.pretexts", "PRETEXTS"): "method",
    ("trainables.networks", "NETWORKS"): "network",
    ("trainables.data.prepare", "PREPARATIONS"): "method",
    ("trainables.analyses", "ANALYSES"): "method",
    ("trainables.settings.networks", "NETWORK_SETTINGS"): "network",
    ("trainables.settings.networks", "AnyNetworkSettings"): None,
    ("trainables.settings.datasets", "PREPARE_SETTINGS"): "method",
    ("trainables.settings.pretexts", "PRETEXT_SETTINGS"): "method",
    ("trainables.settings.pretexts", "PretextSettings"): None,
    ("trainables.settings.datasets", "DatasetOptions"): None,
    ("trainables.settings.datasets", "DATASET_OPTIONS"): None,
    ("trainables.settings", "SECTIONS"): None,
    ("trainables.data", "READERS"): None,
}
Name = tuple[str, str]  # module, definition in it; "*": all of it
# Stages that another stage calls: they have versions of their own, which the key of the other holds too.
VERSIONED: set[Name] = {("trainables.pretexts.pretrain", "pretrain"), ("trainables.downstream.finetune", "finetune")}


def digests() -> dict[str, dict[str, Any]]:
    """For each stage and network its version, and a digest for each module of what it uses there."""
    found = {}
    for stage, version in VERSIONS.items():
        kind, _, method = stage.partition("/")
        if kind == "network":
            root, chosen = ("trainables.networks", "NETWORKS"), {"network": method}
        else:
            root, chosen = ("trainables.stages", "STAGES"), {"kind": kind, "method": method}
        found[stage] = {"version": version, "modules": _closure(root, chosen)}
    painter = _closure(("trainables.data.shapes", "Painter"), {})
    found["data/shapes"] = {"version": shapes.VERSION, "modules": painter}
    return found


def recorded() -> dict[str, dict[str, Any]]:
    """What was last written."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def write() -> None:
    """Record the present digests."""
    FILE.write_text(json.dumps(digests(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _closure(root: Name, chosen: dict[str, str]) -> dict[str, str]:
    """Module -> digest of the definitions in it that `root` reaches."""
    reached: dict[str, dict[int, str]] = defaultdict(dict)  # module -> line -> normal form
    seen: set[Name] = set()
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for module, statement in _statements(name):
            statement = _choose(module, statement, chosen)
            reached[module][statement.lineno], names = _content(module, statement)
            waiting += [n for n in names if module == "trainables.stages" or n not in VERSIONED]
        waiting.append((name[0], ""))  # statements of a module that define nothing, but do something
    return {
        module: hashlib.sha256("\n".join(text for _, text in sorted(parts.items())).encode()).hexdigest()[:24]
        for module, parts in sorted(reached.items())
        if parts
    }


@cache
def _content(module: str, statement: ast.stmt) -> tuple[str, list[Name]]:
    """(normal form, what it names)."""
    return _normal(statement), list(_references(module, statement))


@cache
def _module(name: str) -> tuple[dict[str, list[ast.stmt]], dict[str, Name]]:
    """(definitions by name, "" for statements that define none; imports from this package by local name)."""
    definitions: dict[str, list[ast.stmt]] = defaultdict(list)
    imports: dict[str, Name] = {}
    for statement in ast.parse(_path(name).read_text(encoding="utf-8")).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            imports.update(_imports(statement))
        elif bound := _bound(statement):
            for each in bound:
                definitions[each].append(statement)
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            definitions[""].append(statement)
    definitions.pop("__all__", None)
    return definitions, imports


def _imports(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Name]]:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.name.split(".")[0] == PACKAGE:
                yield (alias.asname or PACKAGE), (alias.name, "*")
    elif (statement.module or "").split(".")[0] == PACKAGE:
        for alias in statement.names:
            module, inside = str(statement.module), f"{statement.module}.{alias.name}"
            yield (alias.asname or alias.name), ((inside, "*") if _exists(inside) else (module, alias.name))


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]


def _statements(name: Name) -> Iterator[tuple[str, ast.stmt]]:
    """The statements that define a name, followed through re-exports."""
    module, wanted = name
    definitions, imports = _module(module)
    if wanted == "*":
        for statements in definitions.values():
            yield from ((module, statement) for statement in statements)
    elif wanted in imports:
        yield from _statements(imports[wanted])
    else:
        yield from ((module, statement) for statement in definitions.get(wanted, []))


def _choose(module: str, statement: ast.stmt, chosen: dict[str, str]) -> ast.stmt:
    """Of a registry only the entry of the stage."""
    name = next((n for n in _bound(statement) if (module, n) in REGISTRIES), None)
    if name is None:
        return statement
    by, value = REGISTRIES[module, name], getattr(statement, "value", None)
    entries: list[ast.expr] = []
    if by is not None and isinstance(value, ast.Dict):
        pairs = zip(value.keys, value.values, strict=True)
        entries = [v for k, v in pairs if isinstance(k, ast.Constant) and k.value == chosen.get(by)]
    picked = ast.Expr(ast.Tuple([ast.Constant(name), *entries], ast.Load()))
    return ast.copy_location(picked, statement)


def _references(module: str, statement: ast.stmt) -> Iterator[Name]:
    """What a statement names: in this module, by an import, or as the text of a lazy registry."""
    definitions, imports = _module(module)
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and node.id in imports:
            yield imports[node.id]
        elif isinstance(node, ast.Name) and node.id in definitions:
            yield module, node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):  # inside a function
            yield from (name for _, name in _imports(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PACKAGE + "."):
            place, _, name = node.value.partition(":")
            if _exists(place):
                yield place, name or "*"


def _normal(node: Any) -> str:
    """The syntax tree as text, the same on every Python: no places, annotations, docstrings or empty fields."""
    if isinstance(node, ast.AST):
        parts = [type(node).__name__]
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "ctx", "kind", "type_comment", "type_params"):
                continue
            if field == "body" and isinstance(value, list):
                value = [s for s in value if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            if value is not None and value != []:
                parts.append(f"{field}={_normal(value)}")
        return f"({' '.join(parts)})"
    return f"[{' '.join(map(_normal, node))}]" if isinstance(node, list) else repr(node)


def _exists(module: str) -> bool:
    return _path(module).is_file()


def _path(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"record the present digests in {FILE.name}")
    if parser.parse_args().write:
        write()
    else:
        print(json.dumps(digests(), indent=1, sort_keys=True))
