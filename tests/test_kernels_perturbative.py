"""Perturbative bounds against 60-digit arithmetic, and the remainder of the exponential series."""

from __future__ import annotations

import math

import bound_oracle as oracle
import flint
import mpmath
import numba
import numpy as np
import pytest

from elbo_exact._bound_results import Options, perturbative_results
from elbo_exact.kernels.perturbative_logs import POLYNOMIAL, REMAINDER, log_value

U = 2.0**-53


@numba.njit
def call(is_polynomial: bool, k: float, u: float) -> tuple[float, float]:
    """Device functions have no entry from Python."""
    return log_value(POLYNOMIAL if is_polynomial else REMAINDER, k, u)


PLACES = [x for size in (1e-9, 0.3, 0.9, 0.999, 1.0, 1.01, 1.3, 4.0, 1e3, 1e9) for x in (-size, size)]


def exact_log(k: int, u: float) -> flint.arb:
    """log T_k(u) for an even k, log R_k(u) for an odd one."""
    reach = min(abs(u), 1e4)  # beyond, neither exp(u) nor the polynomial takes digits from the other
    with flint.ctx.workprec(400 + int(4.0 * reach + (k + 1) * max(0.0, math.log2(k / abs(u))))):
        x, total = flint.arb(u), flint.arb(1)
        for j in range(k, 0, -1):
            total = 1 + total * x / j
        if k % 2 == 0:
            return total.log()
        return (x.exp() - total).log() if abs(u) <= 1e4 or u < 0.0 else x


@pytest.mark.parametrize("k", [2, 3, 4, 7, 22, 23, 24, 171, 998, 2001])
def test_polynomials_and_remainders_of_exp(k: int) -> None:
    """At multiples of the degree, where neither the remainder nor the polynomial is small; T of even degree, R of odd."""
    for u in (place * k for place in PLACES):
        value, bound = call(k % 2 == 0, float(k), u)
        assert abs(flint.arb(value) - exact_log(k, u)) <= bound, (u, value)
        assert bound <= (30.0 + 3.0 * k) * U * (1.0 + abs(value))


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


def check(a: list[float], b: list[float], order: int, digits: int) -> None:
    """A bound against bisection and Horner's rule in many digits."""
    bits = int(3.33 * digits)
    with flint.ctx.workprec(bits):
        log_a, log_b = ([flint.arb(x) for x in table] for table in (a, b))
        evidence, normalizer = (sum((x.exp() for x in logs), flint.arb(0)).log() for logs in (log_a, log_b))
        weights = [(x - normalizer).exp() for x in log_b]
        ratios = [((x - evidence) - (y - normalizer)).mid() for x, y in zip(log_a, log_b, strict=True)]
        low, high = -max(ratios), -min(ratios)
        for _ in range(bits):
            v = ((low + high) / 2).mid()
            mean = sum((w * (v + x) ** order for w, x in zip(weights, ratios, strict=True)), flint.arb(0))
            low, high = (v, high) if mean.mid() < 0 else (low, v)
        sums = [flint.arb(1) for _ in ratios]
        for k in range(order, 0, -1):
            sums = [1 + total * (v + x) / k for total, x in zip(sums, ratios, strict=True)]
        gap = v - sum((w * total for w, total in zip(weights, sums, strict=True)), flint.arb(0)).log()
        result = perturbative_results(a, b, order, Options(True))
        assert abs(float(result.gap[0]) - gap) <= result.gap_error[0]
        assert result.gap_error[0] < 1e-8 * (1.0 + float(gap))  # says something


@pytest.mark.parametrize("order", [3, 5, 101, 301, 801, 999])
@pytest.mark.parametrize("size", [40.0, 400.0, 1e3, 1e14, 1e16, 1e60, 1e200])
def test_log_ratios_may_be_any_distance_apart(size: float, order: int) -> None:
    rng = np.random.default_rng(3)
    a, b = (size * rng.normal(size=5)).tolist(), rng.normal(size=5).tolist()
    check(
        a, b, order, 60 + 3 * int(np.log10(size)) + (order if size <= 1e3 else order // 50)
    )  # small gaps of high orders are tiny


@pytest.mark.parametrize(("order", "size"), [(1001, 200.0), (1001, 1e3), (2001, 1e16), (20001, 1e4), (20001, 1e60)])
def test_orders_may_be_high(size: float, order: int) -> None:
    rng = np.random.default_rng(order)
    check(
        (size * rng.normal(size=4)).tolist(),
        rng.normal(size=4).tolist(),
        order,
        60 + 3 * int(np.log10(size)) + (order if size <= 1e3 else order // 50),
    )


@pytest.mark.parametrize("order", [3, 7, 41, 1001])
@pytest.mark.parametrize("depth", [600.0, 730.0, 744.0, 900.0, 1e5])
def test_states_count_whose_q_is_below_every_double(depth: float, order: int) -> None:
    check([0.0, -1.0, -0.5, -depth], [-0.3, -2.0, -depth, 0.0], order, 100 + order)


@pytest.mark.parametrize("order", [3, 5, 9, 31])
@pytest.mark.parametrize(("scale", "share"), [(5.0, 0.9), (30.0, 0.9), (300.0, 0.9), (300.0, 1.0), (300.0, 0.0)])
def test_blurred_posteriors(scale: float, share: float, order: int) -> None:
    """Small remainders near zero beside large ones, whatever the weights of q reach; also the relative precision of the gap."""
    rng = np.random.default_rng(order)
    for n in (30, 65):
        a = scale * rng.normal(size=n)
        b = share * a + rng.normal(size=n) * (300.0 if share == 0.0 else 0.1)
        check(a.tolist(), b.tolist(), order, 300 + 2 * order)
        result = perturbative_results(a, b, order, Options(True))
        assert result.gap_error[0] <= 2.0**-30 * result.gap[0] + U * U


def test_equal_tables_have_no_gap_at_any_order() -> None:
    for order in (3, 999, 1001, 2**53 - 1):
        result = perturbative_results([-1.0, -2.0, -2.0], [-1.0, -2.0, -2.0], order, Options(True))
        assert result.gap[0] <= result.gap_error[0] < 1e-15


def test_beyond_doubles_nothing_is_claimed() -> None:
    result = perturbative_results([0.0, 1e308, -1e308], [0.0, -1e308, 1e308], 3, Options(True))
    assert result.value[0] == -np.inf and result.value_error[0] == np.inf
