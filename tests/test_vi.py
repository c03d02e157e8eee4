"""Variational fits: gradients and loss curves beside PyTorch's, the path of EM, and how runs end."""

from __future__ import annotations

import math

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.families import Bernoulli, Categorical, Gaussian, Poisson
from elbo_exact.fit import gradients
from elbo_exact.fit.bound import LogParameters
from elbo_exact.fit.optimizers import SGD, Adam
from elbo_exact.guides import Amortized, Free, MeanField
from elbo_exact.models import Mixture

torch = pytest.importorskip("torch")
U = 2.0**-53
K, N = 3, 40


def small_problem():
    """A mixture of a categorical, two Bernoulli columns and a Poisson one, with counts."""
    rng = np.random.default_rng(8)
    parts = [Categorical.random(K, 4, rng=rng), Bernoulli.random(K, 2, rng=rng), Poisson(rng.normal(size=(K, 1)))]
    model = Mixture(np.log(rng.dirichlet(np.ones(K))), parts)
    x, _ = model.sample(N, rng=rng)
    return model.randomize(rng), x, rng.integers(1, 4, N).astype(float)


MODEL, X, COUNTS = small_problem()


def guides():
    return {
        "free": Free(np.random.default_rng(0).normal(size=N * K), MODEL.space),
        "mean field": MeanField.random(N, MODEL.space, rng=1),
        "amortized": Amortized.random(4, MODEL.space, hidden=(5,), rng=2),
    }


def torch_elbo(phi, theta, guide, x, counts):
    """Total ELBO from flat logits, written again from the definition."""
    shares, table, pairs, rates = torch.split(theta, [K, 4 * K, 4 * K, K])
    x = torch.tensor(x)
    log_joint = torch.log_softmax(shares, -1) + torch.log_softmax(table.reshape(K, 4), -1)[:, x[:, 0]].T
    for d in range(2):
        log_joint = log_joint + torch.log_softmax(pairs.reshape(K, 2, 2), -1)[:, d, x[:, 1 + d]].T
    events = x[:, 3:].double()
    log_joint = log_joint + events * rates - torch.exp(rates) - torch.lgamma(events + 1.0)
    if isinstance(guide, Amortized):
        (w1, b1), (w2, b2) = guide.network.views(phi)
        logits = torch.tanh(x.double() @ w1 + b1) @ w2 + b2
    else:
        logits = phi.reshape(len(x), K)
    log_q = torch.log_softmax(logits, -1)
    return (torch.tensor(counts) * (torch.exp(log_q) * (log_joint - log_q)).sum(-1)).sum()


def tensors(guide, model=MODEL):
    theta = LogParameters(model).params
    return tuple(torch.tensor(np.array(part), requires_grad=True) for part in (guide.params, theta))


@pytest.mark.parametrize("kind", list(guides()))
def test_gradients_are_autograd(kind):
    guide = guides()[kind]
    phi, theta = tensors(guide)
    value = torch_elbo(phi, theta, guide, X, COUNTS)
    value.backward()
    ours = gradients(MODEL, guide, X, weights=COUNTS)
    assert math.isclose(ours.value, value.item(), rel_tol=1e-12)
    for mine, theirs in ((ours.guide, phi.grad.numpy()), (ours.model, theta.grad.numpy())):
        assert np.linalg.norm(mine - theirs) <= 1e-10 * np.linalg.norm(theirs)


def test_gradient_in_theta_is_a_central_difference():
    """As for guides: two steps, their difference bounds what is left of the smaller one; rounding is that of two objectives."""
    guide, logs = guides()["amortized"], LogParameters(MODEL)
    v = np.random.default_rng(1).normal(size=logs.params.size)
    v /= np.linalg.norm(v)

    def elbo(t):
        return gradients(logs.at(logs.params + t * v), guide, X, weights=COUNTS).value

    slopes = [(elbo(h) - elbo(-h)) / (2 * h) for h in (2.0**-10, 2.0**-11)]
    exact = gradients(MODEL, guide, X, weights=COUNTS).model @ v
    assert abs(exact - slopes[1]) <= abs(slopes[1] - slopes[0]) + 1000 * U * abs(elbo(0.0)) / 2.0**-11


