"""The summation tree and log-sum-exp on their own: boundaries of lanes and chunks, compensation, and merges in pieces.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter, at the smaller sizes.
"""

from __future__ import annotations

import itertools
import math

import numba
import numpy as np
import numpy.typing as npt
import pytest
from arb_oracle import exact_sum, verdict
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st

from elbo_exact.kernels.reduce import (
    BAD,
    BAD_TARGET,
    OK,
    REST,
    REST_LOW,
    TIES,
    TOP,
    WEIGHT_ERROR,
    ZERO_EVIDENCE,
    log_evidence_chunks,
    log_evidence_from_chunks,
    log_evidence_rows,
)
from elbo_exact.kernels.tiles import GROUP
from elbo_exact.kernels.tree import CHUNK, ETA, LANES, U

Array = npt.NDArray[np.float64]
INF = math.inf
INTERPRETED = bool(numba.config.DISABLE_JIT)
SIZES = (1, 63, 64, 65) if INTERPRETED else (1, 63, 64, 65, 256, 257, 4095, 4096, 4097, 8193, 131073)
N_STATES = 2 * LANES + 5 if INTERPRETED else 3 * CHUNK + 77
BITS = 200


@np.errstate(all="ignore")  # as every caller of a kernel does
def evidence(table: Array, first: int = 0, last: int | None = None) -> Array:
    """(value, bound, status) of rows first .. last - 1."""
    last = len(table) if last is None else last
    out = np.full((last - first, 3), np.nan)
    log_evidence_rows(table, first, last, out)
    return out


@np.errstate(all="ignore")  # as every caller of a kernel does
def chunks(row: Array, first: int, last: int) -> Array:
    """Partial log sums of chunks first .. last - 1."""
    partials = np.full((last - first, 5), np.nan)
    log_evidence_chunks(row, first, last, partials)
    return partials


