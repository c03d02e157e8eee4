"""Points of the geometric path against 60-digit arithmetic: means, variances, divergences between neighbors."""

from __future__ import annotations

import bound_oracle as oracle
import mpmath
import numpy as np
import pytest

from elbo_exact._bound_results import Options, tvo_results
from elbo_exact._validate import temperatures
from elbo_exact.bounds import thermodynamic, tvo

OWN = mpmath.mpf(10) ** -45  # the rounding of the oracle itself, at offsets of 1e9
SCHEDULES = (temperatures(1), temperatures(4), np.array([0.0, 1e-6, 0.3, 0.9999, 1.0]))


def tables(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Loose, tight, wide, offset, or with zeros in common."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 3, 7, 64, 65, 130]))
    kind = seed % 6
    a = rng.normal(0.0, (3.0, 2.0, 60.0, 2.0, 300.0, 3.0)[kind], n)
    b = rng.normal(0.0, 3.0, n) if kind in (0, 2, 4, 5) else a + 10.0 ** rng.uniform(-14, -2) * rng.normal(size=n)
    if kind == 3:
        a = a + 1e9
    if kind == 5:
        hit = rng.random(n) < 0.4
        hit[rng.integers(n)] = False
        a, b = np.where(hit, -np.inf, a), np.where(hit, -np.inf, b)
    return a, b


@pytest.mark.parametrize("seed", range(60))
def test_values_lie_within_their_bounds(seed: int) -> None:
    a, b = tables(seed)
    with mpmath.workdps(oracle.DIGITS):
        exact = oracle.log_evidence(a)
        for betas in SCHEDULES:
            for side, sign in (("lower", 1), ("upper", -1)):
                result = tvo_results(a, b, betas, side, False, Options(True))
                gap = sign * (exact - oracle.tvo(a, b, betas, side))
                assert abs(mpmath.mpf(float(result.gap[0])) - gap) <= result.gap_error[0] + OWN
                assert abs(mpmath.mpf(float(result.value[0])) - (exact - sign * gap)) <= result.value_error[0] + OWN
            path = thermodynamic(a, b, betas, unnormalized=True)
            for k, beta in enumerate(betas):
                mean, variance = oracle.path_mean(a, b, beta)
                assert abs(mpmath.mpf(float(path.integrand[k])) - mean) <= path.error.integrand[k] + OWN
                assert abs(mpmath.mpf(float(path.variance[k])) - variance) <= path.error.variance[k] + OWN


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
def test_gaps_keep_their_relative_precision_near_the_posterior(size: float) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=50)
    result = tvo_results(a, a + size * rng.normal(size=50), temperatures(10), "lower", False, Options(True))
    assert 0.0 < result.gap[0] < size**2
    assert result.gap_error[0] < 1e-12 * result.gap[0] + 2.0**-50 * result.gap[0] / size


def test_long_rows_have_the_bits_of_their_parts() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 2**17 + 5))
    whole = thermodynamic(a, b, temperatures(80), unnormalized=True)
    parts = thermodynamic(a, b, temperatures(80)[63:65], unnormalized=True)
    assert (whole.integrand[63:65] == parts.integrand).all()
    top = a.max()
    w = np.exp(b - b.max() + 0.8 * (a - b))
    mean = np.sum(w * (a - b)) / w.sum() + np.log(np.exp(b).sum())
    assert abs(whole.integrand[64] - mean) < 1e-12 * (1 + abs(top))


def test_batches_and_executors_do_not_change_a_bit() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 9, 70))
    together = tvo(a, b, 7, unnormalized=True)
    assert (together == [tvo(x, y, 7, unnormalized=True) for x, y in zip(a, b, strict=True)]).all()
