"""Renyi bounds of K samples against sums over all K-tuples, and what they are not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import bound_oracle as oracle
import mpmath
import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact import bounds
from elbo_exact._bound_results import Options
from elbo_exact._k_sample import k_sample_results, renyi_sample_results

INF = math.inf
ORDERS = (-2.0, -0.3, 0.0, 0.5, 0.999, 1.0, 1.5, 3.0)


def by_tuples(a: Sequence[float], b: Sequence[float], alpha: float, count: int) -> Any:
    """E log mean_k w_k**(1 - alpha) / (1 - alpha) over all tuples."""
    c, total = 1 - mpmath.mpf(alpha), mpmath.mpf(0)
    for draws in itertools.product(oracle.weights(a, b), repeat=count):
        probability = mpmath.fprod(q for q, _ in draws)
        if c == 0:
            total += probability * mpmath.fsum(x for _, x in draws) / count
        else:
            total += probability * mpmath.log(mpmath.fsum(mpmath.exp(c * x) for _, x in draws) / count) / c
    return total


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_values_lie_within_their_bounds(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(0.0, 2.0, 4) + (0.0, 1e6, -40.0)[seed % 3]
    b = rng.normal(0.0, 1.0, 4) if seed % 2 else a + 1e-4 * rng.normal(size=4)
    with mpmath.workdps(oracle.DIGITS):
        exact = oracle.log_evidence(a)
        for alpha in ORDERS:
            found, value = renyi_sample_results(a, b, alpha, count, Options(True)), by_tuples(a, b, alpha, count)
            assert found.side == ("estimate" if alpha < 0.0 and count > 1 else "lower")
            assert abs(mpmath.mpf(float(found.value[0])) - value) <= found.value_error[0]
            assert abs(mpmath.mpf(float(found.gap[0])) - (exact - value)) <= found.gap_error[0]


@pytest.mark.parametrize("seed", range(10))
def test_they_move_from_the_elbo_to_the_renyi_bound(seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 6))
    for alpha in ORDERS:
        rungs = [renyi_sample_results(a, b, alpha, count, Options(True)) for count in (1, 2, 5, 50, 10**6)]
        sign = 1.0 if alpha < 1.0 else -1.0
        limit = bounds.renyi(a, b, alpha, unnormalized=True)
        for low, high in itertools.pairwise(rungs):
            allowed = low.value_error[0] + high.value_error[0]
            assert sign * (high.value[0] - low.value[0]) >= -allowed
        assert sign * (limit - rungs[-1].value[0]) >= -rungs[-1].value_error[0] - 1e-15 * abs(limit)
    assert bounds.renyi(a, b, 0.0, num_samples=7, unnormalized=True) == bounds.iwae(a, b, 7, unnormalized=True)


def test_f12_k_samples_give_no_upper_bound() -> None:
    a, b = np.log([0.98, 0.02]), np.log([0.3, 0.7])
    for n in (1.5, 2.0, 5.0):
        assert bounds.cubo(a, b, n) > 0.0
        assert bounds.renyi(a, b, 1.0 - n, num_samples=1) == bounds.elbo(a, b) < ee.log_evidence(a)
        assert bounds.renyi(a, b, 1.0 - n, num_samples=2) < 0.0


def test_edges() -> None:
    wasted = [-1.0, -2.0, -INF], np.log([0.3, 0.3, 0.4])
    missed = np.log([0.1, 0.2, 0.3]), [math.log(0.5), math.log(0.5), -INF]
    for alpha in ORDERS:
        assert bounds.renyi(*wasted, alpha, num_samples=3) == -INF
        assert bounds.renyi([-INF, -INF], np.log([0.5, 0.5]), alpha, num_samples=3) == -INF
        with mpmath.workdps(30):
            found = renyi_sample_results(*missed, alpha, 3, Options())
            value = by_tuples(missed[0][:2], missed[1][:2], alpha, 3)
            assert abs(mpmath.mpf(float(found.value[0])) - value) <= found.value_error[0] + mpmath.mpf(10) ** -25
    assert renyi_sample_results(*wasted, 0.5, 3, Options()).value_error[0] == 0.0
    with pytest.raises(ValueError, match="alpha must be finite where num_samples is given; got inf"):
        bounds.renyi(*missed, INF, num_samples=2)
    with pytest.raises(ValueError, match="num_samples must be an integer >= 1"):
        bounds.renyi(*missed, 0.5, num_samples=0)


def test_batches() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(3, 1, 4)), rng.normal(size=(2, 4))
    b -= np.log(np.exp(b).sum(axis=-1, keepdims=True))
    for alpha in (-1.0, 0.5, 2.0):
        whole = bounds.renyi(a, b, alpha, num_samples=4)
        assert whole.shape == (3, 2)
        assert all(whole[i, j] == bounds.renyi(a[i, 0], b[j], alpha, num_samples=4) for i in range(3) for j in range(2))
    assert k_sample_results(a, b, 4, "lower", Options()).batch == (3, 2)
