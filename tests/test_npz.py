"""Table files: what numpy writes is read exactly; what anybody else may have put there is refused, cheaply and in one sentence.

``ELBO_EXACT_CAMPAIGN_FUZZ`` sets how many damaged files are tried, ``ELBO_EXACT_CAMPAIGN_SEED`` the first seed.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from elbo_exact._npz import read_tables

FUZZ = int(os.environ.get("ELBO_EXACT_CAMPAIGN_FUZZ", "300"))
SEED = int(os.environ.get("ELBO_EXACT_CAMPAIGN_SEED", "0"))
TABLE = np.log(np.array([[0.3, 0.1, 0.2], [0.05, 0.2, 0.1]]))
Q = np.log(np.array([[0.6, 0.2, 0.2], [0.2, 0.5, 0.3]]))


def npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(text: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An npy member with a header of our own."""
    width = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(text)) + text.encode("latin-1") + content


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<f2", "<i8", ">i4", "<u2", "i1"])
def test_what_numpy_writes_is_read_exactly(tmp_path: Path, save: Any, dtype: str) -> None:
    table = np.arange(6).reshape(2, 3).astype(dtype)
    save(tmp_path / "a.npz", log_joint=table, log_q=table[:, ::-1])
    log_joint, log_q = read_tables(tmp_path / "a.npz")
    np.testing.assert_array_equal(log_joint, table)
    np.testing.assert_array_equal(log_q, table[:, ::-1])
    assert log_joint.dtype == np.dtype(dtype)


def test_infinities_orders_and_shapes(tmp_path: Path) -> None:
    table = np.asfortranarray(np.where(np.arange(24).reshape(2, 3, 4) % 5 == 0, -np.inf, 0.5))
    np.savez(tmp_path / "a.npz", log_joint=table, log_q=np.array(1.5))
    log_joint, log_q = read_tables(tmp_path / "a.npz")
    np.testing.assert_array_equal(log_joint, table)
    assert log_q.shape == () and float(log_q) == 1.5
    np.savez(tmp_path / "b.npz", log_joint=np.empty((0, 3)), log_q=np.zeros(3))
    assert read_tables(tmp_path / "b.npz")[0].shape == (0, 3)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}\n",
        "{'descr':'<f8','fortran_order':False,'shape':(2,3)}   \n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 3L), }",
    ],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
def test_headers_of_other_writers(tmp_path: Path, text: str, version: bytes) -> None:
    archive(tmp_path / "a.npz", {"log_joint.npy": header(text, TABLE.tobytes(), version), "log_q.npy": npy(Q)})
    np.testing.assert_array_equal(read_tables(tmp_path / "a.npz")[0], TABLE)


