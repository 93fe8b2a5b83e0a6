"""Whole CT volumes as MetaImage pairs (.mhd header with a .raw or .zraw file), the form of LUNA16.

The header is a dozen lines of text and the data are plain numbers, so reading them here spares GPU machines an imaging
library; the tests compare with SimpleITK.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.listing import DataError

EXPECTED = "a MetaImage volume: header .mhd beside its .raw or .zraw"
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_scan(path: Path) -> NDArray[Any]:
    """The volume of an .mhd file as [X, Y, Z], X the fastest in the file; the values are as stored (HU in LUNA16).

    Raises:
        DataError: header or data are missing, broken or of another length; the message names no file.
    """
    header = _header(path)
    return _array(header, _content(_data_file(path, header)))


def scan_state(path: Path) -> tuple[int, int]:
    """(size, newest mtime_ns) of header and data file together.

    Raises:
        DataError, OSError: one of them cannot be read.
    """
    found = [file.stat() for file in (path, _data_file(path, _header(path)))]
    return sum(status.st_size for status in found), max(status.st_mtime_ns for status in found)


def inspect_scan(path: Path, mask: bool, record: dict[str, Any]) -> None:
    """Fill the manifest's record of a scan.

    Raises:
        DataError: as `read_scan`.
    """
    record |= {"shape": [], "values": None, "pixels": None, "problem": None}
    header = _header(path)
    content = _content(_data_file(path, header))
    digest = hashlib.sha256(repr(sorted(header.items())).encode() + content).hexdigest()
    record |= {"sha256": digest, "shape": list(scan_shape(header))}
    _array(header, content)
    record["pixels"] = digest[:32]


def scan_shape(header: dict[str, str]) -> tuple[int, int, int]:
    """X, Y and Z of a header.

    Raises:
        DataError: it does not describe a volume of a known type.
    """
    try:
        x, y, z = (int(side) for side in header["DimSize"].split())
        if header["ElementType"] in TYPES and min(x, y, z) > 0 and header.get("ElementNumberOfChannels", "1") == "1":
            return x, y, z
    except (KeyError, ValueError):
        pass
    raise DataError(
        f"has a header that cannot be used; expected DimSize of three and ElementType of {', '.join(TYPES)}"
    )


def _array(header: dict[str, str], data: bytes) -> NDArray[Any]:
    if header.get("CompressedData", "False").lower() == "true":
        try:
            data = zlib.decompress(data)
        except zlib.error as error:
            raise DataError(f"has data that cannot be decompressed ({error}); expected {EXPECTED}") from None
    shape = scan_shape(header)
    order = (
        ">" if header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB", "")).lower() == "true" else "<"
    )
    kind = np.dtype(order + TYPES[header["ElementType"]])
    if len(data) != kind.itemsize * int(np.prod(shape)):
        raise DataError(
            f"has {len(data)} bytes of data; expected {kind.itemsize * int(np.prod(shape))} for {shape} voxels"
        )
    return np.frombuffer(data, dtype=kind).reshape(shape[::-1]).transpose(2, 1, 0)


def _header(path: Path) -> dict[str, str]:
    text = _content(path).decode("latin-1")
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    header = {name.strip(): value.strip() for name, value in pairs}
    scan_shape(header)
    return header


def _data_file(path: Path, header: dict[str, str]) -> Path:
    name = header.get("ElementDataFile", "")
    if not name or name in ("LOCAL", "LIST") or "%" in name or Path(name).name != name:
        raise DataError(f"names the data file {name!r}; expected one file beside the header")
    return path.with_name(name)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({path.name}: {error.strerror}); expected {EXPECTED}") from None
