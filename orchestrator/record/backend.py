"""The few calls that touch a disk or an object store. Below the root, both hold the same paths.

On a folder a file is written under a name that no listing shows, forced to the disk, and only then given its own: by a
rename that replaces, or by a hard link that fails where the name is taken. On NFS the server carries out either as one
step, so of two hosts one wins; a full disk is told there only by the forcing; and an answer lost on the way (the client
asks again and hears that the name is taken) is recognised by the content being ours. Read in the standards, not tried
here: no NFS server was at hand. On an object store one PUT is whole or nothing, and `If-None-Match: *` creates.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import MemoryStore, ObjectStore

HALF_WRITTEN = re.compile(r"#\d+$")  # of a file until it is whole; obstore's listings of a folder leave such names out
READS = 3  # of a file on NFS that another host replaces while it is read here (ESTALE)


class StoreError(Exception):
    """The store cannot be reached, read or written. The message names its address."""


@dataclass(frozen=True)
class Item:
    """A file of the store: its path there, its bytes, and when it was written (Unix seconds, the store's clock)."""

    path: str
    size: int
    written: float


class Backend:
    """Whole files under paths. Safe to use from several threads, processes and hosts.

    Args:
        uri: what messages call it.
        objects: where the files are.
        folder: the local folder that `objects` is; None on an object store. Beside a MemoryStore: a folder that is not
            there, which reads as empty and cannot be written.
    """

    def __init__(self, uri: str, objects: ObjectStore, folder: Path | None) -> None:
        self.uri, self.folder = uri, folder
        self._objects = objects

    def put(self, path: str, data: bytes, *, create: bool = False, sync: bool = True) -> bool:
        """Write a file whole, or not at all.

        Args:
            create: only if nothing is there.
            sync: force it to the disk before it gets its name, so that a power cut leaves no empty file behind.

        Returns:
            False where it was to be created and other content is there.
        """
        self._require_inside(path)
        try:
            if self.folder is not None:
                self._require_folder(self.folder, path)
                done = _write(self.folder / path, data, create=create, sync=sync)
            else:
                done = _upload(self._objects, path, data, create=create)
        except (BaseError, OSError) as error:
            raise StoreError(f"store {self.uri}: cannot write {path}: {first_line(error)}") from error
        return done or self.get(path) == data  # ours: only the answer was lost, and the client had asked again

    def get(self, path: str) -> bytes | None:
        """A file's content, None where there is none."""
        self._require_inside(path)
        try:
            if self.folder is not None:  # twice as fast as through obstore, and the same bytes
                return _read(self.folder / path)
            return bytes(obstore.get(self._objects, path).bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (BaseError, OSError) as error:
            raise StoreError(f"store {self.uri}: cannot read {path}: {first_line(error)}") from error

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files in this order. What is not there is no error."""
        for path in paths:
            self._require_inside(path)
            try:
                if self.folder is not None:
                    (self.folder / path).unlink()
                else:
                    obstore.delete(self._objects, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (BaseError, OSError) as error:
                raise StoreError(f"store {self.uri}: cannot delete {path}: {first_line(error)}") from error

    def paths(self, prefix: str) -> list[str]:
        """The paths of all whole files below `prefix`, which ends where a folder does."""
        return [item.path for item in self.items(prefix)]

    def items(self, prefix: str) -> list[Item]:
        """All whole files below `prefix`, in no order."""
        # That of Path raises for a name too long.
        if self.folder is not None and not os.path.isdir(self.folder / prefix):  # noqa: PTH112
            return []
        try:
            pages = obstore.list(self._objects, prefix)
            return [Item(m["path"], m["size"], m["last_modified"].timestamp()) for page in pages for m in page]
        except ValueError:
            return []  # a name that no object can have (`..`)
        except (BaseError, OSError) as error:
            raise StoreError(f"store {self.uri}: cannot list {prefix}: {first_line(error)}") from error

    def half_written(self, prefixes: Iterable[str]) -> list[Item]:
        """What processes killed while writing have left behind, or are writing now. An object store shows no such."""
        folder, found = self.folder, list[Item]()
        if folder is None:
            return found
        for path in (path for prefix in prefixes for path in sorted(_marked(folder / prefix))):
            with contextlib.suppress(FileNotFoundError):  # whole by now
                if HALF_WRITTEN.search(path.name) and path.is_file():
                    facts = path.stat()
                    found.append(Item(path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime))
        return found

    def remove_empty(self, path: str) -> None:
        """Remove an empty local folder and its empty parents, `artifacts`, `leases` and so on excepted."""
        inner = Path(path)
        with contextlib.suppress(OSError):  # not empty, or gone; whoever writes there makes it anew
            while self.folder is not None and len(inner.parts) > 1:
                (self.folder / inner).rmdir()
                inner = inner.parent

    def _require_inside(self, path: str) -> None:
        """Raise StoreError for a path that leaves the store: parts of paths stand in records, which may come from
        somebody else."""
        if path.startswith("/") or (".." in path and ".." in path.split("/")):
            raise StoreError(f"store {self.uri}: {path} leaves the store; expected a path within it")

    def _require_folder(self, folder: Path, path: str) -> None:
        """Raise StoreError unless the root is there: writing would make it anew, nearly empty."""
        if isinstance(self._objects, MemoryStore):
            raise StoreError(f"store {self.uri}: cannot write {path}: {folder} did not exist when it was opened")
        if not folder.is_dir():
            raise StoreError(f"store {self.uri}: cannot write {path}: {folder} does not exist")


def first_line(error: BaseException) -> str:
    """An exception in one line, without the path that an OSError would repeat."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _marked(folder: Path) -> Iterator[Path]:
    """The files below a folder with a # in their names. A folder that vanishes meanwhile is left out."""
    for inner, _, names in os.walk(folder):
        yield from (Path(inner) / name for name in names if "#" in name)


def _upload(objects: ObjectStore, path: str, data: bytes, *, create: bool) -> bool:
    """False where `path` is to be created and exists."""
    try:
        obstore.put(objects, path, data, mode="create" if create else "overwrite", use_multipart=False)
    except AlreadyExistsError:
        return False
    return True


def _write(path: Path, data: bytes, *, create: bool, sync: bool) -> bool:
    """False where `path` is to be created and exists."""
    staged, file = _stage(path)
    try:
        with file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if not create:
            staged.replace(path)
            return True
        try:
            os.link(staged, path)
        except FileExistsError:
            return False
        return True
    finally:  # also after a full disk or an interrupt; what a killed process leaves is found by gc
        with contextlib.suppress(OSError):
            staged.unlink()


def _stage(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, under a name of its own that listings leave out."""
    staged = path.with_name(f"{path.name}#{uuid.uuid4().int % 10**12}")
    while True:
        try:
            return staged, staged.open("xb")
        except FileNotFoundError:  # again where gc removes the empty folder at this moment
            path.parent.mkdir(parents=True, exist_ok=True)


def _read(path: Path) -> bytes:
    for _ in range(READS - 1):
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return path.read_bytes()
