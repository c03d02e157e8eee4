"""What keeps a long variational fit honest: natural steps, clipping, early stopping, and going on after a kill to the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.fit import Outcome, fit_vi
from elbo_exact.fit.bound import Rows
from elbo_exact.fit.objectives import Elbo
from elbo_exact.fit.optimizers import SGD, Adam, NaturalGradient
from elbo_exact.fit.steps import guide_slope, natural_slope
from elbo_exact.guides import Amortized, Autoregressive, Factors, Free, MeanField, Structured
from elbo_exact.models import Mixture

SPACE = ee.LatentSpace((2, 3))
RNG = np.random.default_rng(4)
LOG_JOINT, X = RNG.normal(size=(5, SPACE.size)) * 2.0, np.zeros((5, 1))
COUNTS = np.array([1.0, 4.0, 2.0, 0.5, 3.0])
PROBLEM = ee.gallery.load("stouffer-toby")
CLASSES = Mixture.random(2, [2] * 4, rng=3)
ROUNDING = 2.0**-42


def natural_step(guide, log_joint):
    data = Rows(X, COUNTS)
    slope = guide_slope(guide, Elbo().potential(log_joint, guide.log_q(X)), data)
    _, direction = natural_slope(guide, slope, data)(guide.params, None)
    return guide.with_params(guide.params + direction)


def test_one_natural_step_lands_on_the_posterior():
    guide = natural_step(Free.random(5, SPACE, rng=1), LOG_JOINT)
    np.testing.assert_allclose(guide.log_q(X), ee.log_posterior(LOG_JOINT), rtol=0, atol=ROUNDING)


def test_one_natural_step_of_a_product_finds_independent_posteriors():
    first, second = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 3))
    independent = (first[:, :, None] + second[:, None, :]).reshape(5, -1)
    guide = natural_step(MeanField.random(5, SPACE, rng=1), independent)
    np.testing.assert_allclose(guide.log_q(X), ee.log_posterior(independent), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("factors", [Factors.mean_field(SPACE), Factors.chain(SPACE), Factors.free(SPACE)])
def test_natural_direction_solves_fishers_equations(factors):
    """F d = g with F = sum_z q(z) s(z) s(z)^T, s the scores of the logits, built state by state."""
    guide = Structured.random(1, factors, rng=2)
    table = LOG_JOINT[:1]
    q = np.exp(guide.log_q(X[:1])[0])
    scores = np.array([guide.pullback(X[:1], np.eye(SPACE.size)[z : z + 1]) for z in range(SPACE.size)])
    fisher = (q[:, None, None] * scores[:, :, None] * scores[:, None, :]).sum(axis=0)
    gradient = guide.pullback(X[:1], ee.elbo_gradient(table, guide.log_q(X[:1])))
    direction = factors.natural(guide.logits(X[:1]), gradient[None])[0]
    np.testing.assert_allclose(fisher @ direction, gradient, rtol=0, atol=ROUNDING)


def test_a_fit_by_natural_steps_is_em():
    guide = Free.uniform(CLASSES.log_joint(PROBLEM.x))
    options = {"weights": PROBLEM.counts, "max_iter": 30, "inner_iter": 1}
    fit = fit_vi(CLASSES, guide, PROBLEM.x, optimizer=NaturalGradient(), **options)
    em = ee.fit_em(CLASSES, PROBLEM.x, weights=PROBLEM.counts, max_iter=30)
    assert fit.n_iter == 30 and abs(fit.objective - em.objective) <= 2.0**-30


@pytest.mark.parametrize(
    ("guide", "training"),
    [
        (Amortized.random(4, CLASSES.space, rng=0), "alternating"),
        (Autoregressive.random(16, CLASSES.space, rng=0), "alternating"),
        (Free.uniform(CLASSES.log_joint(PROBLEM.x)), "joint"),
    ],
)
def test_natural_steps_need_distributions_of_their_own(guide, training):
    with pytest.raises(ValueError, match="NaturalGradient"):
        fit_vi(CLASSES, guide, PROBLEM.x, optimizer=NaturalGradient(), training=training)


def test_clipping_saves_a_rate_that_is_too_large():
    guide = Amortized.random(4, CLASSES.space, hidden=(3,), rng=1)
    options = {"weights": PROBLEM.counts, "training": "joint", "max_iter": 5, "inner_iter": 20, "rng": 0}
    wild = fit_vi(CLASSES, guide, PROBLEM.x, optimizer=SGD(300.0), **options)
    tame = fit_vi(CLASSES, guide, PROBLEM.x, optimizer=SGD(300.0), clip_norm=1e-4, **options)
    assert wild.outcome in (Outcome.DIVERGED, Outcome.NOISY) and wild.n_iter == 0
    assert tame.n_iter == 5 and tame.trace[-1] > tame.trace[0]
    for bad in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="clip_norm must be a finite number > 0"):
            fit_vi(CLASSES, guide, PROBLEM.x, optimizer=SGD(0.1), clip_norm=bad)


@pytest.mark.parametrize("optimizer", [Adam(1e-2), SGD(0.1, momentum=0.9)])
def test_momentum_of_another_slope_does_not_end_a_fit(optimizer):
    """Each M-step turns the guide's slope; so few passes between two of them end lower if they keep the momentum of the last."""
    guide = Amortized.random(4, CLASSES.space, hidden=(3,), rng=1)
    fit = fit_vi(CLASSES, guide, PROBLEM.x, weights=PROBLEM.counts, optimizer=optimizer, inner_iter=5, max_iter=30, rng=3)
    assert fit.n_iter == 30 and fit.outcome is Outcome.MAX_ITER
    assert (fit.gains >= -fit.gain_errors).all()


