"""Log tables out of an npz file that somebody else wrote: everything is checked before anything is allocated.

An npz file is a zip archive of npy members. A hundred kilobytes of zeros expand to a hundred megabytes, a header of 128 bytes can
ask for terabytes, and a member may be a pickle, which runs code. So the list of members, each header, and each declared size
are compared with one another and with a budget first; pickles are never loaded.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_BYTES", "read_arrays", "read_tables"]

MAX_BYTES = 2**31
TABLES = ("log_joint", "log_q")
MAX_HEADER = 2**14
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
HEADER = re.compile(
    r"\s*\{\s*'descr'\s*:\s*'(?P<order>[<>|=]?)(?P<dtype>[a-zA-Z]\d{0,9})'\s*,\s*'fortran_order'\s*:\s*(?P<fortran>True|False)"
    r"\s*,\s*'shape'\s*:\s*\((?P<shape>[0-9L, ]{0,400})\)\s*,?\s*\}\s*",
    re.ASCII,
)
# what zipfile lets out of a damaged archive; an OSError is a seek to a negative place that some directory asks for
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OverflowError, OSError, KeyError, ValueError)


class _Refused(Exception):
    """What is wrong with the file, without its name."""


def read_tables(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> tuple[npt.NDArray[np.float64], ...]:
    """The arrays ``log_joint`` and ``log_q`` of an npz file, as numpy.savez or numpy.savez_compressed writes it.

    Parameters
    ----------
    path : path
        The file. It must hold these two arrays of real numbers and nothing else.
    max_bytes : int
        Most bytes that the file, and both arrays together, may take.

    Returns
    -------
    log_joint, log_q : ndarray

    Raises
    ------
    ValueError
        Anything else than such a file; one sentence that names the file.
    OSError
        A file that cannot be opened.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/tables.npz", log_joint=np.log([[0.3, 0.1]]), log_q=np.log([[0.5, 0.5]]))
    ...     read_tables(f"{folder}/tables.npz")[0].round(4)
    array([[-1.204 , -2.3026]])
    """
    arrays = read_arrays(path, TABLES, max_bytes=max_bytes, what="table file")
    return tuple(arrays[name] for name in TABLES)


def read_arrays(
    path: str | os.PathLike[str], names: tuple[str, ...], *, max_bytes: int = MAX_BYTES, what: str = "file of this library"
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of these names, given in alphabetical order, of an npz file that holds them and nothing else; as `read_tables`."""
    with Path(path).open("rb") as file:
        try:
            return _read(file, names, max_bytes)
        except _Refused as error:
            reason = str(error)
        except BROKEN as error:
            reason = (
                f"it is not a readable zip archive ({' '.join(str(error).split())[:200].rstrip('.') or type(error).__name__})"
            )
    raise ValueError(f"{os.fspath(path)} is not a valid {what}: {reason}.")


def _read(file: IO[bytes], names: tuple[str, ...], max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
        raise _Refused(f"the file has {size} bytes, at most {max_bytes} are read")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        found = sorted(member.filename for member in members)
        wanted = [f"{name}.npy" for name in names]
        if found != wanted:
            shown = ", ".join(repr(name[:40]) for name in found[:4]) + (", ..." if len(found) > 4 else "")
            raise _Refused(f"it must hold exactly {' and '.join(wanted)}; got {shown or 'no members'}")
        for member in members:
            _check_member(member, size)
        by_name = {member.filename: member for member in members}
        declared = sum(member.file_size for member in members)
        if declared > max_bytes:
            raise _Refused(f"its arrays need {declared} bytes, at most {max_bytes} are read")
        shapes = {name: _opened(archive, by_name[f"{name}.npy"]) for name in names}
        return {name: _values(archive, by_name[f"{name}.npy"], *shape) for name, shape in shapes.items()}


def _check_member(member: zipfile.ZipInfo, size: int) -> None:
    if member.compress_size > size:  # zipfile would allocate what the directory declares before it notices
        raise _Refused(f"{member.filename} declares {member.compress_size} stored bytes in a file of {size}")
    if member.flag_bits & 0x1:
        raise _Refused(f"{member.filename} is encrypted; store it in the clear")
    if member.compress_type not in METHODS:
        raise _Refused(f"{member.filename} uses compression method {member.compress_type}; write it with numpy.savez")


def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[int, np.dtype[np.generic], tuple[int, ...], bool]:
    """Header length, dtype, shape and Fortran order of a member, whose declared size they explain to the byte."""
    with archive.open(member) as stream:
        text, length = _header(stream, member.filename)
    match = HEADER.fullmatch(text)
    if match is None:
        raise _Refused(f"{member.filename} is not a plain array; its header is {text.strip()[:60]!r}")
    if match["dtype"] not in DTYPES:
        kind = "a pickled object" if match["dtype"].startswith("O") else f"dtype {match['dtype']}"
        raise _Refused(f"{member.filename} must be a real array of float64 or int64; got {kind}")
    shape = _shape(match["shape"], member.filename)
    dtype = np.dtype(match["order"].replace("|", "") + match["dtype"])
    needed = length + math.prod(shape) * dtype.itemsize
    if needed != member.file_size:
        raise _Refused(f"{member.filename} declares shape {shape}, which takes {needed} bytes; got {member.file_size}")
    return length, dtype, shape, match["fortran"] == "True"


def _header(stream: IO[bytes], name: str) -> tuple[str, int]:
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\x01\x00", b"\x02\x00"):
        raise _Refused(f"{name} is not an npy array of version 1 or 2; write it with numpy.savez")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > MAX_HEADER:
        raise _Refused(f"{name} has a header of {length} bytes, at most {MAX_HEADER} are read")
    return stream.read(length).decode("latin-1"), 8 + width + length


def _shape(text: str, name: str) -> tuple[int, ...]:
    parts = [part.strip().removesuffix("L") for part in text.split(",")]
    parts = parts[:-1] if parts[-1] == "" else parts
    if len(parts) > 32 or not all(part.isdecimal() and len(part) <= 19 for part in parts):
        raise _Refused(f"{name} declares the shape ({text[:60]}), which is not one of at most 32 whole numbers")
    return tuple(map(int, parts))


def _values(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    skip: int,
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    fortran: bool,
) -> npt.NDArray[np.float64]:
    """The array; reading to the end also lets zipfile compare the checksum."""
    with archive.open(member) as stream:
        content = stream.read()
    if len(content) != member.file_size:
        raise _Refused(f"{member.filename} ends after {len(content)} of {member.file_size} bytes")
    array = np.frombuffer(content, dtype, offset=skip).reshape(shape, order="F" if fortran else "C")
    return np.asarray(array)
