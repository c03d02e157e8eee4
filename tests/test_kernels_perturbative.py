"""Perturbative bounds against 60-digit arithmetic, and the remainder of the exponential series."""

from __future__ import annotations

import bound_oracle as oracle
import mpmath
import numba
import numpy as np
import pytest

from elbo_exact._bound_results import Options, perturbative_results
from elbo_exact.kernels.perturbative import remainder_factor

U = 2.0**-53


@numba.njit
def call(k: int, u: float) -> float:
    """Device functions have no entry from Python."""
    return remainder_factor(k, u)


@pytest.mark.parametrize("k", [0, 1, 3, 8, 21])
@pytest.mark.parametrize("u", [-500.0, -40.0, -23.0, -5.0, -4.9, -3.0, -1.0, -1e-3, 0.0, 1e-9, 0.5, 3.0, 30.0, 300.0])
def test_remainder_factor(k: int, u: float) -> None:
    with mpmath.workdps(400):
        exact = mpmath.hyp1f1(1, k + 2, mpmath.mpf(u))
        assert abs(mpmath.mpf(call(k, u)) / exact - 1) <= (10 + 2 * k) * U + (2 * abs(u) * U if u > 0 else 0)


@pytest.mark.parametrize("seed", range(40))
def test_values_lie_within_their_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 3, 8, 20]))
    a = rng.normal(0.0, rng.choice([1.0, 5.0, 40.0]), n) + rng.choice([0.0, 1e9])
    b = rng.normal(0.0, 2.0, n) if seed % 2 else a + 10.0 ** rng.uniform(-9, -1) * rng.normal(size=n)
    with mpmath.workdps(oracle.DIGITS):
        for order in (3, 5, 11):
            result = perturbative_results(a, b, order, Options(True))
            gap = oracle.log_evidence(a) - oracle.perturbative(a, b, order)
            assert abs(mpmath.mpf(float(result.gap[0])) - gap) <= result.gap_error[0] + mpmath.mpf(10) ** -45
            assert result.gap_error[0] < 1e-9 * (1.0 + result.gap[0])


@pytest.mark.parametrize("order", [3, 5, 101, 301, 801, 999])
@pytest.mark.parametrize("size", [40.0, 400.0, 1e3, 1e14, 1e16, 1e60, 1e200])
def test_log_ratios_may_be_any_distance_apart(size: float, order: int) -> None:
    rng = np.random.default_rng(3)
    a, b = size * rng.normal(size=5), rng.normal(size=5)
    digits = 60 + 3 * int(np.log10(size)) + (order if size < 1e3 else 0)  # small gaps of high orders are tiny
    with mpmath.workdps(digits):
        result = perturbative_results(a, b, order, Options(True))
        pairs = oracle.weights(a, b)
        low, high = -max(x for _, x in pairs), -min(x for _, x in pairs)
        for _ in range(int(3.3 * digits)):
            v = (low + high) / 2
            low, high = (v, high) if mpmath.fsum(q * (v + x) ** order for q, x in pairs) < 0 else (low, v)
        total = mpmath.fsum(q * (v + x) ** k / mpmath.factorial(k) for q, x in pairs for k in range(order + 1))
        gap = oracle.log_evidence(a) + v - mpmath.log(total)
        assert abs(mpmath.mpf(float(result.gap[0])) - gap) <= result.gap_error[0]
        assert result.gap_error[0] < 1e-8 * (1.0 + float(gap))  # says something


def test_beyond_doubles_nothing_is_claimed() -> None:
    result = perturbative_results([0.0, 1e308, -1e308], [0.0, -1e308, 1e308], 3, Options(True))
    assert result.value[0] == -np.inf and result.value_error[0] == np.inf
