"""M-projection and total correlation against multiple precision, to full relative precision near independence."""

from __future__ import annotations

import itertools
import json
import math

import mpmath
import numpy as np
import pytest
from exact_tables import DIGITS, distribution, kl, marginals, mpf, product

import elbo_exact as ee
from elbo_exact.errors import LogTableError
from elbo_exact.projection import mean_field, moment_projection, total_correlation

INF = math.inf


def case(seed: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Tables that are wild, nearly independent, with impossible states, or with marginals far below the range of doubles."""
    rng = np.random.default_rng(seed)
    sizes = [(2, 2), (3, 2, 2), (4, 3), (5,), (2, 1, 2)][rng.integers(5)]
    n = math.prod(sizes)
    a = rng.normal(0.0, [2.0, 300.0][seed % 2], n) + rng.choice([0.0, 1e5])
    if seed % 3 == 0:
        parts = [rng.normal(size=size) for size in sizes]
        a = sum(np.meshgrid(*parts, indexing="ij")).ravel() + 10.0 ** rng.uniform(-9.0, -2.0) * rng.normal(size=n)
    if seed % 4 == 0:
        a[rng.random(n) < 0.3] = -INF
        a[0] = 0.0
    return a, sizes


@pytest.mark.parametrize("seed", range(60))
def test_total_correlation_within_its_bound(seed: int) -> None:
    a, sizes = case(seed)
    space, states = ee.LatentSpace(sizes), list(itertools.product(*map(range, sizes)))
    result = moment_projection(a, space)
    with mpmath.workdps(900 if seed % 2 else DIGITS):
        p = distribution(a)
        own = marginals(p, states, sizes)
        exact = kl(p, product(own, states))
        assert abs(mpf(result.forward_kl) - exact) <= result.error.forward_kl
        if len(sizes) > 1:  # entropies: the definition of Watanabe
            entropies = [-mpmath.fsum(x * mpmath.log(x) for x in law if x > 0) for law in (*own, p)]
            assert abs(mpmath.fsum(entropies[:-1]) - entropies[-1] - exact) < mpf(10) ** (5 - DIGITS)
    assert 0.0 <= result.forward_kl < INF and total_correlation(a, space) == result.forward_kl
    for factor, plain in zip(result.log_factors, ee.posterior_marginals(a, space), strict=True):
        np.testing.assert_allclose(np.exp(factor), plain, rtol=0.0, atol=1e-9)


def test_the_precision_is_relative_near_independence() -> None:
    rng = np.random.default_rng(4)
    a = np.add.outer(rng.normal(size=4), rng.normal(size=4)).ravel() + 1e-6 * rng.normal(size=16)
    result = moment_projection(a, ee.LatentSpace((4, 4)))
    assert 1e-14 < result.forward_kl < 1e-11
    assert result.error.forward_kl < 1e-6 * result.forward_kl  # a difference of entropies knows 1e-15, not one digit


@pytest.mark.parametrize("seed", range(30))
def test_no_product_has_a_smaller_forward_divergence(seed: int) -> None:
    a, sizes = case(4 * seed + 1)
    space, rng = ee.LatentSpace(sizes), np.random.default_rng(seed)
    result = moment_projection(a, space)
    moved = [factor + 1e-3 * rng.normal(size=factor.size) for factor in result.log_factors]
    other = sum(np.meshgrid(*moved, indexing="ij")).ravel()
    audit = ee.audit(a, other, unnormalized=True)
    assert audit.forward_kl >= result.forward_kl - result.error.forward_kl - audit.error.forward_kl
    best = mean_field(a, space, restarts=0, start=result.log_q).best
    reverse = ee.audit(a, result.log_q, unnormalized=True)
    assert reverse.gap >= best.gap  # the M-projection was its start


@pytest.mark.parametrize("seed", range(40))
def test_marginals_are_no_farther_apart_than_joints(seed: int) -> None:
    rng = np.random.default_rng([5, seed])
    space = ee.LatentSpace((3, 4))
    a, b = rng.normal(0.0, 2.0, 12), rng.normal(0.0, 2.0, 12)
    joint = ee.audit(a, b, unnormalized=True)
    for p, q in zip(moment_projection(a, space).log_factors, moment_projection(b, space).log_factors, strict=True):
        part = ee.audit(p, q, unnormalized=True)
        slack = 2.0**-45  # marginals of 12 states: some 40 u, times a log ratio of a few nats
        assert part.gap <= joint.gap + joint.error.gap + part.error.gap + slack
        assert part.forward_kl <= joint.forward_kl + joint.error.forward_kl + part.error.forward_kl + slack


def test_an_impossible_value_has_no_marginal_and_costs_nothing() -> None:
    result = moment_projection([0.0, 0.0, -INF, -INF], ee.LatentSpace((2, 2)))
    assert (
        result.log_factors[0].tolist() == [0.0, -INF] and result.forward_kl <= result.error.forward_kl < 1e-27
    )  # squares of some 100 u
    json.dumps(result.to_dict())


def test_refusals() -> None:
    with pytest.raises(LogTableError, match="log_joint must have shape"):
        moment_projection(np.zeros(3), ee.LatentSpace((2, 2)))
    with pytest.raises(ee.ZeroEvidence):
        total_correlation([-INF] * 4, ee.LatentSpace((2, 2)))
