"""tanh against ball arithmetic, softmax and the ELBO's slopes against the audited quantities and exact sums.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest
from flint import arb, ctx

import elbo_exact as ee
from elbo_exact._layers import log_softmax
from elbo_exact.kernels.softmax import (
    elbo_layer,
    elbo_slopes,
    log_softmax_pullback,
    log_softmax_rows,
    tanh_pullback,
    tanh_values,
)
from elbo_exact.kernels.tiles import ROWS, SHORT

POINTS = int(os.environ.get("ELBO_EXACT_KERNEL_POINTS", "6000"))
U = 2.0**-53
SHAPES = [(1, 1), (1, 3), (ROWS - 1, 10), (ROWS, 2), (ROWS + 1, 5), (3, SHORT)]


@pytest.fixture(autouse=True)
def _as_compiled() -> Any:
    """The interpreter warns where compiled code does not."""
    with np.errstate(all="ignore"):
        yield


def tanh(x: Any) -> Any:
    out = np.array(x, np.float64)
    tanh_values(out)
    return out


def test_tanh_is_right_to_six_units_of_rounding() -> None:
    rng = np.random.default_rng(0)
    sizes = [10.0 ** rng.uniform(-307.0, 1.4, POINTS), np.abs(rng.normal(size=POINTS)), rng.uniform(0.17, 0.53, POINTS)]
    x = np.concatenate(sizes) * rng.choice([-1.0, 1.0], 3 * POINTS)  # the last around changes of k
    ctx.prec = 200
    for t, value in zip(x.tolist(), tanh(x).tolist(), strict=True):
        exact = arb(t).tanh()
        assert abs(arb(value) - exact) <= abs(exact) * 6.0 * U, t


def test_edges_of_tanh() -> None:
    x = [0.0, -0.0, 5e-324, -5e-324, 20.0, -1e308, math.inf, -math.inf, math.nan]
    found = tanh(x).tolist()
    assert found[:-1] == [0.0, 0.0, 5e-324, -5e-324, 1.0, -1.0, 1.0, -1.0] and math.isnan(found[-1])
    assert np.signbit(found[1])


def test_the_pullback_of_tanh_is_its_derivative() -> None:
    value, out = np.array([0.0, 0.5, -1.0]), np.empty(3)
    tanh_pullback(value, np.array([2.0, 4.0, 3.0]), out)
    assert out.tolist() == [2.0, 3.0, 0.0]


@pytest.mark.parametrize("shape", SHAPES)
def test_log_softmax_is_the_posterior_of_its_logits(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0])
    logits = rng.normal(size=shape) * rng.choice([1.0, 30.0, 700.0], shape)
    logits[rng.random(shape) < 0.1] = -np.inf
    logits[:, 0] = rng.normal(size=shape[0])
    out = np.empty(shape)
    log_softmax_rows(logits, out)
    evidence = ee.audit(logits, logits - ee.log_evidence(logits)[:, None])
    # the reference's own bound; here S additions and weights of 2u, a log, two differences of numbers no larger than these
    size = np.abs(logits) + np.abs(evidence.log_evidence)[:, None] + np.abs(out)
    with np.errstate(invalid="ignore"):
        error = np.abs(out - (logits - evidence.log_evidence[:, None]))
    bound = evidence.error.log_evidence[:, None] + (shape[1] + 8) * U + 3.0 * U * size
    assert np.array_equal(out == -np.inf, logits == -np.inf)
    assert (error <= bound)[logits > -np.inf].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_pullback_of_log_softmax_against_exact_sums(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[1])
    value = np.log(rng.dirichlet(np.ones(shape[1]), shape[0]).reshape(shape))
    cotangent, out = rng.normal(size=shape), np.empty(shape)
    log_softmax_pullback(value, cotangent, out)
    for v, c, found in zip(value, cotangent, out, strict=True):
        total, size = math.fsum(c.tolist()), math.fsum(np.abs(c).tolist())
        exact = c - np.exp(v) * total
        assert (np.abs(found - exact) <= (np.abs(c) + (shape[1] + 12) * np.exp(v) * size) * 2.0 * U).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_slopes_are_those_of_the_engine(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    log_joint = rng.normal(size=shape) - 5.0
    log_q = np.log(rng.dirichlet(np.ones(shape[1]), shape[0]).reshape(shape))
    if shape[1] > 2:
        log_q = np.where(np.arange(shape[1]) == 1, -np.inf, log_q)
        log_q -= np.log(np.exp(log_q).sum(axis=1, keepdims=True))
        log_joint[:, 1] = -np.inf  # impossible in both
    value, q, slope = np.empty(shape[0]), np.empty(shape), np.empty(shape)
    elbo_slopes(log_joint, log_q, value, q, slope)
    audit = ee.audit(log_joint, log_q)
    with np.errstate(invalid="ignore"):
        size = np.where(q > 0.0, q * np.abs(log_joint - log_q), 0.0)
    total = size.sum(axis=1, keepdims=True)
    rounding = (2 * shape[1] + 18) * U  # 2 S additions, weights of 2u, a log, a division, three differences, two products
    normalized = 1.0 + audit.error.log_evidence  # q sums to 1 up to its own rounding, which the engine divides out
    assert np.array_equal(q == 0.0, log_q == -np.inf)
    assert (np.abs(value - audit.elbo) <= audit.error.elbo + normalized * rounding * (total[:, 0] + 1.0)).all()
    exact = np.where(q > 0.0, q * (np.where(q > 0.0, log_joint - log_q, 0.0) - value[:, None]), 0.0)
    assert (np.abs(slope - exact) <= rounding * (size + q * total)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_row_is_nan_throughout_and_no_other(bad: float) -> None:
    logits, out = np.zeros((3, 4)), np.empty((3, 4))
    logits[1, 2] = bad
    log_softmax_rows(logits, out)
    assert np.isnan(out[1]).all() and np.isfinite(out[[0, 2]]).all()
    value, q, slope = np.empty(3), np.empty((3, 4)), np.empty((3, 4))
    elbo_slopes(np.zeros((3, 4)), out, value, q, slope)
    assert np.isnan(value[1]) and np.isnan(slope[1]).all() and np.isfinite(value[[0, 2]]).all()


def test_a_row_of_nothing_has_no_softmax() -> None:
    out = np.empty((1, 2))
    log_softmax_rows(np.full((1, 2), -np.inf), out)
    assert np.isnan(out).all()


def test_other_widths_of_floats_stay() -> None:
    assert log_softmax(np.zeros((2, 3), np.float32))[0].dtype == np.float32


@pytest.mark.parametrize("n_rows", [1, ROWS - 1, ROWS + 1, 70])
@pytest.mark.parametrize(("width", "n_states"), [(1, 1), (3, 10), (33, 2)])
def test_the_last_layer_is_its_product_softmax_and_elbo(n_rows: int, width: int, n_states: int) -> None:
    rng = np.random.default_rng(n_rows)
    log_joint, hidden = rng.normal(size=(n_rows, n_states)) - 5.0, rng.normal(size=(n_rows, width))
    layer, counts = rng.normal(size=(width + 1, n_states)), rng.integers(0, 3, n_rows).astype(float)
    log_joint[counts == 0.0] = math.nan  # seen by no sum
    q, d_hidden, d_layer = np.empty(log_joint.shape), np.empty(hidden.shape), np.empty(layer.shape)
    total, scratch = np.empty(1), np.empty((n_states, width))
    elbo_layer(log_joint, hidden, layer, counts, scratch, q, d_hidden, d_layer, total)
    value, own_q, slope = np.empty(n_rows), np.empty(q.shape), np.empty(q.shape)
    logits = hidden @ layer[:-1] + layer[-1]
    log_q = np.empty(q.shape)
    log_softmax_rows(logits, log_q)
    elbo_slopes(log_joint, log_q, value, own_q, slope)
    used = counts > 0.0
    value[~used], slope[~used] = 0.0, 0.0
    # products of H + 1 terms and softmax of S of the same logits, in other orders; H + 1 or N terms on the way back
    size = 1.0 + np.abs(hidden) @ np.abs(layer[:-1]) + np.abs(layer[-1])
    error = (
        (width + 2 * n_states + n_rows + 40)
        * 2.0
        * U
        * float((counts[:, None] * size * np.abs(np.where(used[:, None], log_joint, 0.0) - log_q)).sum())
    )
    assert abs(total[0] - math.fsum((counts * value).tolist())) <= error
    np.testing.assert_allclose(q, counts[:, None] * own_q, rtol=0, atol=error)
    weighted = counts[:, None] * slope
    reach = 1.0 + np.abs(layer).max() + np.abs(hidden).max()
    np.testing.assert_allclose(d_hidden, weighted @ layer[:-1].T, rtol=0, atol=error * reach)
    np.testing.assert_allclose(d_layer[:-1], hidden.T @ weighted, rtol=0, atol=error * reach)
    np.testing.assert_allclose(d_layer[-1], weighted.sum(axis=0), rtol=0, atol=error * reach)
