"""The same bits for any number of threads, memory layout, batch and executor, and from release to release.

``python tests/test_reproducibility.py`` rewrites golden.json; a release that changes it says so in the changelog.
"""

from __future__ import annotations

import json
import platform
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from table_families import FAMILIES
from table_strategies import Array

import elbo_exact as ee

GOLDEN = Path(__file__).with_name("golden.json")
INCLUDE = ("chi2_divergence", "total_variation", "hellinger", "jensen_shannon", "jeffreys", ("renyi_divergence", 0.75))
THREADS = "ELBO_EXACT_NUM_THREADS"
SHAPES = [(1, 300_000), (3, 150_001), (40, 5000), (3000, 256), (600, 257), (40_000, 4), (70_000, 3)]


def tables(shape: tuple[int, ...], seed: int = 0) -> tuple[Array, Array]:
    """Rows of every kind: far, tight, with zeros, with weights that underflow."""
    rng = np.random.default_rng(seed)
    a = rng.normal(0.0, 3.0, shape)
    b = a + rng.normal(0.0, 1.0, shape) * 10.0 ** rng.uniform(-15.0, 0.5, (shape[0], 1))
    a[::5] *= 200.0
    if shape[1] > 1:
        a[1::7, 0] = -np.inf
        b[2::7, -1] = -np.inf
    return a, b


def bits(a: Any, b: Any, **options: Any) -> dict[str, bytes]:
    """Every number that the package returns for a pair of tables."""
    result = ee.audit(a, b, include=INCLUDE, unnormalized=True, **options)
    numbers = {name: getattr(result, name) for name in result.names}
    numbers |= {f"error of {name}": getattr(result.error, name) for name in result.names}
    numbers["log_evidence alone"] = ee.log_evidence(a, **options)
    numbers["gap alone"] = ee.gap(a, b, unnormalized=True, **options)
    numbers["elbo alone"] = ee.elbo(a, b, unnormalized=True, **options)
    return {name: np.ascontiguousarray(value).tobytes() for name, value in numbers.items()}


