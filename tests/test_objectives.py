"""Objectives against naive definitions: values, and derivatives by the complex step, which subtracts nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.fit import Outcome, fit_vi, gradients
from elbo_exact.fit.objectives import Elbo, ForwardKL, ImportanceWeighted, Renyi, ReweightedWakeSleep, Thermodynamic
from elbo_exact.fit.optimizers import Adam
from elbo_exact.guides import Amortized, Free, MeanField
from elbo_exact.models import Mixture

S, STEP = 4, 1e-40
RNG = np.random.default_rng(8)
LOG_JOINT, LOGITS = RNG.normal(size=(5, S)) * 2.0, RNG.normal(size=(5, S))
LOG_Q = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
ROUNDING = 2.0**-44  # five hundred roundings of numbers below 10: tables of four states, K-sample sums of at most 64 terms


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum())


def elbo(a, b):
    return (np.exp(b) * (a - b)).sum()


def renyi(alpha):
    return lambda a, b: np.log((np.exp(b) * np.exp((1.0 - alpha) * (a - b))).sum()) / (1.0 - alpha)


def thermodynamic(steps):
    def value(a, b):
        total = 0.0
        for k in range(steps):
            weights = np.exp(b + k / steps * (a - b))
            total = total + (weights / weights.sum() * (a - b)).sum() / steps
        return total

    return value


def importance(samples):
    def value(a, b):
        total = 0.0
        for drawn in itertools.product(range(S), repeat=samples):
            z = list(drawn)
            total = total + np.exp(b[z]).prod() * np.log(np.exp(a[z] - b[z]).mean())
        return total

    return value


def law(a, b, samples):
    """Of a state resampled from weighted draws."""
    found = np.zeros(S)
    for drawn in itertools.product(range(S), repeat=samples):
        z = list(drawn)
        weights = np.exp(a[z] - b[z])
        np.add.at(found, z, np.exp(b[z]).prod() * weights / weights.sum())
    return found


ONE = {
    "elbo": (Elbo(), elbo),
    "renyi 0.5": (Renyi(0.5), renyi(0.5)),
    "renyi 2": (Renyi(2.0), renyi(2.0)),
    "renyi near 1": (Renyi(1.0 - 2.0**-30), None),
    "thermodynamic 1": (Thermodynamic(1), thermodynamic(1)),
    "thermodynamic 5": (Thermodynamic(5), thermodynamic(5)),
    "importance 1": (ImportanceWeighted(1), importance(1)),
    "importance 3": (ImportanceWeighted(3), importance(3)),
}


def derivative(function, point, place):
    moved = point.astype(complex)
    moved[place] += 1j * STEP
    return function(moved).imag / STEP


@pytest.mark.parametrize("name", [name for name, (_, naive) in ONE.items() if naive is not None])
def test_values_and_derivatives_are_those_of_the_definition(name):
    objective, naive = ONE[name]
    found = objective(LOG_JOINT, LOG_Q)
    for n, (a, logits) in enumerate(zip(LOG_JOINT, LOGITS, strict=True)):
        b = log_softmax(logits)
        assert abs(found.value[n] - naive(a, b)) <= ROUNDING + found.error[n]
        for z in range(S):
            in_model = derivative(lambda t, b=b: naive(t, b), a, z)
            in_guide = derivative(lambda t, a=a: naive(a, log_softmax(t)), logits, z)
            assert abs(found.model[n, z] - in_model) <= ROUNDING
            assert abs(found.guide[n, z] - in_guide) <= ROUNDING


@pytest.mark.parametrize("objective", [objective for objective, _ in ONE.values()] + [ForwardKL(), ReweightedWakeSleep(4)])
def test_weights_of_the_model_sum_to_one_and_slopes_of_the_guide_to_zero(objective):
    """A constant added to log p(x, z) is added to the value; one added to the logits changes nothing."""
    found = objective(LOG_JOINT, LOG_Q)
    np.testing.assert_allclose(found.model.sum(axis=1), 1.0, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(found.guide.sum(axis=1), 0.0, rtol=0, atol=ROUNDING)
    moved = objective(LOG_JOINT + 3.0, LOG_Q)
    np.testing.assert_allclose(moved.value, found.value + 3.0, rtol=0, atol=ROUNDING)


def test_wake_sleep_weights_are_the_law_and_the_posterior():
    for samples in (1, 2, 3):
        found = ReweightedWakeSleep(samples)(LOG_JOINT, LOG_Q)
        for n in range(5):
            expected = law(LOG_JOINT[n], LOG_Q[n], samples)
            np.testing.assert_allclose(found.model[n], expected, rtol=0, atol=ROUNDING)
            np.testing.assert_allclose(found.guide[n], expected - np.exp(LOG_Q[n]), rtol=0, atol=ROUNDING)
    forward = ForwardKL()(LOG_JOINT, LOG_Q)
    np.testing.assert_allclose(forward.model, ee.posterior(LOG_JOINT), rtol=0, atol=ROUNDING)
    limit = ReweightedWakeSleep(10**9)(LOG_JOINT, LOG_Q)
    np.testing.assert_allclose(limit.guide, forward.guide, rtol=0, atol=1e-6)  # chi2/K, and chi2 is below 1000 here
    np.testing.assert_allclose(ReweightedWakeSleep(1)(LOG_JOINT, LOG_Q).guide, 0.0, atol=ROUNDING)


def test_limits_are_the_elbo():
    reference = Elbo()(LOG_JOINT, LOG_Q)
    near = Renyi(1.0 - 2.0**-30)(LOG_JOINT, LOG_Q)
    variance = max(float(np.var(a - b)) for a, b in zip(LOG_JOINT, LOG_Q, strict=True)) * S
    for one in (Renyi(1.0), ImportanceWeighted(1), Thermodynamic(1)):
        np.testing.assert_allclose(one(LOG_JOINT, LOG_Q).guide, reference.guide, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(near.guide, reference.guide, rtol=0, atol=8.0 * variance**1.5 * 2.0**-30)


@pytest.mark.parametrize("objective", [objective for objective, _ in ONE.values()] + [ForwardKL(), ReweightedWakeSleep(3)])
def test_zeros_of_both_stay_out(objective):
    a, b = np.array([[-1.0, -math.inf, -2.0]]), np.array([[math.log(0.5), -math.inf, math.log(0.5)]])
    found, without = objective(a, b), objective(a[:, [0, 2]], b[:, [0, 2]])
    np.testing.assert_allclose(found.value, without.value, rtol=0, atol=ROUNDING)
    for table, smaller in ((found.model, without.model), (found.guide, without.guide)):
        assert table[0, 1] == 0.0
        np.testing.assert_allclose(table[:, [0, 2]], smaller, rtol=0, atol=ROUNDING)


COINS = ee.gallery.load("coins")
PATTERNS = ee.gallery.load("stouffer-toby")
CLASSES = Mixture.random(2, [2] * 4, rng=3)


def softmax(logits):
    return np.exp(log_softmax(logits - logits.max()))


def weights_in_logarithms(objective, a, b):
    if isinstance(objective, Renyi):
        return softmax(objective.alpha * b + (1.0 - objective.alpha) * a)
    total, steps = 0.0, objective.steps
    for beta in np.arange(steps) / steps:
        path = softmax((1.0 - beta) * b + beta * a)
        total = total + path * (1.0 + beta * ((a - b) - path @ (a - b))) / steps
    return total


@pytest.mark.parametrize("objective", [Renyi(0.0), Renyi(0.1), Thermodynamic(5)])
def test_states_where_q_is_below_every_double_have_their_weight(objective):
    """log q of -760 is 0 as a number and no zero. Exponents of at most 1700 round by u of themselves, a few times."""
    a, b = np.array([[0.0, 900.0], [0.0, 5.0], [0.0, 740.0]]), np.array([[0.0, -800.0], [0.0, -760.0], [0.0, -740.0]])
    found, slack = objective(a, b), 16 * 1700 * 2.0**-53
    for row in range(3):
        np.testing.assert_allclose(found.model[row], weights_in_logarithms(objective, a[row], b[row]), rtol=slack, atol=1e-300)
        assert abs(found.guide[row].sum()) <= slack * max(1.0, np.abs(found.guide[row]).sum())


@pytest.mark.parametrize("objective", [Elbo(), Renyi(0.5), ImportanceWeighted(5), ForwardKL(), ReweightedWakeSleep(5)])
def test_with_a_free_guide_every_alternating_fit_is_em(objective):
    """The best free q is the posterior, where every objective is log p(x) and its weights are the posterior."""
    guide = Free.uniform(CLASSES.log_joint(PATTERNS.x))
    fit = fit_vi(CLASSES, guide, PATTERNS.x, weights=PATTERNS.counts, objective=objective, max_iter=60)
    em = ee.fit_em(CLASSES, PATTERNS.x, weights=PATTERNS.counts, max_iter=60)
    assert abs(fit.objective - em.objective) <= 2.0**-30


@pytest.mark.parametrize("objective", [Elbo(), Renyi(0.5), ImportanceWeighted(4)])
def test_alternating_fits_of_a_network_never_fall(objective):
    guide = Amortized.random(4, CLASSES.space, hidden=(3,), rng=1)
    fit = fit_vi(CLASSES, guide, PATTERNS.x, weights=PATTERNS.counts, objective=objective, max_iter=15, inner_iter=10)
    assert fit.outcome in (Outcome.MAX_ITER, Outcome.CONVERGED) and (np.diff(fit.trace) >= 0.0).all()
    assert fit.trace[-1] > fit.trace[0] + 1.0
    found = gradients(fit.model, fit.guide, PATTERNS.x, weights=PATTERNS.counts, objective=objective)
    assert abs(found.value - fit.objective) <= fit.error + ROUNDING * abs(fit.objective)


@pytest.mark.parametrize("objective", [Renyi(2.0), Thermodynamic(5), ImportanceWeighted(3)])
def test_joint_fits_climb(objective):
    guide = Amortized.random(4, CLASSES.space, hidden=(3,), rng=1)
    options = {"weights": PATTERNS.counts, "objective": objective, "training": "joint"}
    fit = fit_vi(CLASSES, guide, PATTERNS.x, **options, max_iter=8, inner_iter=10)
    assert (np.diff(fit.trace) >= 0.0).all() and fit.trace[-1] > fit.trace[0] + 1.0
    small = fit_vi(CLASSES, guide, PATTERNS.x, **options, max_iter=5, inner_iter=20, optimizer=Adam(1e-3), rng=0)
    assert small.trace[-1] > small.trace[0]


def test_the_forward_divergence_is_what_its_objective_shrinks():
    """Mean field on a posterior with two modes: the ELBO takes one of them, the forward divergence both, and pays in ELBO."""
    model = ee.models.SigmoidBelief(np.log([[0.5, 0.5]] * 2), [[6.0, -6.0], [-6.0, 6.0]], [-1.0, -1.0])
    x = np.array([[1, 0], [1, 1], [0, 1]])
    start, ends = MeanField.random(len(x), model.space, rng=2), {}
    for objective in (Elbo(), ForwardKL(), ReweightedWakeSleep(20)):
        potential = objective.potential(model.log_joint(x), start.log_q(x))
        guide = start
        for _ in range(400):
            log_q, back = guide.forward(x)
            guide = guide.with_params(guide.params + 0.5 * back(potential(log_q, None)[1]))
            potential = objective.potential(model.log_joint(x), guide.log_q(x))
        ends[type(objective)] = ee.audit(model.log_joint(x), guide.log_q(x))
    assert ends[ForwardKL].forward_kl.sum() < ends[ReweightedWakeSleep].forward_kl.sum() < ends[Elbo].forward_kl.sum()
    assert ends[Elbo].elbo.sum() > ends[ForwardKL].elbo.sum()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Renyi(-1.0), "alpha must be a finite number >= 0"),
        (lambda: ImportanceWeighted(0), "num_samples"),
        (lambda: Thermodynamic(0), "steps"),
        (lambda: vi(ForwardKL(), "joint"), "training must be 'alternating' for ForwardKL"),
        (lambda: vi(Thermodynamic(3), "alternating"), "training must be 'joint' for Thermodynamic"),
        (lambda: vi(Renyi(2.0), "alternating"), "training must be 'joint' for Renyi"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def vi(objective, training):
    guide = Free.uniform(COINS.model.log_joint(COINS.x))
    return fit_vi(COINS.model, guide, COINS.x, objective=objective, training=training)
