"""Short rows side by side against the generic rows: same bits of log evidence, ELBO and EUBO, values within both bounds, the hard rows left out.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter, at the smaller sizes.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt
import pytest
from arb_oracle import Reference

import elbo_exact as ee
from elbo_exact.kernels.reduce import OK, UNDECIDED, log_evidence_rows
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
)
from elbo_exact.kernels.short import SHORT, short_audit_rows, short_gap_rows, short_log_evidence_rows
from elbo_exact.kernels.tiles import ROWS

Array = npt.NDArray[np.float64]
INF = math.inf
INTERPRETED = bool(numba.config.DISABLE_JIT)
SIZES = (2, 5) if INTERPRETED else (2, 3, 5, 31, 63, 64, 65, 100, 128, 129, 255, 256)
BATCHES = (1, 33) if INTERPRETED else (1, 2, 31, 32, 33, 70)
COLUMNS = {
    "log_evidence": OUT_EVIDENCE,
    "elbo": OUT_ELBO,
    "gap": OUT_GAP,
    "forward_kl": OUT_FORWARD,
    "eubo": OUT_EUBO,
    "entropy": OUT_ENTROPY,
    "log_q_normalizer": OUT_NORMALIZER,
}
HARD = {
    "nan in the target": (0, np.nan),
    "+inf in the target": (0, INF),
    "target weight near the subnormals": (0, -730.0),
    "nan in q": (1, np.nan),
    "+inf in q": (1, INF),
    "q's weight near the subnormals": (1, -730.0),
}


def pairs(n_rows: int, n: int, scale: float = 2.0) -> tuple[Array, Array]:
    """Random logits."""
    a, b = np.random.default_rng([n_rows, n]).normal(size=(2, n_rows, n)) * scale
    return a, b


@np.errstate(all="ignore")  # as every caller of a kernel does
def columns(kernel, a: Array, b: Array) -> Array:
    """A kernel's results for every row."""
    n_rows = max(len(a), len(b))
    out = np.zeros((n_rows, N_OUTPUTS))
    kernel(a, b, 0, n_rows, out)
    return out


@pytest.mark.parametrize("n_rows", BATCHES)
@pytest.mark.parametrize("n", SIZES)
def test_short_and_generic_rows_agree(n: int, n_rows: int) -> None:
    a, b = pairs(n_rows, n)
    a[0], b[0] = np.arange(n) % 2, np.arange(n) // 2 % 2  # ties
    short, generic = columns(short_audit_rows, a, b), columns(audit_rows, a, b)
    assert (short[:, OUT_STATUS] == OK).all()
    for name, column in COLUMNS.items():
        distance = np.abs(short[:, column] - generic[:, column])
        assert (distance <= short[:, column + 1] + generic[:, column + 1]).all(), name
    for column in (OUT_EVIDENCE, OUT_NORMALIZER):
        np.testing.assert_array_equal(short[:, column : column + 2], generic[:, column : column + 2])
    for column in (OUT_ELBO, OUT_EUBO):
        np.testing.assert_array_equal(short[:, column], generic[:, column])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 150.0])
@pytest.mark.parametrize("n", SIZES)
def test_decided_rows_are_within_their_bounds(n: int, scale: float) -> None:
    a, b = pairs(3, n, scale)
    for x, y, result in zip(a, b, columns(short_audit_rows, a, b), strict=True):
        if result[OUT_STATUS] == UNDECIDED:
            far = min(np.ptp(x), np.ptp(y)) > 300.0  # then a weight may near the subnormals
            size = np.abs(x).max() + np.abs(y).max() + np.log(n)  # both in one state, as good as equal: see plain.is_fine
            assert scale == 1e-3 or far or ee.gap(x, y, unnormalized=True) < 8192.0 * 16.0 * 2.0**-53 * size
            continue
        reference = Reference(x, y)
        for name, column in COLUMNS.items():
            assert reference.verdict(name, result[column], result[column + 1]) == "inside", (name, x, y)