def test_200_steps_of_adam_are_those_of_torch():
    guide = guides()["amortized"]
    start = ee.fit_vi(MODEL, guide, X, weights=COUNTS, training="joint", optimizer=Adam(1e-3), inner_iter=1, max_iter=200)
    phi, theta = tensors(guide)
    theirs = [torch_elbo(phi, theta, guide, X, COUNTS).item()]
    adam = torch.optim.Adam([phi, theta], lr=1e-3)
    for _ in range(200):
        adam.zero_grad()
        (-torch_elbo(phi, theta, guide, X, COUNTS) / COUNTS.sum()).backward()
        adam.step()
        theirs.append(torch_elbo(phi, theta, guide, X, COUNTS).item())
    assert start.n_iter == 200
    np.testing.assert_allclose(start.trace, theirs, rtol=1e-8)


@pytest.mark.parametrize("problem", ["coins", "mixture"])
def test_a_free_guide_walks_the_trace_of_em(problem):
    """Same M-steps from posteriors that differ in rounding only: each objective within the bounds of both fits.

    A relative error r of the statistics moves the objective by at most (total count) r log-odds first order at a step that is not
    yet at its maximum; 64 U per step covers exp, log and the sums of 40 rows.
    """
    if problem == "coins":
        coins = ee.gallery.load("coins")
        model, x, counts = coins.model, coins.x, coins.counts
    else:
        model, x, counts = MODEL, X, COUNTS
    em = ee.fit_em(model, x, weights=counts, max_iter=50)
    vi = ee.fit_vi(model, Free.uniform(model.log_joint(x)), x, weights=counts, max_iter=50)
    steps = min(em.n_iter, vi.n_iter)
    assert steps >= 10
    error = em.error + vi.error + steps * 64 * U * np.asarray(counts).sum()
    np.testing.assert_allclose(vi.trace[: steps + 1], em.trace[: steps + 1], rtol=0, atol=error)
    audit = ee.audit(vi.model.log_joint(x), vi.guide.log_q(x))
    assert (audit.gap <= 1e-12).all()


def test_alternating_reaches_em_with_one_row_per_code():
    """A network that sees which row it has can give every row its posterior; so L-BFGS-B ends at the maximum of EM."""
    x, inverse = np.unique(X[:, :3], axis=0, return_inverse=True)
    counts = np.bincount(inverse).astype(float)
    model = Mixture(MODEL.log_weights, MODEL.components[:2])
    free = ee.fit_vi(model, Free.uniform(model.log_joint(x)), x, weights=counts, max_iter=8)
    slow = ee.fit_vi(model, MeanField.random(len(x), model.space, rng=0), x, weights=counts, max_iter=8, inner_iter=1500)
    assert slow.outcome is not ee.Outcome.NOT_MONOTONE
    # every inner fit ends by itself, where the gradient of the mean ELBO is below 1e-7: what it misses is its square over the curvature
    np.testing.assert_allclose(slow.trace, free.trace, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", list(guides()))
@pytest.mark.parametrize("training", ["alternating", "joint"])
def test_the_trace_never_falls_and_is_the_elbo_of_what_is_returned(kind, training):
    fit = ee.fit_vi(MODEL, guides()[kind], X, weights=COUNTS, training=training, inner_iter=20, max_iter=15)
    assert (np.diff(fit.trace) >= -fit.gain_errors).all()
    assert fit.trace[-1] > fit.trace[0]
    table, log_q = fit.model.log_joint(X), fit.guide.log_q(X)
    again = math.fsum((COUNTS * ee.elbo(table, log_q)).tolist())
    assert abs(again - fit.objective) <= fit.error
    assert fit.objective <= math.fsum((COUNTS * ee.log_evidence(table)).tolist())
    assert fit.to_dict()["guide"]["params"] == fit.guide.params.tolist()


def test_mini_batches_repeat_to_the_same_bits():
    settings = {"optimizer": Adam(1e-2), "batch_size": 16, "inner_iter": 5, "max_iter": 4, "rng": 3}
    fits = [ee.fit_vi(MODEL, guides()["amortized"], X, training="joint", **settings) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].trace, fits[1].trace)
    assert fits[0].trace[-1] > fits[0].trace[0]