class Bomb:
    """A pickle that would announce itself."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


def plain_header(shape: str, descr: str = "<f8") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "it must hold exactly log_joint.npy and log_q.npy; got no members"),
        ({"log_joint.npy": npy(TABLE)}, "it must hold exactly log_joint.npy and log_q.npy; got 'log_joint.npy'"),
        ({"log_joint.npy": npy(TABLE), "log_q.npy": npy(Q), "x.npy": b""}, "got 'log_joint.npy', 'log_q.npy', 'x.npy'"),
        ({"../log_joint.npy": npy(TABLE), "log_q.npy": npy(Q)}, "got '../log_joint.npy', 'log_q.npy'"),
        (
            {"log_joint.npy": npy(np.array([Bomb()])), "log_q.npy": npy(Q)},
            "real array of float64 or int64; got a pickled object",
        ),
        ({"log_joint.npy": pickle.dumps(Bomb()), "log_q.npy": npy(Q)}, "log_joint.npy is not an npy array of version 1 or 2"),
        ({"log_joint.npy": npy(TABLE + 0j), "log_q.npy": npy(Q)}, "must be a real array of float64 or int64; got dtype c16"),
        ({"log_joint.npy": npy(TABLE > 0), "log_q.npy": npy(Q)}, "must be a real array of float64 or int64; got dtype b1"),
        (
            {"log_joint.npy": npy(np.array(["a"])), "log_q.npy": npy(Q)},
            "must be a real array of float64 or int64; got dtype U1",
        ),
        (
            {"log_joint.npy": npy(np.zeros(2, [("a", "<f8")])), "log_q.npy": npy(Q)},
            "log_joint.npy is not a plain array; its header is \"{'descr': [('a', '<f8')]",
        ),
        (
            {"log_joint.npy": header(plain_header("10000000000000,"), TABLE.tobytes()), "log_q.npy": npy(Q)},
            "log_joint.npy declares shape (10000000000000,), which takes 80000000000",
        ),
        ({"log_joint.npy": header(plain_header("2, 2"), TABLE.tobytes()), "log_q.npy": npy(Q)}, "declares shape (2, 2)"),
        ({"log_joint.npy": header(plain_header("-2, -3"), TABLE.tobytes()), "log_q.npy": npy(Q)}, "is not a plain array"),
        ({"log_joint.npy": header(plain_header("1" * 30), b""), "log_q.npy": npy(Q)}, "not one of at most 32 whole numbers"),
        ({"log_joint.npy": header(plain_header("1, " * 33), b""), "log_q.npy": npy(Q)}, "not one of at most 32 whole numbers"),
        ({"log_joint.npy": header(plain_header("2 3"), b""), "log_q.npy": npy(Q)}, "not one of at most 32 whole numbers"),
        ({"log_joint.npy": header("__import__('os')"), "log_q.npy": npy(Q)}, "log_joint.npy is not a plain array"),
        ({"log_joint.npy": header(" " * 20000), "log_q.npy": npy(Q)}, "has a header of 20000 bytes, at most 16384 are read"),
        ({"log_joint.npy": b"\x93NUMPY\x03\x00", "log_q.npy": npy(Q)}, "is not an npy array of version 1 or 2"),
        ({"log_joint.npy": b"", "log_q.npy": npy(Q)}, "is not an npy array of version 1 or 2"),
    ],
    ids=range(20),
)
def test_bad_members_are_refused_in_one_sentence(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = archive(tmp_path / "a.npz", members)
    with pytest.raises(ValueError, match=r"a\.npz is not a valid table file: ") as caught:
        read_tables(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".") and len(str(caught.value)) < 500


def test_other_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for content in (b"", b"hello", npy(TABLE), b"PK\x05\x06" + b"\0" * 10):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz is not a valid table file: it is not a readable zip archive \(.+\)\.$"):
            read_tables(path)
    with pytest.raises(FileNotFoundError):
        read_tables(tmp_path / "none.npz")
    archive(path, {"log_joint.npy": npy(TABLE), "log_q.npy": npy(Q)}, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match="uses compression method 12; write it with numpy.savez"):
        read_tables(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for name, table in (("log_joint.npy", TABLE), ("log_q.npy", Q), ("log_q.npy", TABLE)):
            file.writestr(name, npy(table))
    with pytest.raises(ValueError, match="got 'log_joint.npy', 'log_q.npy', 'log_q.npy'"):
        read_tables(tmp_path / "a.npz")


def test_budgets_hold_before_anything_is_read(tmp_path: Path) -> None:
    zeros = np.zeros(2**21)
    np.savez_compressed(tmp_path / "a.npz", log_joint=zeros, log_q=zeros)  # 16 MiB each out of some 30 kB
    with pytest.raises(ValueError, match=r"its arrays need 33554\d{3} bytes, at most 1000000 are read"):
        read_tables(tmp_path / "a.npz", max_bytes=10**6)
    with pytest.raises(ValueError, match=r"the file has \d+ bytes, at most 1000 are read"):
        read_tables(tmp_path / "a.npz", max_bytes=1000)
    assert (read_tables(tmp_path / "a.npz")[0] == 0.0).all()


def refusal_memory(path: Path) -> int:
    """Peak of what reading a file allocates, in bytes; it must be refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is not a valid table file"):
            read_tables(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_lying_header_costs_nothing(tmp_path: Path) -> None:
    bomb = header(plain_header("5000000,")) + bytes(8 * 6_000_000)  # 48 MB of zeros in 47 kB, not what the header says
    path = archive(tmp_path / "a.npz", {"log_joint.npy": bomb, "log_q.npy": npy(Q)})
    del bomb
    assert path.stat().st_size < 10**5
    assert refusal_memory(path) < 2 * 10**6


def test_a_lying_directory_costs_what_it_declares(tmp_path: Path) -> None:
    """The directory says 152 bytes, the stream holds 48 MB: only what is declared is unpacked, and the checksum tells."""
    declared = len(header(plain_header("3,")) + bytes(24))
    path = archive(tmp_path / "a.npz", {"log_joint.npy": header(plain_header("3,")) + bytes(48 * 10**6), "log_q.npy": npy(Q)})
    content = path.read_bytes()
    size = struct.pack("<I", len(header(plain_header("3,"))) + 48 * 10**6)
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, struct.pack("<I", declared)))
    assert refusal_memory(path) < 2 * 10**6


def test_a_stored_size_beyond_the_file_costs_nothing(tmp_path: Path) -> None:
    """zipfile reads a stored member in one piece of the declared size, and allocates it first."""
    path = archive(tmp_path / "a.npz", {"log_joint.npy": npy(TABLE), "log_q.npy": npy(Q)}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 20  # compressed size of the first directory entry
    content[place : place + 4] = struct.pack("<I", 2**30)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"log_joint\.npy declares {2**30} stored bytes in a file of \d+\.$"):
        read_tables(path)
    assert refusal_memory(path) < 2 * 10**6


def damaged(rng: np.random.Generator, good: list[bytes]) -> bytes:
    """A good file with some bytes changed, moved, repeated, removed or cut off."""
    content = bytearray(good[rng.integers(len(good))])
    for _ in range(rng.integers(1, 5)):
        first, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 12))
        kind = rng.integers(5)
        if kind == 0:
            content[first : first + length] = rng.bytes(length)
        elif kind == 1:
            del content[first : first + length]
        elif kind == 2:
            content[first:first] = content[first : first + length]
        elif kind == 3:
            content[first : first + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**31, 2**32 - 1])))
        elif len(content) > 1:
            content = content[: int(rng.integers(1, len(content)))]
    return bytes(content)


def test_damaged_files_raise_only_value_errors(tmp_path: Path) -> None:
    good = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        members = {"log_joint.npy": npy(TABLE), "log_q.npy": npy(Q)}
        good.append(archive(tmp_path / "good.npz", members, method).read_bytes())
    path, accepted = tmp_path / "a.npz", 0
    tracemalloc.start()
    for i in range(FUZZ):
        rng = np.random.default_rng([SEED, i])
        content = damaged(rng, good)
        if i % 4 == 0:  # a header with a wrong letter and a checksum that is right
            member = bytearray(npy(TABLE))
            member[int(rng.integers(128))] = int(rng.integers(256))
            content = archive(path, {"log_joint.npy": bytes(member), "log_q.npy": npy(Q)}).read_bytes()
        path.write_bytes(content)
        with contextlib.suppress(ValueError):  # anything else is a bug of the reader
            tables = read_tables(path)
            accepted += 1
            assert all(table.nbytes <= len(content) * 1100 for table in tables)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert accepted < FUZZ
    assert peak < 4 * 10**6  # files of 1 kB: nothing that a header or a directory claims is believed
