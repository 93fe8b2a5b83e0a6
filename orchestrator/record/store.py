"""The store: finished stages, their weights and histories, checkpoints, failures and resolved plans.

Layout below the root, the same on a local disk and on an object store:

    commits/KEY.json                   one per finished stage, created if absent: the first writer wins
    artifacts/KEY/ATTEMPT/*            weights and history, written whole before the commit that names them
    failures/KEY.json                  the last failure of a stage that is not finished
    leases/KEY/NUMBER.json             who runs a stage now, at which step; only of stages in work
    ended/KEY/NUMBER                   empty: the stage is finished, and this is the last number that was given
    checkpoints/KEY/NUMBER.pt          training state of a stage that is not finished, by its holder's lease number
    plans/GRID/PLAN.json               resolved plans
    studies/STUDY/...                  proposed trials and who won, see `orchestrator.record.studies`
    probes/NAME                        of a preflight, for a moment
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from orchestrator.record import documents
from orchestrator.record.address import open_backend
from orchestrator.record.backend import Backend, Item, StoreError
from orchestrator.record.documents import Record
from orchestrator.record.plans import Plans
from orchestrator.record.shape import ARTIFACT, is_file_name
from orchestrator.record.studies import Studies

__all__ = ["KINDS", "Item", "LeaseName", "Store", "StoreError", "open_store"]

KINDS = ("artifacts", "checkpoints", "leases", "ended", "failures", "commits", "plans", "studies", "probes")
LEASE = re.compile(r"leases/(?P<key>[^/]+)/(?P<number>\d+)\.(?P<state>json|ended)")  # ended: an earlier layout
ENDED = re.compile(r"ended/(?P<key>[^/]+)/(?P<number>\d+)")
CHECKPOINT = re.compile(r"checkpoints/(?P<key>[^/]+)/(?P<number>\d+)\.pt")
LEASE_FIELDS = {"started": float, "beat": float, "pid": int, "space": str, "born": str | None}
HELD_FIELDS = {"step": int, "steps": int}  # beside these, of a lease that has not been released


class LeaseName(NamedTuple):
    """What the name of a lease file tells. The latest of a stage's is the greatest: an end outweighs its number."""

    number: int
    ended: bool

    @classmethod
    def of(cls, path: str) -> tuple[str, LeaseName] | None:
        """Key and name of a lease by its path in the store; None for any other file."""
        if (match := LEASE.fullmatch(path)) is not None:
            return match["key"], cls(int(match["number"]), match["state"] == "ended")
        match = ENDED.fullmatch(path)
        return (match["key"], cls(int(match["number"]), True)) if match else None


