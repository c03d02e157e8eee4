"""ELBO terms and the gradient of the ELBO, against ball arithmetic, complex steps and exact zeros."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import oracle
import pytest
from arb_oracle import Reference
from flint import arb, ctx
from hypothesis import given
from table_families import FAMILIES
from table_strategies import relation, tables

import elbo_exact as ee

Array = npt.NDArray[np.float64]
U, INF = 2.0**-53, math.inf
COMPLEX_STEP_FAMILIES = ("random_3", "float32_valued", "zeros_of_q", "zeros_of_both", "one_dominant_state")  # q far from p
ARB_FAMILIES = (
    "random_3", "random_300", "tight_0.001", "tight_1e-09", "tight_1e-12", "offset_1e09", "logits_shifted", "zeros_of_q",
    "shared_zeros", "missing_mass_300", "one_state", "range_600", "one_dominant_state", "float32_valued", "ties",
)  # fmt: skip


def normalized(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Log probabilities, to rounding."""
    x = rng.normal(size=shape) * 2.0
    return x - ee.log_evidence(x)[..., None]


@pytest.mark.parametrize("size", [1, 2, 9, 64, 300])
def test_terms_are_the_elbo_of_the_joint(size: int) -> None:
    """reconstruction - KL = ELBO - log(prior mass). Tolerance: the bounds of the KL and of the ELBO, the cross entropy's own
    (4u size |x| at most, size-free), and the rounding of likelihood + prior, u |a| for every state, which E_q averages."""
    rng = np.random.default_rng(size)
    likelihood, prior, log_q = rng.normal(size=(3, size)) * 5.0, normalized(rng, (3, size)), normalized(rng, (3, size))
    reconstruction, kl = ee.elbo_terms(likelihood, prior, log_q)
    joint, to_prior = ee.audit(likelihood + prior, log_q), ee.audit(prior, log_q)
    mass = to_prior.log_evidence
    largest = np.abs(likelihood).max(-1)
    slack = joint.error.elbo + to_prior.error.gap + to_prior.error.log_evidence
    slack += (
        U * np.abs(likelihood + prior).max(-1) + 20.0 * U * largest + 3.0 * U * (np.abs(reconstruction) + kl + np.abs(mass))
    )
    assert (np.abs((reconstruction - kl) + mass - joint.elbo) <= slack).all()
    np.testing.assert_array_equal(kl, ee.reverse_kl(prior, log_q))
    np.testing.assert_array_equal(reconstruction, -ee.cross_entropy(likelihood, log_q))


def test_terms_of_an_impossible_likelihood_and_of_a_broadcast_prior() -> None:
    log_q, prior = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    reconstruction, kl = ee.elbo_terms([[0.0, -INF], [0.0, 0.0]], prior, log_q)
    np.testing.assert_array_equal(reconstruction, [-INF, 0.0])
    assert kl.shape == ()
    assert kl == ee.reverse_kl(prior, log_q)


def test_elbo_and_eubo_are_those_of_the_audit() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 4, 30))
    audited = ee.audit(a, b, unnormalized=True)
    np.testing.assert_array_equal(ee.elbo(a, b, unnormalized=True), audited.elbo)
    np.testing.assert_array_equal(ee.eubo(a, b, unnormalized=True), audited.eubo)


@pytest.mark.parametrize("family", COMPLEX_STEP_FAMILIES)
def test_the_gradient_agrees_with_a_complex_step(family: str) -> None:
    """A complex step of 1e-200 has no truncation error; what is left is the rounding of the naive sums, 1e-13 of the largest
    entry, or of the naive sum's own largest term max q |a - b| where the gradient is smaller than that."""
    rng = np.random.default_rng(len(family))
    for _ in range(6):
        a, b = FAMILIES[family](rng)
        possible = np.flatnonzero(b > -INF)
        if family == "zeros_of_both":
            a = np.where(b > -INF, np.where(a > -INF, a, 0.0), a)
        gradient, numbers = ee.elbo_gradient(a, b), a.tolist()
        assert np.isfinite(gradient).all()
        steps = np.zeros(b.size)
        kept, fixed = [numbers[z] for z in possible], b[possible].tolist()
        for k, z in enumerate(possible):
            steps[z] = oracle.derivative(lambda logits, kept=kept: oracle.elbo(kept, logits), fixed, k)
        q = np.array(oracle.posterior(fixed))
        naive = float((q * np.abs(np.array(kept) - np.array(fixed))).max())
        assert np.abs(gradient - steps).max() <= 1e-13 * max(np.abs(gradient).max(), naive), (a, b)


