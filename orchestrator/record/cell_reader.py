"""The results of many cells at once: what a table needs of their records, read in bulk.

From a folder: one listing, then each file by its plain path (pathlib and a failed open for each absent file would cost
more than the reading). From an object store: one listing, then many requests at a time.
"""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from orchestrator.record.shape import fault_of_record
from orchestrator.record.store import Store, StoreError

Records = dict[str, dict[str, Any]]
REQUESTS = 32  # at a time, to an object store
FEW = 500  # up to so many keys no listing of a folder is worth its while
NEWEST = 20  # plans whose profile is looked at
PROFILE = re.compile(rb'"plan": "(?P<plan>[^"]+)", "profile": "(?P<profile>[^"]+)"')  # keys of a record are sorted


def read_results(store: Store, keys: Iterable[str]) -> tuple[Records, Records]:
    """Commits, and the last failures of what is not finished, of those of `keys` that have one, by key.

    Raises:
        StoreError: a record is damaged, or the store cannot be read.
    """
    wanted = dict.fromkeys(keys)
    with many_objects():
        commits = _read(store, "commits", wanted)
        return commits, _read(store, "failures", [key for key in wanted if key not in commits])


def load_plan(store: Store, grid: str, plan_id: str | None = None) -> dict[str, Any]:
    """As `Store.load_plan`, twice as fast for a plan of many cells."""
    with many_objects():
        return store.load_plan(grid, plan_id)


def profiles_of(store: Store, grid: str) -> dict[str, str]:
    """Plan id -> profile of the newest plans of a grid, oldest first; told without reading them as a whole."""
    newest = ((plan, _profile_of(store, grid, plan)) for plan in store.plans(grid)[-NEWEST:])
    return {plan: profile for plan, profile in newest if profile is not None}


def newest_of_profile(store: Store, grid: str, profile: str) -> str:
    """The id of the newest plan of a grid that has this profile.

    Raises:
        StoreError: none has.
    """
    known = set[str]()
    for plan in reversed(store.plans(grid)):
        found = _profile_of(store, grid, plan)
        if found == profile:
            return plan
        known |= set() if found is None else {found}
    there = ", ".join(sorted(known)) or "none that can be read"
    raise StoreError(f"store {store.uri}: no plan of grid {grid!r} with profile {profile!r}; there are {there}")


def _profile_of(store: Store, grid: str, plan: str) -> str | None:
    match = PROFILE.search(store._backend.get(f"plans/{grid}/{plan}.json") or b"")
    return None if match is None else match["profile"].decode()


def _read(store: Store, kind: str, keys: Collection[str]) -> Records:
    if store.folder is not None:
        return _from_folder(store, kind, keys)
    there = {name.rpartition("/")[2] for name in store._backend.paths(kind)} if len(keys) > FEW else None
    asked = [key for key in keys if there is None or f"{key}.json" in there]
    read = store.commits if kind == "commits" else store.failures
    with ThreadPoolExecutor(REQUESTS) as pool:
        found = pool.map(lambda key: read([key]), asked)
        return {key: record for one in found for key, record in one.items()}


def _from_folder(store: Store, kind: str, keys: Collection[str]) -> Records:
    folder, found, unsure = f"{store.folder}/{kind}/", {}, []
    for key in _listed(folder, keys):
        if "/" in key:
            unsure.append(key)
            continue
        try:
            with open(f"{folder}{key}.json", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib takes twice the time
                record = json.loads(file.read())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and not fault_of_record(kind, key, record):
            found[key] = record
        else:
            unsure.append(key)
    if unsure:  # whatever is wrong with them, the store has the words for it
        found |= store.commits(unsure) if kind == "commits" else store.failures(unsure)
    return found


def _listed(folder: str, keys: Collection[str]) -> Iterable[str]:
    if len(keys) <= FEW:
        return keys
    try:
        there = set(os.listdir(folder))  # noqa: PTH208
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(f"store {folder}: cannot be listed: {error.strerror or error}") from error
    return [key for key in keys if f"{key}.json" in there]


@contextmanager
def many_objects() -> Iterator[None]:
    """Without the garbage collector, which would look through all of a growing heap again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