def test_a_guide_that_finds_nothing_better_does_not_stop_the_model():
    """A rate at which every step of the optimizer loses: one M-step is taken, and nothing is left to do but to say so."""
    guide = Amortized.random(4, CLASSES.space, hidden=(3,), rng=1)
    fit = fit_vi(CLASSES, guide, PROBLEM.x, weights=PROBLEM.counts, optimizer=SGD(30.0), inner_iter=1, max_iter=30)
    assert fit.outcome is Outcome.NOISY and fit.n_iter == 1 and fit.gains[0] > 0.0
    np.testing.assert_array_equal(fit.guide.params, guide.params)


def test_a_fit_stops_where_rows_that_it_does_not_see_are_likeliest(tmp_path):
    """Three classes on forty respondents overfit; the kept model is the best on the others among all steps, each refitted."""
    model, everybody = Mixture.random(3, [2] * 4, rng=1), np.repeat(PROBLEM.x, PROBLEM.counts.astype(int), axis=0)
    order = np.random.default_rng(1).permutation(len(everybody))
    seen, held = everybody[order[:40]], everybody[order[40:]]
    guide = Free.uniform(model.log_joint(seen))
    fit = fit_vi(model, guide, seen, validation=held, patience=4, max_iter=200)
    assert fit.outcome is Outcome.EARLY_STOP and len(fit.trace) == fit.n_iter + 1 == len(fit.gains) + 1

    def evidence(n):
        end = fit_vi(model, guide, seen, max_iter=n) if n else None
        at = model if end is None else end.model
        return float(np.sum(ee.log_evidence(at.log_joint(held))))

    values = [evidence(n) for n in range(fit.n_iter + 5)]
    assert int(np.argmax(values)) == fit.n_iter
    assert abs(float(np.sum(ee.log_evidence(fit.model.log_joint(held)))) - max(values)) <= ROUNDING
    again = fit_vi(model, guide, seen, max_iter=fit.n_iter)
    np.testing.assert_array_equal(again.trace, fit.trace)
    file = ee.fit.Checkpoint(tmp_path / "fit.npz", seconds=0.0)
    for steps in (1, fit.n_iter + 2, 200, 200):  # before the best step, after it, to the end, and once more
        resumed = fit_vi(model, guide, seen, validation=held, patience=4, max_iter=steps, checkpoint=file)
    assert resumed.outcome is Outcome.EARLY_STOP and resumed.detail == fit.detail
    np.testing.assert_array_equal(resumed.trace, fit.trace)
    np.testing.assert_array_equal(resumed.guide.params, fit.guide.params)
    with pytest.raises(ValueError, match="belongs to a fit of other data, starts or settings"):
        fit_vi(model, guide, seen, validation=held[1:], patience=4, max_iter=200, checkpoint=file)