@pytest.mark.parametrize("family", ARB_FAMILIES)
def test_every_entry_of_the_gradient_is_accurate(family: str) -> None:
    """Every ball lies within the returned bound, and the bound is no more than rounding: q (e + gap) in 12u, and the share of the
    pivot and the gap, below 40u (relative to sum q |e| where that is small)."""
    rng = np.random.default_rng(len(family) + 1)
    for _ in range(4):
        a, b = FAMILIES[family](rng)
        (gradient, error), reference = ee.elbo_gradient(a, b, return_error=True), Reference(a, b)
        if not np.isfinite(gradient).all():
            assert ee.gap(a, b, unnormalized=True) == INF
            continue
        gap = float(ee.gap(a, b, unnormalized=True))
        q = ee.posterior(b)
        ratio = np.where(q > 0.0, np.abs(gradient) / np.where(q > 0.0, q, 1.0), 0.0) + 2.0 * gap
        mass = float((q * ratio).sum())  # the pivot's error is relative to sum q |expm1 e|, about sum q |e|
        small = 12.0 * U * q * ratio + 40.0 * U * q * min(1.0, 3.0 * mass) + 4.0 * 2.0**-1074
        for z, exact in enumerate(reference.ball("elbo_gradient", bits=1400)):
            ctx.prec = 1400
            try:
                distance = abs(arb(float(gradient[z])) - exact)
                assert not distance.lower() > arb(float(error[z])), (z, gradient[z], exact, error[z], a, b)
                assert not distance.lower() > arb(float(small[z])), (z, gradient[z], exact, small[z], a, b)
            finally:
                ctx.prec = 53


@given(tables())
@relation
def test_the_gradient_sums_to_zero_and_ignores_constants(pair: tuple[Array, Array]) -> None:
    """q does not change along the ones vector. Each entry is off by at most 12u q (|e| + gap) + 40u q, as above."""
    a, b = pair
    g = ee.elbo_gradient(a, b)
    if np.isnan(g).any():
        return
    q, gap = ee.posterior(b), float(ee.gap(a, b, unnormalized=True))
    size = 12.0 * U * (float(np.abs(g).sum()) + 2.0 * gap) + 40.0 * U * float(q.sum())
    assert abs(math.fsum(g.tolist())) <= size
    np.testing.assert_array_equal(ee.elbo_gradient(a + 512.0, b - 64.0), g)


@pytest.mark.parametrize("offset", [0.0, 64.0, -1024.0])
def test_the_gradient_vanishes_at_the_posterior(offset: float) -> None:
    """With b = a + constant every log ratio is one number; what is left is the pivot's error, a few u of each q."""
    a = np.round(np.random.default_rng(8).normal(size=(5, 40)) * 2.0**20) * 2.0**-20
    g = ee.elbo_gradient(a, a + offset)
    assert (np.abs(g) <= 8.0 * U * ee.posterior(a)).all()


@pytest.mark.parametrize("eps", [1e-3, 1e-6, 1e-9])
def test_the_gradient_does_not_drown_near_the_posterior(eps: float) -> None:
    """First order: g = -q (x - E_q x) for log q = log p + x, |x| <= eps: the second order is at most 2 eps**2 q. x is taken as the
    exact difference of the stored tables."""
    rng = np.random.default_rng(9)
    a = rng.normal(size=30)
    b = a + eps * rng.uniform(-1.0, 1.0, 30)
    x = b - a  # exact by Sterbenz's lemma: b is within a factor 2 of a, or a is small and both are multiples of its unit
    q = np.array(oracle.posterior(b.tolist()))
    expected = -q * (x - float((q * x).sum()))
    assert (np.abs(ee.elbo_gradient(a, b) - expected) <= q * (2.0 * eps**2 + 40.0 * U * eps + 4.0 * U)).all()


def test_missing_states_have_gradient_zero_and_infinite_gaps_none() -> None:
    a = np.array([[0.0, 1.0, 2.0], [0.0, -INF, 1.0], [-INF, -INF, -INF], [0.0, -INF, 1.0]])
    b = np.array([[0.0, -INF, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, -INF, -INF]])
    g = ee.elbo_gradient(a, b)
    assert g[0, 1] == 0.0
    assert np.isfinite(g[0]).all()
    assert np.isnan(g[1]).all()
    assert np.isnan(g[2]).all()
    only = ee.audit(a[3], b[3])  # q is all in one state: its gradient is e + gap = 0, e and their sum rounded once
    assert abs(g[3, 0]) <= only.error.gap + 2.0 * U * only.gap
    np.testing.assert_array_equal(g[3, 1:], [0.0, 0.0])


def test_the_gradient_of_one_table_for_many_rows_and_of_an_empty_batch() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=(4, 7)), rng.normal(size=7)
    np.testing.assert_array_equal(ee.elbo_gradient(a, b), np.stack([ee.elbo_gradient(row, b) for row in a]))
    assert ee.elbo_gradient(np.zeros((0, 3)), np.zeros(3)).shape == (0, 3)
    with pytest.raises(ee.LogTableError, match="log_q sums to 2 "):
        ee.elbo_gradient([0.0, 0.0], [0.0, 0.0], unnormalized=False)


def test_a_step_along_the_gradient_raises_the_elbo() -> None:
    """A hundred plain steps; the gap falls at each because the step 0.5 is below the inverse curvature, which is at most
    the largest |log ratio| + 1 times q, here below 2."""
    a = np.array([0.0, 0.3, -0.2, 0.1])
    b = np.zeros(4)
    gaps = [float(ee.gap(a, b, unnormalized=True))]
    for _ in range(100):
        b = b + 0.5 * ee.elbo_gradient(a, b)
        gaps.append(float(ee.gap(a, b, unnormalized=True)))
    assert all(later <= earlier for earlier, later in itertools.pairwise(gaps))
    assert gaps[-1] < gaps[0] * math.exp(-10.0)  # the slowest rate is 0.5 min q > 0.1 per step in the logits