class Store(Plans, Studies):
    """One folder or bucket prefix of results. Cheap to open; safe to use from several threads and processes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.uri = backend.uri
        self.folder = backend.folder  # the local folder, None on an object store

    @property
    def address(self) -> str:
        """The address under which a process in another folder opens the same store."""
        return self.uri if self.folder is None else str(self.folder)

    # Commits

    def commit(self, record: Mapping[str, Any]) -> bool:
        """Record a finished stage under `record["key"]`, once. False: somebody else had finished it before."""
        return documents.write(self._backend, f"commits/{record['key']}.json", record, create=True)

    def finished(self) -> set[str]:
        """The keys of all finished stages."""
        return {PurePosixPath(name).stem for name in documents.names(self._backend, "commits")}

    def commits(self, keys: Iterable[str]) -> dict[str, Record]:
        """The commit records of those of `keys` that are finished."""
        return documents.read_all(self._backend, "commits", keys)

    # Failures

    def fail(self, record: Mapping[str, Any]) -> None:
        """Keep the last failure of `record["key"]`; a commit of that key outweighs it, whichever was first."""
        documents.write(self._backend, f"failures/{record['key']}.json", record)

    def failures(self, keys: Iterable[str]) -> dict[str, Record]:
        """The last failures of `keys`, also of those that are finished."""
        return documents.read_all(self._backend, "failures", keys)

    # Artifacts

    def put_artifact(self, key: str, attempt: str, name: str, data: bytes) -> str:
        """Write one file of an attempt and return its path in the store, to be named by the commit."""
        path = f"artifacts/{key}/{attempt}/{name}"
        self._backend.put(path, data)
        return path

    def artifact(self, path: str) -> bytes:
        """The content of a file that a commit names.

        Raises:
            StoreError: it is missing or cannot be read, or is no path that `put_artifact` returns: a record that came
                from elsewhere must not name other files of this machine.
        """
        if not isinstance(path, str) or ARTIFACT.fullmatch(path) is None:
            raise StoreError(
                f"store {self.uri}: a commit names {path!r} as a file of its stage; expected "
                "artifacts/KEY/ATTEMPT/NAME, so it is damaged or was tampered with"
            )
        data = self._backend.get(path)
        if data is None:
            self._refuse_dropped(path)
            raise StoreError(f"store {self.uri}: {path} is missing although a commit names it; was it deleted by hand?")
        return data

    def files(self, record: Mapping[str, Any]) -> dict[str, str]:
        """Name -> path of the files that the commit of an analysis names; they are found again under these names.

        Raises:
            StoreError: a name or a path of another kind than the store gives.
        """
        found = {name: path for name, path in record["artifacts"].items() if "." in name}
        for name, path in found.items():
            if not is_file_name(name) or not isinstance(path, str) or ARTIFACT.fullmatch(path) is None:
                fault = f"it names the file {name!r} at {path!r}; expected a plain name at artifacts/KEY/ATTEMPT/NAME"
                raise documents.damaged(self._backend, f"commits/{record['key']}.json", fault)
        return found

    def damaged(self, path: str, what: str) -> StoreError:
        """The error to raise where a file that a commit names cannot be used; `what` it is, and why."""
        way_out = f"put it back from a copy, or delete commits/{path.split('/')[1]}.json and run again"
        return StoreError(f"store {self.uri}: {path} is {what}; {way_out}")

    def drop_attempt(self, key: str, attempt: str) -> None:
        """Delete the files of an attempt that lost the race for its commit."""
        self._backend.delete(self._backend.paths(f"artifacts/{key}/{attempt}"))

    # Training state of stages that are not finished

    def save_checkpoint(self, key: str, number: int, data: bytes) -> None:
        """Replace the training state that the holder of lease `number` keeps, atomically; nobody else writes it."""
        self._backend.put(f"checkpoints/{key}/{number:06d}.pt", data)

    def checkpoint(self, key: str, upto: int | None = None) -> bytes | None:
        """The training state of the latest holder (with a number of at most `upto`); None when there is none."""
        for number, path in sorted(self._checkpoints(key), reverse=True):
            if (upto is None or number <= upto) and (data := self._backend.get(path)) is not None:
                return data
        return None

    def drop_checkpoints(self, key: str, upto: int | None = None) -> None:
        """Delete the training states that holders up to that lease number have kept; None: all."""
        there = self._checkpoints(key)
        self._backend.delete(path for number, path in there if upto is None or number <= upto)

    def _checkpoints(self, key: str) -> list[tuple[int, str]]:
        found = (CHECKPOINT.fullmatch(path) for path in self._backend.paths(f"checkpoints/{key}"))
        return [(int(match["number"]), match[0]) for match in found if match]

    # Leases, see `orchestrator.record.leases`

    def write_lease(self, key: str, number: int, record: Mapping[str, Any], *, create: bool = False) -> bool:
        """Write a numbered lease. False where it is to be created and exists."""
        return documents.write(self._backend, _lease_path(key, number), record, create=create, sync=False)

    def lease(self, key: str, number: int) -> Record:
        """One lease; empty where it has gone or is damaged: no lease may ever stop a run."""
        try:
            lease = documents.read(self._backend, _lease_path(key, number)) or {}
        except StoreError:
            return {}
        return lease if _is_whole(lease, key, number) else {}

    def latest_lease(self, key: str) -> LeaseName:
        """The last number that was given for a stage, 0 for none, and whether the stage was finished under it."""
        names = self._leases(f"leases/{key}") | self._leases(f"ended/{key}")
        return max(names.values(), default=LeaseName(0, False))

    def leases(self) -> dict[str, Record]:
        """The latest lease of every stage that has one and is not finished. The cost grows with the stages in work, not
        with the finished ones."""
        return self.leases_of({path.split("/")[1] for path in self._leases("leases")})

    def leases_of(self, keys: Iterable[str]) -> dict[str, Record]:
        """The same for these stages only."""
        latest = {key: self.latest_lease(key) for key in keys}
        held = {key: name.number for key, name in latest.items() if name.number and not name.ended}
        return {key: record for key, number in held.items() if (record := self.lease(key, number))}

    def end_leases(self, key: str, number: int) -> None:
        """Delete the leases of a finished stage. Its last number stays taken, so that whoever wakes up later with an
        earlier one, or with this one, cannot hold the stage, should it ever be run again."""
        leases, ended = self._leases(f"leases/{key}"), self._leases(f"ended/{key}")
        last = LeaseName(max([number, *(name.number for name in (leases | ended).values())]), True)
        self._backend.put(f"ended/{key}/{last.number:06d}", b"", sync=False)
        self._backend.delete([*leases, *(path for path, name in ended.items() if name < last)])
        self._backend.remove_empty(f"leases/{key}")

    def _leases(self, prefix: str) -> dict[str, LeaseName]:
        """Path -> name. Other files are left alone, such as `.nfs*` that NFS shows for a while after a delete."""
        return {path: found[1] for path in self._backend.paths(prefix) if (found := LeaseName.of(path)) is not None}

    # Preflight

    def probe(self, name: str) -> None:
        """Create, read and delete a small object.

        Raises:
            StoreError: the store is not writable (a folder: takes no hard link), or gives back other bytes.
        """
        path, data = f"probes/{name}", name.encode()
        self._backend.put(path, data, create=True)
        back = self._backend.get(path)
        self._backend.delete([path])
        if back != data:
            raise StoreError(f"store {self.uri}: a probe written to {path} was read back as {back!r}")

    # Housekeeping, see `orchestrator.record.garbage`

    def items(self, kind: str) -> list[Item]:
        """Every file of one of `KINDS`, sorted by path."""
        return sorted(self._backend.items(kind), key=lambda item: item.path)

    def half_written(self) -> list[Item]:
        """What processes killed while writing have left behind, or are writing now. An object store shows no such."""
        return self._backend.half_written(KINDS)

    def delete(self, items: Iterable[Item]) -> None:
        """Delete files in this order, and the local folders that become empty by it. What has gone is no error."""
        for item in items:
            self._backend.delete([item.path])
            self._backend.remove_empty(str(Path(item.path).parent))


def open_store(uri: str, *, create: bool = False) -> Store:
    """Open a store by path (`./runs`), `file://` or object-store URL (`s3://bucket/prefix`).

    Args:
        create: make the local folder if it is absent; without it an absent folder is an empty store.

    Raises:
        StoreError: the address is not usable.
    """
    return Store(open_backend(uri, create=create))


def _is_whole(lease: Record, key: str, number: int) -> bool:
    """Whether it is the lease of that number, with all that is looked at in one."""
    fields = LEASE_FIELDS if lease.get("released") else LEASE_FIELDS | HELD_FIELDS
    same = lease.get("key") == key and lease.get("number") == number
    return same and all(isinstance(lease.get(name), kind) for name, kind in fields.items())


def _lease_path(key: str, number: int) -> str:
    return f"leases/{key}/{number:06d}.json"
