"""Variational fits: gradients and loss curves beside PyTorch's, the path of EM, and how runs end."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import elbo_exact as ee
from elbo_exact.families import Bernoulli, Categorical, Gaussian, Poisson
from elbo_exact.fit import Outcome, gradients
from elbo_exact.fit.bound import FlatParameters
from elbo_exact.fit.objectives import Elbo, ForwardKL, ImportanceWeighted, Renyi, ReweightedWakeSleep, Thermodynamic
from elbo_exact.fit.optimizers import SGD, Adam
from elbo_exact.guides import Amortized, Free, MeanField
from elbo_exact.models import Mixture, NoisyOr

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


def torch_tables(phi, theta, guide, x):
    """log p(x, z) and log q(z | x) from flat logits, written again from the definition; the Poisson column may be left out."""
    shares, table, pairs, *rates = torch.split(theta, [K, 4 * K, 4 * K, K][: 3 + (x.shape[1] == 4)])
    x = torch.tensor(x)
    log_joint = torch.log_softmax(shares, -1) + torch.log_softmax(table.reshape(K, 4), -1)[:, x[:, 0]].T
    for d in range(2):
        log_joint = log_joint + torch.log_softmax(pairs.reshape(K, 2, 2), -1)[:, d, x[:, 1 + d]].T
    if rates:
        events = x[:, 3:].double()
        log_joint = log_joint + events * rates[0] - torch.exp(rates[0]) - torch.lgamma(events + 1.0)
    logits = phi.reshape(-1, K)[: len(x)] if not isinstance(guide, Amortized) else x.double()
    if isinstance(guide, Amortized):
        layers = guide.network.views(phi)
        for weight, bias in layers[:-1]:
            logits = torch.tanh(logits @ weight + bias)
        logits = logits @ layers[-1][0] + layers[-1][1]
    return log_joint, torch.log_softmax(logits, -1)


def elbo_rows(log_joint, log_q):
    return (torch.exp(log_q) * (log_joint - log_q)).sum(-1)


def renyi_rows(alpha):
    return lambda a, b: torch.logsumexp(b + (1.0 - alpha) * (a - b), -1) / (1.0 - alpha)


def thermodynamic_rows(steps):
    def rows(a, b):
        paths = [torch.softmax(b + k / steps * (a - b), -1) for k in range(steps)]
        return sum((path * (a - b)).sum(-1) for path in paths) / steps

    return rows


DRAWS = torch.tensor(list(itertools.product(range(K), repeat=3)))


def importance_rows(a, b):
    """Every three draws."""
    weight = torch.logsumexp((a - b)[:, DRAWS], -1) - math.log(3.0)
    return (torch.exp(b[:, DRAWS].sum(-1)) * weight).sum(-1)


def law_of_three(a, b):
    """Of a state resampled from three weighted draws."""
    chosen = torch.softmax((a - b)[:, DRAWS], -1) * torch.exp(b[:, DRAWS].sum(-1))[:, :, None]
    return torch.stack([(chosen * (DRAWS == z)).sum((1, 2)) for z in range(K)], -1)


def two(of_model, law):
    """The model climbs one function and the guide a cross entropy to weights that stand still; the value is that of the first."""

    def rows(a, b):
        other = (law(a, b).detach() * b).sum(-1)
        return of_model(a, b.detach()) + other - other.detach()

    return rows


OBJECTIVES = {
    "elbo": (Elbo(), elbo_rows),
    "renyi 0.5": (Renyi(0.5), renyi_rows(0.5)),
    "renyi 2": (Renyi(2.0), renyi_rows(2.0)),
    "thermodynamic": (Thermodynamic(5), thermodynamic_rows(5)),
    "importance": (ImportanceWeighted(3), importance_rows),
    "forward": (ForwardKL(), two(lambda a, b: torch.logsumexp(a, -1), lambda a, b: torch.softmax(a, -1))),
    "reweighted": (ReweightedWakeSleep(3), two(importance_rows, law_of_three)),
}


def torch_elbo(phi, theta, guide, x, counts):
    """Total ELBO."""
    return (torch.tensor(counts) * elbo_rows(*torch_tables(phi, theta, guide, x))).sum()


def tensors(guide, model=MODEL):
    theta = FlatParameters(model).params
    return tuple(torch.tensor(np.array(part), requires_grad=True) for part in (guide.params, theta))


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("kind", list(guides()))
def test_gradients_are_autograd(kind, name):
    guide, (objective, rows) = guides()[kind], OBJECTIVES[name]
    phi, theta = tensors(guide)
    value = (torch.tensor(COUNTS) * rows(*torch_tables(phi, theta, guide, X))).sum()
    value.backward()
    ours = gradients(MODEL, guide, X, weights=COUNTS, objective=objective)
    assert math.isclose(ours.value, value.item(), rel_tol=1e-12)
    for mine, theirs in ((ours.guide, phi.grad.numpy()), (ours.model, theta.grad.numpy())):
        assert np.linalg.norm(mine - theirs) <= 1e-10 * np.linalg.norm(theirs)


def test_gradient_in_theta_is_a_central_difference():
    """As for guides: two steps, their difference bounds what is left of the smaller one; rounding is that of two objectives."""
    guide, logs = guides()["amortized"], FlatParameters(MODEL)
    v = np.random.default_rng(1).normal(size=logs.params.size)
    v /= np.linalg.norm(v)

    def elbo(t):
        return gradients(logs.at(logs.params + t * v), guide, X, weights=COUNTS).value

    slopes = [(elbo(h) - elbo(-h)) / (2 * h) for h in (2.0**-10, 2.0**-11)]
    exact = gradients(MODEL, guide, X, weights=COUNTS).model @ v
    assert abs(exact - slopes[1]) <= abs(slopes[1] - slopes[0]) + 1000 * U * abs(elbo(0.0)) / 2.0**-11


DISCRETE = Mixture(MODEL.log_weights, MODEL.components[:2])


@pytest.mark.parametrize(
    ("model", "hidden", "rate"),
    [(MODEL, (5,), 1e-3), (DISCRETE, (), 1e-3), (DISCRETE, (5,), 1e-3), (DISCRETE, (7, 5), 1e-3), (DISCRETE, (5,), 0.2)],
    ids=["objects", "linear", "one", "two", "falling"],
)
def test_200_steps_of_adam_are_those_of_torch(model, hidden, rate):
    """Also where they lead down for a while."""
    x = X[:, : 3 + (model is MODEL)]
    guide = Amortized.random(x.shape[1], model.space, hidden=hidden, rng=2)
    start = ee.fit_vi(model, guide, x, weights=COUNTS, training="joint", optimizer=Adam(rate), inner_iter=1, max_iter=200)
    phi, theta = tensors(guide, model)
    theirs = [torch_elbo(phi, theta, guide, x, COUNTS).item()]
    adam = torch.optim.Adam([phi, theta], lr=rate)
    for _ in range(200):
        adam.zero_grad()
        (-torch_elbo(phi, theta, guide, x, COUNTS) / COUNTS.sum()).backward()
        adam.step()
        theirs.append(torch_elbo(phi, theta, guide, x, COUNTS).item())
    assert start.n_iter == 200 and (np.diff(start.trace).min() < 0.0) == (rate == 0.2)
    np.testing.assert_allclose(start.trace, theirs, rtol=1e-8)


@pytest.mark.parametrize("name", [name for name, (objective, _) in OBJECTIVES.items() if objective.is_one_function])
def test_joint_training_on_batches_climbs_every_objective(name):
    guide, objective = Amortized.random(3, DISCRETE.space, hidden=(5,), rng=2), OBJECTIVES[name][0]
    options = {"training": "joint", "optimizer": Adam(1e-3), "inner_iter": 5, "max_iter": 4, "batch_size": 16, "rng": 0}
    fit = ee.fit_vi(DISCRETE, guide, X[:, :3], objective=objective, **options)
    assert fit.outcome is Outcome.MAX_ITER and fit.objective > fit.trace[0]


def test_the_progress_bar_shows_the_objective_and_the_exact_gap(capsys):
    guide = guides()["amortized"]
    fit = ee.fit_vi(MODEL, guide, X, weights=COUNTS, training="joint", optimizer=Adam(1e-3), max_iter=2, progress=True)
    gap = COUNTS @ ee.gap(fit.model.log_joint(X), fit.guide.log_q(X))
    assert f"objective {fit.objective:.6f}, gap {gap:.3g}" in capsys.readouterr().err


def gaussian_problem(covariance):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 2)) * [1.0, 3.0] + rng.integers(0, 3, 60)[:, None] * [4.0, -5.0]
    return Mixture(np.log([0.2, 0.3, 0.5]), [Gaussian.random(x, K, covariance, rng=1)]), x


def torch_gaussian(theta, covariance, x):
    """log p(x, z) from shares, means and scales, diagonals by their logarithms."""
    shares, means, scales = theta[:K], theta[K : 3 * K].reshape(K, 2), theta[3 * K :]
    if covariance == "spherical":
        factors = torch.exp(scales)[:, None, None] * torch.eye(2)
    elif covariance == "diagonal":
        factors = torch.diag_embed(torch.exp(scales.reshape(K, 2)))
    else:
        rows = scales.reshape(-1, 3).expand(K, 3)
        zero = torch.zeros(K)
        factors = torch.stack([torch.exp(rows[:, 0]), zero, rows[:, 1], torch.exp(rows[:, 2])], -1).reshape(K, 2, 2)
    law = torch.distributions.MultivariateNormal(means, scale_tril=factors)
    return torch.log_softmax(shares, -1) + law.log_prob(torch.tensor(x)[:, None])


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "tied", "full"])
def test_joint_training_of_gaussians_is_that_of_torch(covariance):
    model, x = gaussian_problem(covariance)
    guide = Amortized.random(2, model.space, hidden=(5,), rng=2)
    fit = ee.fit_vi(model, guide, x, training="joint", optimizer=Adam(1e-2), inner_iter=1, max_iter=200)
    phi, theta = tensors(guide, model)
    adam, theirs = torch.optim.Adam([phi, theta], lr=1e-2), []
    for _ in range(201):
        (w1, b1), (w2, b2) = guide.network.views(phi)
        log_q = torch.log_softmax(torch.tanh(torch.tensor(x) @ w1 + b1) @ w2 + b2, -1)
        value = elbo_rows(torch_gaussian(theta, covariance, x), log_q).sum()
        theirs.append(value.item())
        adam.zero_grad()
        (-value / len(x)).backward()
        adam.step()
    assert fit.n_iter == 200
    np.testing.assert_allclose(fit.trace, theirs, rtol=1e-8)


def test_joint_training_of_gaussians_by_lbfgs_gains_and_never_loses():
    model, x = gaussian_problem("full")
    fit = ee.fit_vi(model, Free.optimum(model.log_joint(x)), x, training="joint", inner_iter=500, max_iter=50)
    assert fit.outcome is Outcome.CONVERGED and (fit.gains >= -fit.gain_errors).all()
    assert fit.objective > fit.trace[0] + 1.0


def test_a_gaussian_that_collapses_in_joint_training_is_named():
    x = np.array([[0.0], [0.0], [0.0], [5.0], [6.0], [7.5]])
    model = Mixture(np.log([0.5, 0.5]), [Gaussian([[0.0], [6.0]], [0.5, 1.0], "spherical")])
    guide = Free.optimum(model.log_joint(x))
    fit = ee.fit_vi(model, guide, x, training="joint", optimizer=Adam(0.05), inner_iter=50, max_iter=200)
    assert fit.outcome is Outcome.DEGENERATE and "component 0" in fit.detail
    assert (fit.model.components[0].scales > 0.0).all()


@pytest.mark.parametrize("hidden", [(5,), (7, 5)])
def test_passes_over_mini_batches_are_those_of_torch(hidden):
    """The batches are those of the generator that the fit gets; rows that count 0 move nothing."""
    x, counts, rng = X[:, :3], np.where(np.arange(N) % 5 == 0, 0.0, COUNTS), np.random.default_rng(3)
    guide = Amortized.random(3, DISCRETE.space, hidden=hidden, rng=2)
    options = {"training": "joint", "optimizer": Adam(1e-3), "inner_iter": 6, "max_iter": 1, "batch_size": 16}
    fit = ee.fit_vi(DISCRETE, guide, x, weights=counts, rng=np.random.default_rng(3), **options)
    phi, theta = tensors(guide, DISCRETE)
    adam = torch.optim.Adam([phi, theta], lr=1e-3)
    for _ in range(6):
        order = rng.permutation(N)
        for first in range(0, N, 16):
            batch = order[first : first + 16]
            adam.zero_grad()
            (-torch_elbo(phi, theta, guide, x[batch], counts[batch]) / counts[batch].sum()).backward()
            adam.step()
    assert fit.n_iter == 1
    np.testing.assert_allclose(fit.guide.params, phi.detach().numpy(), rtol=0, atol=1e-9)
    assert math.isclose(fit.objective, torch_elbo(phi, theta, guide, x, counts).item(), rel_tol=1e-9)


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


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_an_interrupted_validation_keeps_the_step_before_it(monkeypatch, n_epochs):
    from elbo_exact.fit.validation import Validation

    seen, real = [], Validation.note

    def note(self, point):
        seen.append(point)
        if len(seen) == n_epochs:
            raise KeyboardInterrupt
        real(self, point)

    monkeypatch.setattr(Validation, "note", note)
    fit = ee.fit_vi(MODEL, Free.uniform(MODEL.log_joint(X)), X, validation=X, max_iter=10)
    assert fit.outcome is ee.Outcome.INTERRUPTED and fit.n_iter == n_epochs


def test_a_walk_that_reaches_nothing_new_ends():
    guide = Amortized.random(3, DISCRETE.space, hidden=(5,), rng=2)
    fit = ee.fit_vi(DISCRETE, guide, X[:, :3], training="joint", optimizer=Adam(0.2), inner_iter=1, max_iter=5000)
    assert fit.outcome is ee.Outcome.NOISY and fit.n_iter - 249 == int(np.argmax(fit.trace))
    assert fit.objective == fit.trace[-1] and "none" not in fit.detail


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
        ({"batch_size": -3, "optimizer": Adam()}, "batch_size must be"),
        ({"batch_size": 1.5, "optimizer": Adam()}, "batch_size must be"),
        ({"optimizer": "adam"}, "optimizer must be one of elbo_exact.fit.optimizers"),
        ({"objective": "elbo"}, "objective must be an object of elbo_exact"),
        ({"guide": None}, "guide must be an object of elbo_exact"),
        ({"guide": Free.random(3, MODEL.space, rng=0)}, "3 observations of this guide"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        ee.fit_vi(MODEL, x=X, **{"guide": Free.uniform(MODEL.log_joint(X)), **settings})


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
    causes = NoisyOr.from_probabilities([0.5], [[0.5]], [0.1])
    with pytest.raises(TypeError, match="training must be 'alternating' for this model: NoisyOr has no pullback"):
        ee.fit_vi(causes, Free.uniform(np.zeros((2, 2))), [[0], [1]], training="joint")