@pytest.mark.parametrize("training", ["alternating", "joint"])
@pytest.mark.parametrize("rate", [1e4, 1e308])
def test_a_diverging_learning_rate_keeps_the_last_good_parameters(training, rate):
    guide = guides()["amortized"]
    fit = ee.fit_vi(MODEL, guide, X, training=training, optimizer=SGD(rate), inner_iter=3, max_iter=5)
    assert fit.outcome is ee.Outcome.DIVERGED
    assert np.isfinite(fit.objective) and np.isfinite(fit.guide.params).all()
    assert fit.objective >= math.fsum(np.asarray(ee.elbo(MODEL.log_joint(X), guide.log_q(X))).tolist()) - fit.error
    assert "step 1" in fit.detail


def test_an_interrupted_run_keeps_its_last_step(monkeypatch):
    from elbo_exact.fit.steps import Walker

    calls, real = [], Walker.alternate

    def alternate(self, point):
        calls.append(point)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, point)

    monkeypatch.setattr(Walker, "alternate", alternate)
    fit = ee.fit_vi(MODEL, Free.uniform(MODEL.log_joint(X)), X, max_iter=10)
    assert fit.outcome is ee.Outcome.INTERRUPTED and fit.n_iter == 2


def test_a_prior_is_part_of_the_objective():
    from elbo_exact.models.mixture import MixtureStatistics

    prior = MixtureStatistics(1.0, (1.0, 1.0, None))
    fit = ee.fit_vi(MODEL, Free.uniform(MODEL.log_joint(X)), X, prior=prior, max_iter=20)
    em = ee.fit_em(MODEL, X, prior=prior, max_iter=20)
    np.testing.assert_allclose(fit.trace[:10], em.trace[:10], rtol=0, atol=em.error + fit.error + 10 * 64 * U * (N + 30))


def test_rows_without_weight_are_left_out():
    counts = COUNTS.copy()
    counts[5:] = 0.0
    free = ee.fit_vi(MODEL, Free.uniform(MODEL.log_joint(X)), X, weights=counts, max_iter=5)
    fewer = ee.fit_vi(MODEL, Free.uniform(MODEL.log_joint(X[:5])), X[:5], weights=counts[:5], max_iter=5)
    np.testing.assert_allclose(free.trace, fewer.trace, rtol=0, atol=free.error + fewer.error + 5 * 64 * U * counts.sum())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training": "both"}, "training"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"training": "joint", "prior": 1.0}, "prior must be None"),
        ({"batch_size": 4}, "batch_size must be None"),
        ({"weights": np.zeros(N)}, "at least one positive"),
        ({"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        ee.fit_vi(MODEL, Free.uniform(MODEL.log_joint(X)), X, **settings)


def test_bad_data_and_models():
    bad = X.astype(float)
    bad[2, 1] = np.nan  # missing for the model, nothing for a network
    with pytest.raises(ee.LogTableError, match="row 2 is not"):
        ee.fit_vi(MODEL, guides()["amortized"], bad)
    with pytest.raises(ee.LogTableError, match="at least one observation"):
        ee.fit_vi(MODEL, guides()["free"], X[:0])
    excluding = Mixture(np.log([0.5, 0.5]), [Categorical([[0.0, -np.inf], [-0.5, math.log1p(-math.exp(-0.5))]])])
    with pytest.raises(ee.LogTableError, match="state 0 of row 1"):
        ee.fit_vi(excluding, MeanField(np.zeros(4), excluding.space), [[0], [1]])
    with pytest.raises(ee.ZeroEvidence, match="row 0"):
        ee.fit_vi(Mixture([0.0], [Categorical([[0.0, -np.inf]])]), Free([0.0], ee.LatentSpace((1,))), [[1]])
    gaussian = Mixture(np.log([0.5, 0.5]), [Gaussian([[0.0], [1.0]], [1.0, 1.0], "spherical")])
    with pytest.raises(TypeError, match="alternating"):
        ee.fit_vi(gaussian, Free.uniform(np.zeros((2, 2))), [[0.0], [1.0]], training="joint")