@pytest.mark.parametrize("n", SIZES)
def test_the_gap_alone_has_the_bits_of_the_audit(n: int) -> None:
    a, b = pairs(33, n)
    full, part = columns(short_audit_rows, a, b), columns(short_gap_rows, a, b)
    for column in (OUT_EVIDENCE, OUT_ELBO, OUT_GAP, OUT_NORMALIZER):
        np.testing.assert_array_equal(part[:, column : column + 2], full[:, column : column + 2])


@pytest.mark.parametrize("n", [1, *SIZES])
def test_the_evidence_alone_has_the_bits_of_the_generic_kernel(n: int) -> None:
    table = pairs(33, n, 20.0)[0]
    table[3, : n // 2] = table[3, 0]  # ties
    short, generic = np.zeros((33, 3)), np.zeros((33, 3))
    short_log_evidence_rows(table, 0, 33, short)
    log_evidence_rows(table, 0, 33, generic)
    np.testing.assert_array_equal(short, generic)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", HARD)
def test_a_hard_row_is_left_out_and_its_neighbours_do_not_notice(kind: str, n: int) -> None:
    which, entry = HARD[kind]
    a, b = pairs(33, n)
    expected = columns(short_audit_rows, a, b)
    for row, place in ((0, 0), (31, n // 2), (32, n - 1)):
        (a, b)[which][row, place] = entry
    result = columns(short_audit_rows, a, b)
    hard = np.isin(np.arange(33), (0, 31, 32))
    assert (result[hard, OUT_STATUS] == UNDECIDED).all()
    np.testing.assert_array_equal(result[~hard], expected[~hard])


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("zeros", [(0,), (1,), (0, 1)], ids=["impossible", "missed", "both"])
def test_zeros_are_decided_and_agree_with_the_generic_rows(zeros: tuple[int, ...], n: int) -> None:
    a, b = pairs(33, n)
    for which in zeros:
        (a, b)[which][::3, n // 2] = -INF
    short, generic = columns(short_audit_rows, a, b), columns(audit_rows, a, b)
    np.testing.assert_array_equal(short[:, OUT_STATUS], np.full(33, float(OK)))
    for name, column in COLUMNS.items():
        mine, other = short[:, column], generic[:, column]
        finite = np.isfinite(other)
        np.testing.assert_array_equal(mine[~finite], other[~finite])
        bounds = short[finite, column + 1] + generic[finite, column + 1]
        assert (np.abs(mine[finite] - other[finite]) <= bounds).all(), name


@pytest.mark.parametrize("tightness", [1e-7, 1e-9, 0.0])
def test_rows_near_the_posterior_are_left_out(tightness: float) -> None:
    """The pivot of two logarithms is off by some u at least, so a gap below 8192 u = 9e-13 is never decided; these are 2e-14."""
    a, b = pairs(33, 5)
    assert (columns(short_audit_rows, a, a + tightness * b)[:, OUT_STATUS] == UNDECIDED).all()


@pytest.mark.parametrize("n", SIZES)
def test_a_row_does_not_know_its_place(n: int) -> None:
    a, b = pairs(70 if not INTERPRETED else 33, n)
    everything = columns(short_audit_rows, a, b)
    for i in (0, 1, 31, 32, len(a) - 1):
        np.testing.assert_array_equal(columns(short_audit_rows, a[i : i + 1], b[i : i + 1])[0], everything[i])
    first, last = 3, 20
    out = np.zeros((last - first, N_OUTPUTS))
    short_audit_rows(a, b, first, last, out)
    np.testing.assert_array_equal(out, everything[first:last])


@pytest.mark.parametrize("n", SIZES)
def test_a_table_of_one_row_serves_every_row_of_the_other(n: int) -> None:
    a, b = pairs(33, n)
    copies = np.ascontiguousarray(np.broadcast_to(a[:1], b.shape))
    np.testing.assert_array_equal(columns(short_audit_rows, a[:1], b), columns(short_audit_rows, copies, b))
    np.testing.assert_array_equal(columns(short_audit_rows, b, a[:1]), columns(short_audit_rows, b, copies))


def test_the_sizes_reach_the_limits_of_the_tiles() -> None:
    assert INTERPRETED or max(SIZES) == SHORT
    assert {ROWS - 1, ROWS, ROWS + 1} <= set(BATCHES) | ({ROWS - 1, ROWS} if INTERPRETED else set())