def n_chunks(row: Array) -> int:
    return -(-row.size // CHUNK)


@np.errstate(all="ignore")  # as every caller of a kernel does
def from_chunks(partials: Array, n: int) -> Array:
    """(value, bound, status) of the row whose chunks these are."""
    out = np.full((1, 3), np.nan)
    log_evidence_from_chunks(partials, n, out)
    return out


def exact_weight_sum(states: Array, top: float) -> arb:
    """Sum of exp(x - top) as a ball."""
    ctx.prec = BITS
    try:
        return exact_sum((arb(float(x)) - arb(top)).exp() for x in states if x > -INF)
    finally:
        ctx.prec = 53


def exact_log(total: arb, top: float) -> arb:
    """top + log(total)."""
    ctx.prec = BITS
    try:
        return arb(top) + total.log()
    finally:
        ctx.prec = 53


def random_row(n: int, scale: float = 3.0) -> Array:
    return np.random.default_rng(n).normal(0.0, scale, n)


@pytest.mark.parametrize("scale", [1e-3, 3.0, 200.0])
@pytest.mark.parametrize("n", SIZES)
def test_the_bound_holds_at_every_boundary(n: int, scale: float) -> None:
    row = random_row(n, scale)
    (value, bound, status), top = evidence(row[None])[0], float(row.max())
    assert status == OK
    assert verdict(value, bound, exact_log(exact_weight_sum(row, top), top)) == "inside"


@pytest.mark.parametrize("n", [n for n in SIZES if n > 1])
def test_small_weights_are_not_lost_one_by_one(n: int) -> None:
    """States of weight 2**-53 behind one of weight 1 - 2**-12: a plain sum drops each of them, (n - 2) u in all. Here the error
    of R stays within the weights' own 3.1u and the second order 2 (n + 2)**2 u**2 of any chain; only chunk merges add 5.2u."""
    row = np.full(n, -53.0 * math.log(2.0))
    row[0], row[-1] = 0.0, math.log1p(-(2.0**-12))
    for part, start in zip(chunks(row, 0, n_chunks(row)), range(0, n, CHUNK), strict=True):
        states, top = row[start : start + CHUNK], float(part[TOP])
        assert top == states.max()
        exact = exact_weight_sum(states[states < top], top)
        chain = 2.0 * (states.size + 2.0) ** 2 * U * U
        ctx.prec = BITS
        try:
            distance = abs(arb(float(part[REST])) + arb(float(part[REST_LOW])) - exact)
            assert distance <= exact * arb(WEIGHT_ERROR + chain) + arb(n * ETA)
        finally:
            ctx.prec = 53


@pytest.mark.parametrize("n", SIZES)
def test_maximal_states_are_counted_wherever_they_are(n: int) -> None:
    row = np.full(n, -1.0)
    places = sorted({0, n // 2, n - 1, min(LANES, n - 1), min(CHUNK, n - 1)})
    row[places] = 2.0
    partials = chunks(row, 0, n_chunks(row))
    whole = partials[partials[:, TOP] == 2.0]
    assert whole[:, TIES].sum() == len(places)
    assert (partials[:, BAD] == 0.0).all()


@pytest.mark.parametrize("n", SIZES)
def test_equal_states_are_exact(n: int) -> None:
    """R = n - 1 without rounding, so the only error is that of the logarithm, 2u log n, and of one addition."""
    value, bound, status = evidence(np.full((1, n), 1.0))[0]
    assert status == OK
    ctx.prec = BITS
    try:
        exact = arb(1) + arb(n).log()
    finally:
        ctx.prec = 53
    assert verdict(value, min(float(bound), 1.01 * (2.0 * U * math.log(n) + U * value)), exact) == "inside"


@settings(deadline=None, max_examples=5 if INTERPRETED else 60)
@given(st.lists(st.integers(0, 40), max_size=6))
def test_any_split_into_ranges_of_chunks_gives_the_same_bits(cuts: list[int]) -> None:
    row = random_row(N_STATES if INTERPRETED else 40 * CHUNK + 1, 5.0)
    count = n_chunks(row)
    ends = sorted({0, count, *(min(cut, count) for cut in cuts)})
    parts = [chunks(row, first, last) for first, last in itertools.pairwise(ends)]
    np.testing.assert_array_equal(from_chunks(np.concatenate(parts), row.size), evidence(row[None]))


@pytest.mark.parametrize("n", SIZES)
def test_a_row_is_its_chunks(n: int) -> None:
    """A chunk's partial sums depend on its own states alone."""
    row = random_row(n)
    partials = chunks(row, 0, n_chunks(row))
    for c, part in enumerate(partials):
        alone = np.ascontiguousarray(row[c * CHUNK : (c + 1) * CHUNK])
        np.testing.assert_array_equal(chunks(alone, 0, 1)[0], part)


@pytest.mark.parametrize("n", SIZES)
def test_a_bad_entry_is_found_wherever_it_is(n: int) -> None:
    for place in sorted({0, n // 2, n - 1, min(63, n - 1), min(64, n - 1), min(4095, n - 1), min(4096, n - 1)}):
        for entry in (np.nan, INF):
            row = random_row(n)
            row[place] = entry
            value, bound, status = evidence(row[None])[0]
            assert status == BAD_TARGET
            assert math.isnan(value)
            assert bound == INF


@pytest.mark.parametrize("n", SIZES)
def test_impossible_states_and_rows(n: int) -> None:
    row = np.full(n, -INF)
    assert evidence(row[None])[0].tolist() == [-INF, 0.0, ZERO_EVIDENCE]
    for place in {0, n - 1, n // 2}:
        one = row.copy()
        one[place] = -2.5
        value, bound, status = evidence(one[None])[0]
        assert (value, status) == (-2.5, OK)
        assert bound <= 1.03 * U * 2.5 + 2.0 * n * ETA


@pytest.mark.parametrize("n", [n for n in SIZES if n > 1])
def test_a_constant_moves_the_evidence_and_nothing_else(n: int) -> None:
    """Multiples of 2**-10 plus 512 are exact, so tops differ by exactly 512 and all partial sums are the same bits."""
    row = np.round(random_row(n) * 1024.0) / 1024.0
    one, other = (chunks(x, 0, n_chunks(row)) for x in (row, row + 512.0))
    np.testing.assert_array_equal(other[:, TOP], one[:, TOP] + 512.0)
    np.testing.assert_array_equal(other[:, TIES:], one[:, TIES:])


def test_rows_first_to_last_are_written_from_the_start() -> None:
    table = np.random.default_rng(3).normal(size=(7, 65))
    everything = evidence(table)
    np.testing.assert_array_equal(evidence(table, 2, 5), everything[2:5])
    assert evidence(table, 4, 4).shape == (0, 3)


@pytest.mark.parametrize("n", [n for n in SIZES if n <= CHUNK])
@pytest.mark.parametrize("n_rows", [1, GROUP - 1, GROUP, GROUP + 1])
def test_rows_that_are_halved_together_do_not_know_each_other(n: int, n_rows: int) -> None:
    """Every row has the bits that it has alone and from its chunk, whatever its neighbors are."""
    table = np.random.default_rng(n).normal(0.0, 3.0, (n_rows, n))
    table[n_rows // 2] = -INF
    table[-1, 0] = np.nan
    together = evidence(table)
    for i, row in enumerate(table):
        np.testing.assert_array_equal(together[i], evidence(table, i, i + 1)[0])
        np.testing.assert_array_equal(together[i], from_chunks(chunks(row, 0, 1), n)[0])