@pytest.mark.parametrize(
    "options",
    [
        {"training": "joint", "optimizer": Adam(1e-2), "batch_size": 5, "inner_iter": 3, "rng": 7},
        {"training": "joint", "inner_iter": 5},
        {"training": "alternating", "inner_iter": 5},
        {"training": "alternating", "optimizer": SGD(0.1, momentum=0.9), "inner_iter": 3},
    ],
)
def test_a_fit_goes_on_to_the_same_bits(tmp_path, options):
    guide = Amortized.random(4, CLASSES.space, hidden=(3,), rng=1)
    path = tmp_path / "fit.npz"
    common = {"weights": PROBLEM.counts, "checkpoint": ee.fit.Checkpoint(path, seconds=0.0)}
    whole = fit_vi(CLASSES, guide, PROBLEM.x, weights=PROBLEM.counts, max_iter=9, **options)
    for steps in (2, 5, 9):
        fit = fit_vi(CLASSES, guide, PROBLEM.x, max_iter=steps, **common, **options)
        assert [file.name for file in tmp_path.iterdir()] == ["fit.npz"]
    np.testing.assert_array_equal(fit.trace, whole.trace)
    np.testing.assert_array_equal(fit.guide.params, whole.guide.params)
    np.testing.assert_array_equal(fit.model.log_weights, whole.model.log_weights)
    assert fit.outcome is whole.outcome


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    guide, path = Free.uniform(CLASSES.log_joint(PROBLEM.x)), tmp_path / "fit.npz"
    fit_vi(CLASSES, guide, PROBLEM.x, max_iter=2, checkpoint=path)
    with pytest.raises(ValueError, match="belongs to a fit of other data, starts or settings"):
        fit_vi(CLASSES, guide, PROBLEM.x, weights=PROBLEM.counts, max_iter=2, checkpoint=path)
    with pytest.raises(ValueError, match="the folder of the checkpoint must exist"):
        fit_vi(CLASSES, guide, PROBLEM.x, checkpoint=tmp_path / "no" / "fit.npz")
    with pytest.raises(ValueError, match="belongs to a fit of other data, starts or settings"):
        fit_vi(CLASSES, guide, PROBLEM.x, max_iter=2, checkpoint=path, validation=PROBLEM.x)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="fit.npz"):
        fit_vi(CLASSES, guide, PROBLEM.x, max_iter=2, checkpoint=path)


SINGLE = 2.0**-24


def test_gradients_in_single_precision_are_off_by_its_roundings():
    """A linear network: logits of I products and additions move p by at most exp(2 delta); then the products with x are summed."""
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(20, 4)), rng.normal(size=(20, 3))
    guide = Amortized.random(4, ee.LatentSpace((3,)), hidden=(), rng=1, dtype=np.float32)
    double = Amortized(guide.params.astype(np.float64), guide.network, guide.factors)
    weight, bias = double.params[:12].reshape(4, 3), double.params[12:]
    delta = 6 * SINGLE * (np.abs(x) @ np.abs(weight) + np.abs(bias)).max(axis=1, keepdims=True)
    p, total = np.exp(double.log_q(x)), cotangent.sum(axis=1, keepdims=True)
    slopes = cotangent - p * total
    off = p * np.abs(total) * np.expm1(2.0 * delta) + SINGLE * np.abs(slopes)
    inputs = np.column_stack([np.abs(x), np.ones(20)])
    bound = 1.01 * inputs.T @ (off + (20 + 2) * SINGLE * np.abs(slopes))
    found, exact = guide.pullback(x, cotangent), double.pullback(x, cotangent)
    assert found.dtype == np.float32 and exact.dtype == np.float64
    assert (np.abs(found - exact) <= bound.ravel()).all() and not np.array_equal(found, exact)


@pytest.mark.parametrize(
    ("training", "optimizer"),
    [("joint", None), ("alternating", None), ("joint", Adam(1e-2)), ("joint", SGD(0.1)), ("alternating", SGD(0.1))],
)
def test_training_in_single_precision_is_reported_in_double(tmp_path, training, optimizer):
    guide = Amortized.random(4, CLASSES.space, hidden=(3,), rng=1, dtype=np.float32)
    options = {"weights": PROBLEM.counts, "training": training, "optimizer": optimizer, "inner_iter": 5, "rng": 3}
    fit = fit_vi(CLASSES, guide, PROBLEM.x, max_iter=6, **options)
    double = Amortized(fit.guide.params.astype(np.float64), guide.network, guide.factors)
    assert fit.guide.params.dtype == np.float32 and fit.n_iter == 6 and fit.trace[-1] > fit.trace[0]
    np.testing.assert_array_equal(fit.guide.log_q(PROBLEM.x), double.log_q(PROBLEM.x))
    for own in (fit.guide, double):
        assert abs(ee.fit.gradients(fit.model, own, PROBLEM.x, weights=PROBLEM.counts).value - fit.objective) <= 2.0 * fit.error
    file = ee.fit.Checkpoint(tmp_path / "fit.npz", seconds=0.0)
    for steps in (2, 6):
        resumed = fit_vi(CLASSES, guide, PROBLEM.x, max_iter=steps, checkpoint=file, **options)
    np.testing.assert_array_equal(resumed.trace, fit.trace)
    np.testing.assert_array_equal(resumed.guide.params, fit.guide.params)
