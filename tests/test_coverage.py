"""Missed mass, its curve, and modes: against multiple precision and against plain loops over neighbors."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from exact_tables import DIGITS, distribution, mpf

import elbo_exact as ee
from elbo_exact.anatomy import missed_mass, mode_coverage
from elbo_exact.errors import LogTableError

INF = math.inf
LEVELS = [1e-6, 0.01, 0.5, 1.0, 3.0]


@pytest.mark.parametrize("seed", range(40))
def test_missed_mass_and_curve_within_their_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 10))
    a, b = rng.normal(0.0, 3.0, n) + rng.choice([0.0, 1e6]), rng.normal(0.0, 3.0, n)
    b[rng.random(n) < 0.3] = -INF
    b[0] = 0.0
    result = missed_mass(a, b, LEVELS, unnormalized=True)
    with mpmath.workdps(DIGITS):
        p, q = distribution(a), distribution(b)
        missed = mpmath.fsum(x for x, y in zip(p, q, strict=True) if y == 0)
        assert abs(mpf(float(result.missed)) - missed) <= result.error.missed
        for level, value, bound in zip(LEVELS, result.curve, result.error.curve, strict=True):
            exact = mpmath.fsum(x for x, y in zip(p, q, strict=True) if y < mpf(level) * x)
            assert abs(mpf(float(value)) - exact) <= bound
            assert bound < 1e-8 or level == 1.0  # only equal distributions stand on an edge
    assert np.all(np.diff(result.curve) >= -1e-12) and result.curve[0] >= result.missed - 1e-12


def test_states_on_the_edge_are_in_the_bound() -> None:
    """p uniform on m states and q on k of them: q = (m/k) p exactly, so q < (m/k) p only where q misses."""
    wrong = 0
    for m in range(3, 40):
        for k in (x for x in (1, 2, 4, 8, 16) if x < m):  # powers of two: the threshold is a double
            result = missed_mass(np.zeros(m), np.where(np.arange(m) < k, 0.0, -INF), [m / k], unnormalized=True)
            exact = Fraction(m - k, m)
            assert abs(Fraction(float(result.curve[0])) - exact) <= Fraction(float(result.error.curve[0]))
            wrong += result.curve[0] > 0.999 and k > 1
    assert wrong > 0  # else this test tests nothing


def test_rows_without_a_posterior_and_batches() -> None:
    q = np.log([[0.5, 0.5], [0.9, 0.1]])
    result = missed_mass([[-INF, -INF], [0.0, 0.0]], q)
    assert math.isnan(result.missed[0]) and np.isnan(result.curve[0]).all() and result.missed[1] == 0.0
    assert result.curve.shape == (2, 4) and result.error.curve.shape == (2, 4)
    alone = missed_mass([0.0, 0.0], q[1])
    np.testing.assert_array_equal(alone.curve, result.curve[1])
    assert isinstance(alone.missed, np.float64)
    json.dumps(alone.to_dict())


@pytest.mark.parametrize("levels", [[0.0], [-1.0], [INF], [[1.0]], [math.nan]])
def test_thresholds_are_positive_numbers(levels: list[float]) -> None:
    with pytest.raises(LogTableError, match="thresholds must be a list of positive numbers"):
        missed_mass([0.0, 0.0], np.log([0.5, 0.5]), levels)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 4), (5,), (2, 1, 3)])
def test_modes_are_the_states_without_a_better_neighbor(seed: int, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    n = math.prod(sizes)
    a = np.where(rng.random(n) < 0.2, -INF, rng.integers(-3, 4, n).astype(float))  # ties and impossible states
    a[rng.integers(n)] = 1.0
    b = np.asarray(ee.log_posterior(rng.normal(size=n)))
    states = list(itertools.product(*map(range, sizes)))

    def neighbors(y: tuple[int, ...], z: tuple[int, ...]) -> bool:
        return sum(u != v for u, v in zip(y, z, strict=True)) == 1

    modes = {
        y for i, y in enumerate(states) if a[i] > -INF and all(a[j] <= a[i] for j, z in enumerate(states) if neighbors(y, z))
    }
    result = mode_coverage(a, b, ee.LatentSpace(sizes))
    assert {tuple(state) for state in result.states.tolist()} == modes and len(result.states) == len(modes)
    with mpmath.workdps(DIGITS):
        for name, exact in (("p_mass", distribution(a)), ("q_mass", distribution(b))):
            for state, value, bound in zip(
                result.states.tolist(), getattr(result, name), getattr(result.error, name), strict=True
            ):
                assert abs(mpf(float(value)) - exact[states.index(tuple(state))]) <= bound
    assert np.all(np.diff(result.p_mass) <= 0.0)
    assert len({len(line) for line in str(result).splitlines()}) == 1
    json.dumps(result.to_dict())


def test_modes_need_one_row_and_a_posterior() -> None:
    space = ee.LatentSpace((2,))
    with pytest.raises(LogTableError, match="the states of space"):
        mode_coverage(np.zeros((2, 2)), np.log([0.5, 0.5]), space)
    with pytest.raises(ee.ZeroEvidence):
        mode_coverage([-INF, -INF], np.log([0.5, 0.5]), space)


def test_no_rows_give_no_results() -> None:
    result = missed_mass(np.empty((2, 0, 3)), np.log([0.2, 0.3, 0.5]), LEVELS)
    assert result.missed.shape == (2, 0) and result.curve.shape == result.error.curve.shape == (2, 0, len(LEVELS))


def test_mode_coverage_takes_one_row_over_a_space() -> None:
    log_q = np.log([0.25] * 4)
    with pytest.raises(LogTableError, match=r"log_q must have shape \(4,\), the states of space; got \(1, 4\)"):
        mode_coverage(np.zeros(4), [log_q], ee.LatentSpace((2, 2)))
    with pytest.raises(TypeError, match=r"space must be a LatentSpace; got \(2, 2\)"):
        mode_coverage(np.zeros(4), log_q, (2, 2))  # type: ignore[arg-type]
