"""The fast terms against ball arithmetic, one by one, at the constants that their bounds rest on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arb_oracle import COMPARISON_BITS
from flint import arb, ctx

from elbo_exact.kernels._jit import FLOAT, INT, OUT2, ROW, kernel, void
from elbo_exact.kernels.direct import direct_term
from elbo_exact.kernels.plain import (
    MASS_ERROR,
    TERM_ERROR,
    is_fine,
    log_ratio_error,
    one_sided,
    plain_bound,
    plain_divergence,
    plain_mass,
    plain_offset,
    plain_state,
)
from elbo_exact.kernels.reduce import WEIGHT_ERROR
from elbo_exact.kernels.scalar import exp, phi_parts, weight
from elbo_exact.kernels.tree import U

INF = math.inf
E, GAP, FORWARD, MASS, DIRECT, DEPTH, ONE_SIDED, SIZE = range(8)


@kernel(void(ROW, ROW, FLOAT, FLOAT, FLOAT, OUT2))
def states(a, b, top_a, top_b, r, out):  # type: ignore[no-untyped-def]
    s, inverse = exp(-r), exp(r)
    c, c_low = plain_offset(top_a, top_b, r)
    for i in range(a.size):
        v, w = weight(a[i], top_a), weight(b[i], top_b)
        out[i, E], depth, out[i, ONE_SIDED] = plain_state(a[i], b[i], top_a, top_b, c, c_low)
        even, odd = phi_parts(out[i, E])
        out[i, GAP] = plain_divergence(even, odd, out[i, E], w, v, s)
        out[i, FORWARD] = plain_divergence(even, -odd, -out[i, E], v, w, inverse)
        out[i, MASS] = plain_mass(even, odd, out[i, E], w, v, s)
        out[i, DEPTH] = w * depth
        out[i, DIRECT], out[i, SIZE] = direct_term(w, a[i], b[i], top_a, top_b)


@kernel(void(FLOAT, FLOAT, FLOAT, FLOAT, INT, OUT2))
def decisions(total, weight_sum, off, delta, n, out):  # type: ignore[no-untyped-def]
    out[0, 0] = is_fine(total, weight_sum, off, delta)
    out[0, 1] = plain_bound(total, weight_sum, delta, n)


@kernel(void(ROW, ROW, OUT2))
def counts(a, b, out):  # type: ignore[no-untyped-def]
    out[0, 0], out[0, 1] = one_sided(a, b)


def rows(offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float, float, float]:
    """States at every kind of log ratio, the thresholds of the series included, below tops that are ``offset``."""
    rng = np.random.default_rng(seed)
    y = -rng.uniform(0.0, 690.0, 4000) * rng.choice([1.0, 1e-2, 1e-5], 4000)
    e = rng.choice([-1.0, 1.0, 1.6, -1.6, 0.0], 4000) + rng.choice([-1.0, 1.0], 4000) * 10.0 ** rng.uniform(-16.0, 2.5, 4000)
    x = np.maximum(np.minimum(y + e, 0.0), -700.0)
    return x + offset, y - 3.0 * offset, offset, -3.0 * offset, float(rng.normal())


@pytest.mark.parametrize("offset", [0.0, 1.0, -37.3, 1e3, -1e9])
def test_every_term_is_within_its_share(offset: float) -> None:
    a, b, top_a, top_b, r = rows(offset)
    out = np.empty((a.size, 8))
    states(a, b, top_a, top_b, r, out)
    delta = 16.0 * U * U * (2.0 * (abs(offset) + 700.0) + 2.0 * (3.0 * abs(offset) + 700.0) + abs(r))
    bits, ctx.prec = ctx.prec, COMPARISON_BITS
    try:
        for x, y, row in zip(a.tolist(), b.tolist(), out.tolist(), strict=True):
            e = (arb(x) - arb(top_a)) - (arb(y) - arb(top_b)) - arb(r)
            v, w = (arb(x) - arb(top_a)).exp(), (arb(y) - arb(top_b)).exp()
            tiny = arb(2) ** -1060
            assert abs(arb(row[E]) - e) <= abs(e) * U + delta
            reach = 2.5 * abs(e) + delta + 1 if abs(e) > 1.6 else 2.5 * abs(e) + delta
            for found, exact, scale in ((row[GAP], w * (e.expm1() - e), w), (row[FORWARD], v * ((-e).expm1() + e), v)):
                assert abs(arb(found) - exact) <= 1.01 * (exact * TERM_ERROR + scale * delta * reach) + tiny
            mass = w * e.expm1()
            assert abs(arb(row[MASS]) - mass) <= 1.01 * (abs(mass) * MASS_ERROR + 3 * w * delta) + tiny
            direct = w * ((arb(x) - arb(top_a)) - (arb(y) - arb(top_b)))
            assert abs(arb(row[DIRECT]) - direct) <= 1.01 * arb(row[SIZE]) * (WEIGHT_ERROR + 4.0 * U) + tiny
            depth = w * (arb(top_b) - arb(y))
            assert abs(arb(row[DEPTH]) - depth) <= 1.01 * depth * (WEIGHT_ERROR + 5.0 * U) + tiny
    finally:
        ctx.prec = bits


@np.errstate(all="ignore")  # as every caller of a kernel does
def test_zeros_contribute_what_the_corner_table_says() -> None:
    a, b = np.array([0.0, -INF, -1.0, -INF]), np.array([0.0, -1.0, -INF, -INF])
    out, found = np.empty((4, 8)), np.empty((1, 2))
    states(a, b, 0.0, 0.0, 0.25, out)
    assert out[:, ONE_SIDED].tolist() == [0.0, 1.0, 1.0, 1.0]
    assert out[3, GAP : DEPTH + 1].tolist() == [0.0] * 5
    missing = math.exp(-1.25)  # v exp(-r), to an ulp or two of this very formula
    assert abs(out[2, GAP] - missing) <= 8.0 * U * missing and out[2, DIRECT] == 0.0
    assert np.isfinite(np.delete(out, 1, axis=0)).all() and out[1, DIRECT] == -INF  # a charged state makes the ELBO -inf
    counts(a, b, found)
    assert found.tolist() == [[1.0, 1.0]]


def test_what_could_be_felt_is_left_to_the_careful_terms() -> None:
    out = np.empty((1, 2))
    for total, off, delta, fine in (
        (1e-7, 1e-15, 1e-28, True),
        (1e-12, 1e-15, 1e-40, False),  # off**2 8192 > u gap
        (1e-9, 1e-18, 1e-28, False),  # delta 8192 > u gap
        (0.0, 0.0, 1e-28, False),
        (math.nan, 1e-15, 1e-28, False),
        (1.0, INF, 1e-28, False),
    ):
        decisions(total, 1.0, off, delta, 10, out)
        assert bool(out[0, 0]) is fine, (total, off, delta)
    decisions(0.5, 2.0, 1e-15, 0.0, 0, out)
    assert out[0, 1] == 0.5 * TERM_ERROR


def test_the_error_of_the_log_ratios_grows_with_the_tables() -> None:
    @kernel(void(FLOAT, FLOAT, OUT2))
    def errors(size, r, out):  # type: ignore[no-untyped-def]
        out[0, 0] = log_ratio_error(size, -1.0, 2.0, -size, r)

    out = np.empty((1, 1))
    errors(100.0, -3.0, out)
    assert out[0, 0] == 16.0 * U * U * (100.0 + 100.0 + 3.0)
