"""The store: finished stages, their weights and histories, checkpoints, failures and resolved plans.

Layout below the root, the same on a local disk and on an object store:

    commits/KEY.json                   one per finished stage, created if absent: the first writer wins
    artifacts/KEY/ATTEMPT/*            weights and history, written whole before the commit that names them
    failures/KEY.json                  the last failure of a stage that is not finished
    leases/KEY/NUMBER.json             who runs it now, at which step
    checkpoints/KEY.pt                 training state of a stage that is not finished
    plans/GRID/PLAN.json               resolved plans
    probes/NAME                        of a preflight, for a moment
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

Record = dict[str, Any]
REMOTE = ("s3", "gs", "az", "abfss")
KINDS = ("artifacts", "checkpoints", "leases", "failures", "commits", "plans", "probes")
HALF_WRITTEN = re.compile(r"#\d+$")  # how the local backend names a file until it is whole; its listings leave it out


class StoreError(Exception):
    """The store cannot be reached, read or written. The message names its address."""


@dataclass(frozen=True)
class Item:
    """A file of the store: its path there, its bytes, and when it was written (Unix seconds, the store's clock)."""

    path: str
    size: int
    written: float


class Store:
    """One folder or bucket prefix of results. Cheap to open; safe to use from several threads and processes."""

    @property
    def address(self) -> str:
        """The address under which a process in another folder opens the same store."""
        return self.uri if self.folder is None else str(self.folder)

    def __init__(self, uri: str, backend: ObjectStore, folder: Path | None) -> None:
        self.uri = uri
        self.folder = folder  # the local folder, None on an object store
        self._backend = backend

    # Commits

    def commit(self, record: Mapping[str, Any]) -> bool:
        """Record a finished stage under `record["key"]`, once. False: somebody else had finished it before."""
        try:
            self._put(f"commits/{record['key']}.json", _encode(record), create=True)
        except AlreadyExistsError:
            return False
        return True

    def finished(self) -> set[str]:
        """The keys of all finished stages."""
        return {Path(name).stem for name in self._names("commits")}

    def commits(self, keys: Iterable[str]) -> dict[str, Record]:
        """The commit records of those of `keys` that are finished."""
        return self._records("commits", keys)

    # Failures

    def fail(self, record: Mapping[str, Any]) -> None:
        """Keep the last failure of `record["key"]`; a later commit of that key outweighs it."""
        self._put(f"failures/{record['key']}.json", _encode(record))

    def failures(self, keys: Iterable[str]) -> dict[str, Record]:
        """The last failures of `keys`, also of those that have finished since."""
        return self._records("failures", keys)

    # Artifacts

    def put_artifact(self, key: str, attempt: str, name: str, data: bytes) -> str:
        """Write one file of an attempt and return its path in the store, to be named by the commit."""
        path = f"artifacts/{key}/{attempt}/{name}"
        self._put(path, data)
        return path

    def artifact(self, path: str) -> bytes:
        """The content of a file that a commit names."""
        data = self._get(path)
        if data is None:
            raise StoreError(f"store {self.uri}: {path} is missing although a commit names it; was it deleted by hand?")
        return data

    def drop_attempt(self, key: str, attempt: str) -> None:
        """Delete the files of an attempt that lost the race for its commit."""
        self._delete(self._list(f"artifacts/{key}/{attempt}"))

    # Training state of stages that are not finished

    def save_checkpoint(self, key: str, data: bytes) -> None:
        """Replace the training state of a running stage, atomically."""
        self._put(f"checkpoints/{key}.pt", data)

    def checkpoint(self, key: str) -> bytes | None:
        """The last training state, None when there is none."""
        return self._get(f"checkpoints/{key}.pt")

    def drop_checkpoint(self, key: str) -> None:
        """Delete the training state of a stage that is finished or has failed for good."""
        self._delete([f"checkpoints/{key}.pt"])

    # Leases, see `orchestrator.record.leases`

    def write_lease(self, key: str, number: int, record: Mapping[str, Any], *, create: bool = False) -> None:
        """Write a numbered lease. Raises AlreadyExistsError where it is to be created and exists."""
        self._put(f"leases/{key}/{number:06d}.json", _encode(record), create=create)

    def lease(self, key: str, number: int) -> Record:
        """One lease; empty where it has gone or is damaged: no lease may ever stop a run."""
        path = f"leases/{key}/{number:06d}.json"
        try:
            return self._decode(self._get(path) or b"{}", path)
        except StoreError:
            return {}

    def lease_numbers(self, key: str) -> list[int]:
        """The numbers of a stage's leases."""
        return [int(Path(path).stem) for path in self._list(f"leases/{key}")]

    def leases(self) -> dict[str, Record]:
        """The latest lease of every stage that has one."""
        highest: dict[str, int] = {}
        for path in self._list("leases"):
            key, number = path.split("/")[1], int(Path(path).stem)
            highest[key] = max(number, highest.get(key, 0))
        return {key: record for key, number in highest.items() if (record := self.lease(key, number))}

    def drop_leases(self, key: str) -> None:
        """Delete all leases of a finished stage."""
        self._delete(self._list(f"leases/{key}"))

    # Plans

    def save_plan(self, plan: Mapping[str, Any]) -> None:
        """Keep a resolved plan under its grid and id."""
        self._put(f"plans/{plan['grid']}/{plan['plan']}.json", _encode(plan))

    def grids(self) -> list[str]:
        """The grids that have a plan here."""
        return sorted({path.split("/")[1] for path in self._names("plans") if path.count("/") == 2})

    def plans(self, grid: str) -> list[str]:
        """The plan ids of a grid, oldest first."""
        return sorted(Path(path).stem for path in self._names(f"plans/{grid}"))

    def load_plan(self, grid: str, plan_id: str | None = None) -> Record:
        """A resolved plan, the newest where no id is given.

        Raises:
            StoreError: no such grid or plan; the message lists those that are there.
        """
        ids = self.plans(grid)
        if not ids:
            there = ", ".join(self.grids()) or "no grid at all"
            raise StoreError(f"store {self.uri}: no plan of grid {grid!r}; it holds plans of {there}")
        chosen = plan_id or ids[-1]
        data = self._get(f"plans/{grid}/{chosen}.json") if chosen in ids else None
        if data is None:
            raise StoreError(
                f"store {self.uri}: grid {grid!r} has no plan {chosen!r}; its newest are {', '.join(ids[:-6:-1])}"
            )
        return self._decode(data, f"plans/{grid}/{chosen}.json")

    # Preflight

    def probe(self, name: str) -> None:
        """Write, read and delete a small object.

        Raises:
            StoreError: the store is not writable or gives back other bytes.
        """
        path, data = f"probes/{name}", name.encode()
        self._put(path, data)
        back = self._get(path)
        self._delete([path])
        if back != data:
            raise StoreError(f"store {self.uri}: a probe written to {path} was read back as {back!r}")

    # Housekeeping, see `orchestrator.record.garbage`

    def items(self, kind: str) -> list[Item]:
        """Every file of one of `KINDS`, sorted by path."""
        return sorted((Item(*facts) for facts in self._facts(kind)), key=lambda item: item.path)

    def half_written(self) -> list[Item]:
        """What processes killed while writing have left behind, or are writing now. An object store shows no such."""
        folder, found = self.folder, list[Item]()
        if folder is None:
            return found
        for path in (path for kind in KINDS for path in sorted((folder / kind).rglob("*#*"))):
            with suppress(FileNotFoundError):  # whole by now
                if HALF_WRITTEN.search(path.name) and path.is_file():
                    facts = path.stat()
                    found.append(Item(path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime))
        return found

    def delete(self, items: Iterable[Item]) -> None:
        """Delete files in this order, and the local folders that become empty by it. What has gone is no error."""
        for item in items:
            self._delete([item.path])
            if self.folder is not None:
                _remove_empty(self.folder, Path(item.path).parent)

    # The few calls that touch the backend

    def _put(self, path: str, data: bytes, *, create: bool = False) -> None:
        if self.folder is not None and isinstance(self._backend, MemoryStore):
            raise StoreError(f"store {self.uri}: cannot write {path}: {self.folder} did not exist when it was opened")
        if self.folder is not None and not self.folder.is_dir():  # else the backend would make it anew, nearly empty
            raise StoreError(f"store {self.uri}: cannot write {path}: {self.folder} does not exist")
        try:
            obstore.put(self._backend, path, data, mode="create" if create else "overwrite", use_multipart=False)
        except AlreadyExistsError:
            if self.folder is None and self._get(path) == data:
                return  # ours: only the answer was lost, and the client had asked again
            raise
        except (BaseError, OSError) as error:
            raise StoreError(f"store {self.uri}: cannot write {path}: {_first_line(error)}") from error

    def _get(self, path: str) -> bytes | None:
        if self.folder is not None:  # twice as fast as through the backend, and the same bytes
            try:
                return (self.folder / path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise StoreError(f"store {self.uri}: cannot read {path}: {_first_line(error)}") from error
        try:
            return bytes(obstore.get(self._backend, path).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise StoreError(f"store {self.uri}: cannot read {path}: {_first_line(error)}") from error

    def _delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            try:
                if self.folder is not None and HALF_WRITTEN.search(path):  # the backend refuses the name
                    (self.folder / path).unlink()
                else:
                    obstore.delete(self._backend, path)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise StoreError(f"store {self.uri}: cannot delete {path}: {_first_line(error)}") from error

    def _list(self, prefix: str) -> list[str]:
        return [path for path, _, _ in self._facts(prefix)]

    def _facts(self, prefix: str) -> list[tuple[str, int, float]]:
        """Path, size and time of every file below `prefix`."""
        if self.folder is not None and not (self.folder / prefix).is_dir():
            return []
        try:
            pages = obstore.list(self._backend, prefix)
            return [(m["path"], m["size"], m["last_modified"].timestamp()) for page in pages for m in page]
        except ValueError:
            return []  # a name that no object can have (`..`)
        except (BaseError, OSError) as error:
            raise StoreError(f"store {self.uri}: cannot list {prefix}: {_first_line(error)}") from error

    def _names(self, prefix: str) -> list[str]:
        return [path for path in self._list(prefix) if path.endswith(".json")]

    def _records(self, kind: str, keys: Iterable[str]) -> dict[str, Record]:
        found = ((key, f"{kind}/{key}.json") for key in keys)
        return {key: self._decode(data, path) for key, path in found if (data := self._get(path)) is not None}

    def _decode(self, data: bytes, path: str) -> Record:
        try:
            record = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"store {self.uri}: {path} is not valid JSON ({_first_line(error)}); move it away and run again"
            ) from error
        if not isinstance(record, dict):
            raise StoreError(f"store {self.uri}: {path} holds no record (key: value); move it away and run again")
        return record


def open_store(uri: str, *, create: bool = False) -> Store:
    """Open a store by path (`./runs`), `file://` or object-store URL (`s3://bucket/prefix`).

    Args:
        create: make the local folder if it is absent; without it an absent folder is an empty store.

    Raises:
        StoreError: the address is not usable.
    """
    parsed = urlparse(uri)
    if not uri or (parsed.scheme == "file" and parsed.netloc not in ("", "localhost")):
        raise StoreError(f"store {uri!r}: expected a path, or file:// and an absolute path (file:///home/me/runs)")
    if parsed.scheme in ("", "file"):
        return _open_folder(uri, unquote(parsed.path) if parsed.scheme else uri, create)
    if parsed.scheme not in REMOTE:
        raise StoreError(f"store {uri}: expected a path or a URL of {', '.join(REMOTE)}")
    try:
        return Store(uri, from_url(uri), None)
    except (BaseError, ValueError, OSError) as error:
        raise StoreError(
            f"store {uri}: {_first_line(error)}; expected a path or an s3://, gs:// or az:// URL"
        ) from error


def _open_folder(uri: str, path: str, create: bool) -> Store:
    try:
        folder = Path(path).expanduser().absolute()
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"store {uri}: {folder} is a file; expected a folder")
        if not folder.exists() and not create:
            return Store(uri, MemoryStore(), folder)
        folder.mkdir(parents=True, exist_ok=True)
        return Store(uri, LocalStore(prefix=folder), folder)
    except (BaseError, OSError, RuntimeError) as error:  # RuntimeError: ~nobody
        raise StoreError(f"store {uri}: cannot make or open it: {_first_line(error)}") from error


def _remove_empty(root: Path, folder: Path) -> None:
    """Remove an empty folder of a store and its empty parents, `artifacts`, `leases` and so on excepted."""
    with suppress(OSError):  # not empty, or gone; whoever writes there makes it anew
        while len(folder.parts) > 1:
            (root / folder).rmdir()
            folder = folder.parent


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=True).encode()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
