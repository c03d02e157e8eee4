"""The generic row kernels on their own: boundaries of lanes and chunks, merged records, statuses, and the interpreter's bits.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter, at the smaller sizes.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
import pytest
from arb_oracle import Reference
from hypothesis import given, settings
from hypothesis import strategies as st

from elbo_exact.kernels.gap import N_RECORD, R_FORWARD, R_GAP
from elbo_exact.kernels.reduce import BAD_Q, BAD_TARGET, NO_SUPPORT, OK, OVERFLOW, ZERO_EVIDENCE, log_evidence_rows
from elbo_exact.kernels.rows import (
    N_OUTPUTS,
    OUT_ELBO,
    OUT_ENTROPY,
    OUT_EUBO,
    OUT_EVIDENCE,
    OUT_FORWARD,
    OUT_GAP,
    OUT_NORMALIZER,
    OUT_STATUS,
    audit_rows,
    gap_rows,
    row_chunks,
    row_from_chunks,
)
from elbo_exact.kernels.tree import CHUNK

Array = npt.NDArray[np.float64]
INF = math.inf
INTERPRETED = bool(numba.config.DISABLE_JIT)
SIZES = (1, 63, 64, 65) if INTERPRETED else (1, 63, 64, 65, 256, 257, 4095, 4096, 4097, 8193)
LONG = 131073  # 33 chunks, the last of one state
N_CHUNKS = 1 if INTERPRETED else 12
COLUMNS = {
    "log_evidence": OUT_EVIDENCE,
    "elbo": OUT_ELBO,
    "gap": OUT_GAP,
    "forward_kl": OUT_FORWARD,
    "eubo": OUT_EUBO,
    "entropy": OUT_ENTROPY,
    "log_q_normalizer": OUT_NORMALIZER,
}
TINY = """
import sys, numpy as np
from elbo_exact.kernels.rows import N_OUTPUTS, audit_rows
for n in (1, 2, 63, 64, 65, 130):
    rng = np.random.default_rng(n)
    a = rng.normal(size=(4, n)) * 3.0
    b = np.stack([rng.normal(size=n) * 3.0, a[1] + 1e-9 * rng.normal(size=n), a[2] - 1.0, rng.normal(size=n) * 400.0])
    a[0, n // 2 + 1 :], b[0, : n // 2] = -np.inf, -np.inf
    out = np.zeros((4, N_OUTPUTS))
    with np.errstate(all="ignore"):
        audit_rows(a, b, 0, 4, out)
    sys.stdout.write(out.tobytes().hex() + "\\n")
"""


@functools.cache
def pair(n: int, tightness: float) -> tuple[Array, Array]:
    """A row and a q that differs from its posterior by ``tightness``."""
    rng = np.random.default_rng(n)
    a = rng.normal(0.0, 3.0, n)
    return a, a + 1.5 + tightness * rng.normal(size=n)


@np.errstate(all="ignore")  # as every caller of a kernel does
def audited(a: Array, b: Array, first: int = 0, last: int | None = None) -> Array:
    """All columns of rows first .. last - 1."""
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    last = max(len(a), len(b)) if last is None else last
    out = np.zeros((last - first, N_OUTPUTS))
    audit_rows(a, b, first, last, out)
    return out


@np.errstate(all="ignore")  # as every caller of a kernel does
def from_ranges(a: Array, b: Array, ends: list[int], both_ways: bool) -> Array:
    """The row's columns from records of ranges of chunks."""
    parts = []
    for first, last in itertools.pairwise(ends):
        records = np.full((last - first, N_RECORD), np.nan)
        row_chunks(a, b, first, last, records)
        parts.append(records)
    out = np.zeros((1, N_OUTPUTS))
    row_from_chunks(np.concatenate(parts), a.size, both_ways, out)
    return out


@pytest.mark.parametrize("tightness", [1.0, 1e-3, 1e-12])
@pytest.mark.parametrize("n", SIZES)
def test_bounds_hold_at_every_boundary(n: int, tightness: float) -> None:
    a, b = pair(n, tightness)
    result, reference = audited(a, b)[0], Reference(a, b)
    for name, column in COLUMNS.items():
        assert reference.verdict(name, result[column], result[column + 1]) == "inside", (name, result[column : column + 2])


@pytest.mark.skipif(INTERPRETED, reason="too slow in the interpreter")
@pytest.mark.parametrize("tightness", [1e-6])
def test_bounds_hold_for_thirty_three_chunks(tightness: float) -> None:
    a, b = pair(LONG, tightness)
    result, reference = audited(a, b)[0], Reference(a, b)
    for name in ("log_evidence", "gap", "forward_kl", "elbo", "entropy"):
        column = COLUMNS[name]
        assert reference.verdict(name, result[column], result[column + 1]) == "inside", (name, result[column : column + 2])


@pytest.mark.parametrize("n", SIZES)
def test_the_gap_alone_has_the_bits_of_the_audit(n: int) -> None:
    a, b = pair(n, 0.1)
    out = np.zeros((1, N_OUTPUTS))
    gap_rows(a[None], b[None], 0, 1, out)
    for column in (OUT_EVIDENCE, OUT_ELBO, OUT_GAP, OUT_NORMALIZER):
        np.testing.assert_array_equal(out[0, column : column + 2], audited(a, b)[0, column : column + 2])


@pytest.mark.parametrize("n", SIZES)
def test_the_evidence_has_the_bits_of_the_evidence_kernel(n: int) -> None:
    a, b = pair(n, 1.0)
    for row, column in ((a, OUT_EVIDENCE), (b, OUT_NORMALIZER)):
        out = np.zeros((1, 3))
        log_evidence_rows(row[None], 0, 1, out)
        np.testing.assert_array_equal(audited(a, b)[0, column : column + 2], out[0, :2])


@settings(deadline=None, max_examples=4 if INTERPRETED else 30)
@given(st.lists(st.integers(0, N_CHUNKS), max_size=5), st.booleans(), st.sampled_from([1.0, 1e-10]))
def test_any_split_into_ranges_of_chunks_gives_the_same_bits(cuts: list[int], both_ways: bool, tightness: float) -> None:
    a, b = pair(65 if INTERPRETED else (N_CHUNKS - 1) * CHUNK + 1, tightness)
    ends = sorted({0, N_CHUNKS, *cuts})
    whole, split = np.zeros((1, N_OUTPUTS)), from_ranges(a, b, ends, both_ways)
    (audit_rows if both_ways else gap_rows)(a[None], b[None], 0, 1, whole)
    columns = [c for c in range(N_OUTPUTS) if both_ways or c // 2 * 2 not in (OUT_FORWARD, OUT_EUBO, OUT_ENTROPY)]
    np.testing.assert_array_equal(split[0, columns], whole[0, columns])


@pytest.mark.skipif(INTERPRETED, reason="two chunks are too slow in the interpreter")
@pytest.mark.parametrize("tightness", [1.0, 1e-10])
def test_a_record_is_a_problem_of_its_own(tightness: float) -> None:
    a, b = pair(2 * CHUNK + 65, tightness)
    records = np.full((3, N_RECORD), np.nan)
    row_chunks(a, b, 0, 3, records)
    for c, record in enumerate(records):
        part = slice(c * CHUNK, (c + 1) * CHUNK)
        alone = audited(np.ascontiguousarray(a[part]), np.ascontiguousarray(b[part]))[0]
        np.testing.assert_array_equal(record[[R_GAP, R_GAP + 1]], alone[[OUT_GAP, OUT_GAP + 1]])
        np.testing.assert_array_equal(record[[R_FORWARD, R_FORWARD + 1]], alone[[OUT_FORWARD, OUT_FORWARD + 1]])


@pytest.mark.parametrize("n", [n for n in SIZES if n > 1])
def test_statuses_wherever_the_guilty_entry_is(n: int) -> None:
    for place in sorted({0, n - 1, min(64, n - 1), min(4096, n - 1)}):
        a, b = (x.copy() for x in pair(n, 1.0))
        for entry in (np.nan, INF):
            bad = a.copy()
            bad[place] = entry
            assert audited(bad, b)[0, OUT_STATUS] == BAD_TARGET
            bad = b.copy()
            bad[place] = entry
            assert audited(a, bad)[0, OUT_STATUS] == BAD_Q
        charged = a.copy()
        charged[place] = -INF
        result = audited(charged, b)[0]
        assert result[[OUT_GAP, OUT_GAP + 1, OUT_ELBO, OUT_ELBO + 1, OUT_STATUS]].tolist() == [INF, 0.0, -INF, 0.0, OK]
        result = audited(a, charged)[0]
        assert result[[OUT_FORWARD, OUT_FORWARD + 1, OUT_EUBO, OUT_EUBO + 1, OUT_STATUS]].tolist() == [INF, 0.0, INF, 0.0, OK]
        single = np.full(n, -INF)
        single[place] = 3.0
        result = audited(single, single)[0]
        assert result[[OUT_EVIDENCE, OUT_ELBO, OUT_GAP, OUT_FORWARD, OUT_EUBO]].tolist() == [3.0, 3.0, 0.0, 0.0, 3.0]


@pytest.mark.parametrize("n", SIZES)
def test_rows_without_support_or_evidence(n: int) -> None:
    a, b = pair(n, 1.0)
    nothing = np.full(n, -INF)
    refused = audited(a, nothing)[0]
    assert refused[OUT_STATUS] == NO_SUPPORT
    assert np.isnan(refused[OUT_GAP])
    impossible = audited(nothing, b)[0]
    assert impossible[OUT_STATUS] == ZERO_EVIDENCE
    assert impossible[[OUT_EVIDENCE, OUT_ELBO]].tolist() == [-INF, -INF]
    assert np.isnan(impossible[[OUT_GAP, OUT_FORWARD, OUT_EUBO]]).all()
    reference = Reference(a, b)
    assert reference.verdict("entropy", impossible[OUT_ENTROPY], impossible[OUT_ENTROPY + 1]) == "inside"


def test_a_value_beyond_the_range_is_an_overflow_with_an_infinite_bound() -> None:
    result = audited(np.array([1.5e308, -1.5e308]), np.array([-1.0, 1.0]))[0]
    assert result[OUT_STATUS] == OVERFLOW
    assert result[OUT_GAP] == INF
    assert result[OUT_GAP + 1] == INF


def test_rows_first_to_last_and_tables_of_one_row() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 7, 65))
    everything = audited(a, b)
    np.testing.assert_array_equal(audited(a, b, 2, 5), everything[2:5])
    np.testing.assert_array_equal(audited(a[:1], b), np.concatenate([audited(a[:1], row) for row in b]))
    np.testing.assert_array_equal(audited(a, b[:1]), np.concatenate([audited(row, b[:1]) for row in a]))


@pytest.mark.skipif(INTERPRETED, reason="compares the compiled bits with the interpreter's")
def test_the_interpreter_gives_the_same_bits() -> None:
    root = Path(__file__).resolve().parent.parent
    answers = [
        subprocess.run(
            [sys.executable, "-c", TINY],
            env=os.environ | extra | {"PYTHONPATH": str(root)},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for extra in ({"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_DISABLE_JIT": "0"})
    ]
    assert answers[0] == answers[1]
    assert len(answers[0].split()) == 6
