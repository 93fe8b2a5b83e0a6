"""Records as JSON files of a store. One that cannot be read is named, with what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.record.backend import Backend, StoreError, first_line
from orchestrator.record.shape import fault_of_record

Record = dict[str, Any]


def write(backend: Backend, path: str, record: Mapping[str, Any], *, create: bool = False, sync: bool = True) -> bool:
    """Write a record; see `Backend.put`."""
    data = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=True).encode()
    return backend.put(path, data, create=create, sync=sync)


def read(backend: Backend, path: str) -> Record | None:
    """One record, None where there is none.

    Raises:
        StoreError: it is damaged.
    """
    data = backend.get(path)
    return None if data is None else _decode(backend, path, data)


def read_all(backend: Backend, kind: str, keys: Iterable[str]) -> dict[str, Record]:
    """The records `kind/KEY.json`, commits or failures, of those of `keys` that have one.

    Raises:
        StoreError: one is damaged, lacks a field, or is the record of another key.
    """
    found = {}
    for key in keys:
        path = f"{kind}/{key}.json"
        if (record := read(backend, path)) is not None:
            if fault := fault_of_record(kind, key, record):
                raise damaged(backend, path, fault)
            found[key] = record
    return found


def damaged(backend: Backend, path: str, fault: str) -> StoreError:
    """The error to raise for a record that is JSON and cannot be used as it is."""
    return StoreError(
        f"store {backend.uri}: {path} is damaged or was tampered with: {fault}; move it away and run again"
    )


def names(backend: Backend, prefix: str) -> list[str]:
    """The paths of all records below `prefix`."""
    return [path for path in backend.paths(prefix) if path.endswith(".json")]


def _decode(backend: Backend, path: str, data: bytes) -> Record:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"store {backend.uri}: {path} is not valid JSON ({first_line(error)}); move it away and run again"
        ) from error
    if not isinstance(record, dict):
        raise StoreError(f"store {backend.uri}: {path} holds no record (key: value); move it away and run again")
    return record
