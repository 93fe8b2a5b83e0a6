"""From the address of a store to its backend: a path, `file://`, or an object store's URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, from_url

from orchestrator.record.backend import Backend, StoreError, first_line

REMOTE = ("s3", "gs", "az", "abfss")


def open_backend(uri: str, *, create: bool = False) -> Backend:
    """Open a path (`./runs`), `file://` or object-store URL (`s3://bucket/prefix`).

    Args:
        create: make the local folder if it is absent; without it an absent folder is an empty store.

    Raises:
        StoreError: the address is not usable.
    """
    try:
        parsed = urlparse(uri)
    except ValueError as error:  # brackets that enclose no address of a host
        raise StoreError(f"store {uri!r}: {error}; expected a path or a URL of {', '.join(REMOTE)}") from error
    if not uri or (parsed.scheme == "file" and parsed.netloc not in ("", "localhost")):
        raise StoreError(f"store {uri!r}: expected a path, or file:// and an absolute path (file:///home/me/runs)")
    if parsed.scheme in ("", "file"):
        return _open_folder(uri, unquote(parsed.path) if parsed.scheme else uri, create)
    if parsed.scheme not in REMOTE:
        raise StoreError(f"store {uri}: expected a path or a URL of {', '.join(REMOTE)}")
    try:
        return Backend(uri, from_url(uri), None)
    except (BaseError, ValueError, OSError) as error:
        raise StoreError(
            f"store {uri}: {first_line(error)}; expected a path or an s3://, gs:// or az:// URL"
        ) from error


def _open_folder(uri: str, path: str, create: bool) -> Backend:
    try:
        folder = Path(path).expanduser().absolute()
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"store {uri}: {folder} is a file; expected a folder")
        if not folder.exists() and not create:
            return Backend(uri, MemoryStore(), folder)
        folder.mkdir(parents=True, exist_ok=True)
        return Backend(uri, LocalStore(prefix=folder), folder)
    except (BaseError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a null byte
        raise StoreError(f"store {uri}: cannot make or open it: {first_line(error)}") from error