def assert_same(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = tables(shape)
    results = []
    for threads in ("1", "2", "4"):
        monkeypatch.setenv(THREADS, threads)
        results.append(bits(a, b) | {"gradient": ee.elbo_gradient(a, b).tobytes(), "posterior": ee.posterior(a).tobytes()})
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


class LastFirst(Executor):
    """Runs what it was given in reverse order, when the first result is asked for."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        executor = self

        class Lazy(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                while executor.waiting:
                    future, call, values = executor.waiting.pop()
                    future.set_result(call(*values))
                return super().result(timeout)

        future: Future[Any] = Lazy()
        self.waiting.append((future, function, arguments))
        return future


@pytest.mark.parametrize("shape", [(1, 600_000), (3000, 256)], ids=str)
def test_executors(shape: tuple[int, int]) -> None:
    a, b = tables(shape)
    plain = bits(a, b)
    with ThreadPoolExecutor(3) as threads:
        assert_same(plain, bits(a, b, executor=threads))
    assert_same(plain, bits(a, b, executor=LastFirst()))


def layouts(table: Array) -> dict[str, Array]:
    """The same numbers, stored in other ways."""
    rows, columns = table.shape
    wide = np.zeros((2 * rows, 3 * columns))
    wide[::2, ::3] = table
    buffer = np.zeros(table.nbytes + 1, np.uint8)
    unaligned = buffer[1:].view(np.float64).reshape(table.shape)
    unaligned[...] = table
    read_only = table.copy()
    read_only.setflags(write=False)
    return {
        "Fortran": np.asfortranarray(table),
        "strided": wide[::2, ::3],
        "reversed": np.ascontiguousarray(table[::-1, ::-1])[::-1, ::-1],
        "unaligned": unaligned,
        "read-only": read_only,
        "big-endian": table.astype(">f8"),
        "transposed": np.ascontiguousarray(table.T).T,
        "three axes": table.reshape(rows, 1, columns),
    }


@pytest.mark.parametrize("layout", layouts(np.zeros((1, 1))))
@pytest.mark.parametrize("shape", [(60, 7), (33, 129), (5, 300), (3, 9001)], ids=str)
def test_memory_layouts(shape: tuple[int, int], layout: str) -> None:
    a, b = tables(shape)
    assert_same(bits(a, b), bits(layouts(a)[layout], layouts(b)[layout]))


@pytest.mark.parametrize("shape", [(100, 1), (100, 6), (64, 128), (40, 256), (40, 257), (7, 5000)], ids=str)
def test_rows_do_not_know_their_batch(shape: tuple[int, int]) -> None:
    a, b = tables(shape)
    whole = bits(a, b)
    width = 8

    def pick(rows: list[int]) -> dict[str, bytes]:
        return {name: b"".join(value[width * i : width * i + width] for i in rows) for name, value in whole.items()}

    n = shape[0]
    for i in range(min(n, 10)):
        assert_same(pick([i]), bits(a[i], b[i]))
    order = list(np.random.default_rng(1).permutation(n))
    assert_same(pick(order), bits(a[order], b[order]))
    for split in (1, 31, n - 1):
        if 0 < split < n:
            assert_same(pick(list(range(split))), bits(a[:split], b[:split]))
            assert_same(pick(list(range(split, n))), bits(a[split:], b[split:]))


@pytest.mark.parametrize("shape", [(50, 6), (50, 300), (4, 140_000)], ids=str)
def test_broadcast_rows_are_the_same_as_copies(shape: tuple[int, int]) -> None:
    a, b = tables(shape)
    assert_same(bits(a, np.tile(b[3], (len(a), 1))), bits(a, b[3]))
    copies, shared = bits(np.tile(a[3], (len(b), 1)), b), bits(a[3], b)
    assert copies.pop("log_evidence alone") == len(b) * shared.pop("log_evidence alone")  # that of one row
    assert_same(copies, shared)
    assert_same(bits(a, np.tile(b[3], (len(a), 1))), bits(a, np.broadcast_to(b[3], a.shape)))


@pytest.mark.parametrize("n_states", [2, 64, 100, 256, 257, 4096, 5000])
def test_states_that_cannot_occur_change_no_bit(n_states: int) -> None:
    a, b = tables((8, n_states))
    nothing = np.full((8, 1), -np.inf)
    names = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy", "log_q_normalizer")
    first, second = bits(a, b), bits(np.hstack([a, nothing]), np.hstack([b, nothing]))
    assert [name for name in names if first[name] != second[name]] == []


def golden_results() -> dict[str, list[str]]:
    """Values and bounds in hexadecimal, on inputs that every platform makes alike: dyadic numbers from Python's generator."""
    results = {}
    for n_states, spread, eps in ((1, 5, 0), (2, 9, 6), (7, 9, -30), (64, 12, -8), (65, 9, -40), (300, 16, 3), (4097, 10, -12)):
        source = random.Random(n_states)
        a = np.array([source.randint(-(2**spread), 2**spread) * 2.0**-6 for _ in range(n_states)])
        b = a + np.array([source.randint(-8, 8) * 2.0**eps for _ in range(n_states)])
        result = ee.audit(a, b, include=INCLUDE, unnormalized=True)
        numbers = [(getattr(result, name), getattr(result.error, name)) for name in result.names]
        results[f"{n_states} states"] = [float(x).hex() for pair in numbers for x in pair]
    return results


def test_bits_are_those_of_the_release() -> None:
    assert golden_results() == json.loads(GOLDEN.read_text())


def test_families_are_audited_alike_with_one_and_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, make in enumerate(FAMILIES.values()):
        a, b = make(np.random.default_rng((7, number)))
        monkeypatch.setenv(THREADS, "1")
        one = bits(a, b)
        monkeypatch.setenv(THREADS, "2")
        assert_same(one, bits(a, b))
        assert_same(one, {name: value[:8] for name, value in bits(np.stack([a, a]), np.stack([b, b])).items()})


SPOILED = """
import ctypes, numpy, elbo_exact as ee
a = numpy.log(numpy.full((2, 4), 0.25))
ee.audit(a, a), ee.posterior(a), ee.elbo_gradient(a, a), ee.hellinger(a, a)   # everything is compiled and loaded
library = ctypes.CDLL(None)
{spoil}
for call in (lambda: ee.audit(a, a), lambda: ee.log_evidence(a), lambda: ee.gap(a, a), lambda: ee.elbo(a, a), lambda: ee.posterior(a),
             lambda: ee.log_posterior(a), lambda: ee.elbo_gradient(a, a), lambda: ee.hellinger(a, a), lambda: ee.entropy(a)):
    try:
        call()
    except FloatingPointError as error:
        print(error)
    else:
        print("no error")
"""
FLUSH = """
environment = (ctypes.c_uint32 * 8)()   # glibc's fenv_t on x86-64 ends with MXCSR
assert library.fegetenv(environment) == 0
environment[7] |= 0x8040                # flush to zero, and denormals are zero
assert library.fesetenv(environment) == 0
"""
ROUND_UP = "assert library.fesetround(0x800) == 0"


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="sets the floating-point control register through glibc's layout of fenv_t on x86-64",
)
@pytest.mark.parametrize(
    ("spoil", "message"), [(FLUSH, "subnormal numbers are flushed to zero"), (ROUND_UP, "does not round to nearest")]
)
def test_a_spoiled_floating_point_unit_is_refused(spoil: str, message: str) -> None:
    code = SPOILED.format(spoil=spoil)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 9 and all(message in line for line in lines), lines


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_results(), indent=1) + "\n")
