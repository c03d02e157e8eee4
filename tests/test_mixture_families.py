"""Mixtures of any families under EM: naive loops, scikit-learn, gains in ball arithmetic, missing values, priors, collapse."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from arb_oracle import verdict
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st
from test_categorical import SEEDS, exact_log_probability
from test_gaussian import KINDS, draw_family, exact_log_density

from elbo_exact.errors import LogTableError
from elbo_exact.families import Bernoulli, Categorical, Gaussian, NormalInverseWishart, Poisson
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.fit.gain import CERTAIN
from elbo_exact.models import Mixture, MixtureStatistics

HALF = np.log([0.5, 0.5])


@pytest.fixture(autouse=True, scope="module")
def _bits() -> Iterator[None]:
    before, ctx.prec = ctx.prec, 420
    yield
    ctx.prec = before


def blobs(n: int, n_columns: int, seed: int) -> Any:
    """Three overlapping clouds."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(3, n_columns)) * 2.5
    return centers[rng.integers(3, size=n)] + rng.normal(size=(n, n_columns)) @ (np.eye(n_columns) + 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_em_equals_scikit_learn(kind: Any) -> None:
    mixture = pytest.importorskip("sklearn.mixture", reason="scikit-learn is not installed")
    x = blobs(300, 3, 5)
    family = Gaussian.random(x, 3, kind, rng=2)
    shares = np.array([0.5, 0.3, 0.2])
    fit = fit_em(Mixture(np.log(shares), [family]), x, max_iter=25, tolerance=0.0)
    name = {"diagonal": "diag"}.get(kind, kind)
    precisions = np.linalg.inv(family.covariances) if kind in ("tied", "full") else 1.0 / family.covariances
    other = mixture.GaussianMixture(
        3, covariance_type=name, reg_covar=0.0, tol=0.0, max_iter=25, weights_init=shares, means_init=family.means,
        precisions_init=precisions,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 25 iterations are not the end
        other.fit(x)
    fitted = fit.model.components[0]
    assert fit.n_iter == other.n_iter_ == 25
    for mine, theirs in (
        (np.exp(fit.model.log_weights), other.weights_),
        (fitted.means, other.means_),
        (fitted.covariances, other.covariances_),
        (fit.objective / 300, other.score(x)),
    ):
        assert np.abs(mine - theirs).max() <= 1e-9 * np.abs(theirs).max()


def naive_em(x: Any, weights: Any, density: Any, maximize: Any, parameters: Any, n_steps: int) -> Any:
    """EM in plain loops: a list of class weights, a density(row, parameter), a maximize(rows, responsibilities)."""
    weights = list(weights)
    for _ in range(n_steps):
        shares = []
        for row in x:
            joint = [w * density(row, p) for w, p in zip(weights, parameters, strict=True)]
            shares.append([value / math.fsum(joint) for value in joint])
        weights = [math.fsum(r[k] for r in shares) / len(x) for k in range(len(weights))]
        parameters = [maximize(x, [r[k] for r in shares]) for k in range(len(weights))]
    return weights, parameters


def column_means(x: Any, responsibilities: Any) -> list[float]:
    """Weighted mean of every column."""
    total = math.fsum(responsibilities)
    return [math.fsum(r * row[d] for r, row in zip(responsibilities, x, strict=True)) / total for d in range(len(x[0]))]


def test_poisson_mixture_equals_the_naive_loop() -> None:
    rng = np.random.default_rng(8)
    x = rng.poisson(np.array([[2.0, 9.0], [6.0, 1.0]])[rng.integers(2, size=60)])
    start = [[1.0, 4.0], [4.0, 3.0]]

    def density(row: Any, rates: Any) -> float:
        return math.prod(math.exp(-r) * r**v / math.factorial(v) for v, r in zip(row, rates, strict=True))

    weights, rates = naive_em(x.tolist(), [0.4, 0.6], density, column_means, start, 30)
    fit = fit_em(Mixture(np.log([0.4, 0.6]), [Poisson.from_rates(start)]), x, max_iter=30, tolerance=0.0)
    # 30 contracting steps of a few hundred roundings each
    assert np.abs(np.exp(fit.model.log_weights) - weights).max() <= 1e-12
    assert np.abs(np.exp(fit.model.components[0].log_rates) / rates - 1.0).max() <= 1e-12


def test_bernoulli_mixture_equals_the_naive_loop_and_the_categorical_one() -> None:
    rng = np.random.default_rng(9)
    x = (rng.random((50, 4)) < rng.random((2, 4))[rng.integers(2, size=50)]).astype(int)
    start = rng.uniform(0.2, 0.8, (2, 4))

    def density(row: Any, chances: Any) -> float:
        return math.prod(p if v else 1.0 - p for v, p in zip(row, chances, strict=True))

    weights, chances = naive_em(x.tolist(), [0.4, 0.6], density, column_means, start.tolist(), 30)
    family = Bernoulli.from_probabilities(start)
    fit = fit_em(Mixture(np.log([0.4, 0.6]), [family]), x, max_iter=30, tolerance=0.0)
    assert np.abs(np.exp(fit.model.log_weights) - weights).max() <= 1e-12
    assert np.abs(np.exp(fit.model.components[0].log_probabilities[:, :, 1]) - chances).max() <= 1e-12
    columns = [Categorical(family.log_probabilities[:, d]) for d in range(4)]
    same = fit_em(Mixture(np.log([0.4, 0.6]), columns), x, max_iter=30, tolerance=0.0)
    assert abs(same.objective - fit.objective) <= 1e-12 * abs(fit.objective)


def exact_objective(model: Mixture, x: Any) -> Any:
    """Log evidence of the data under a mixture with one Gaussian, as a ball."""
    total = arb(0)
    for row in x.tolist():
        terms = [
            (exact_log_probability(model.log_weights.tolist(), k) + exact_log_density(model.components[0], row, k)).exp()
            for k in range(model.n_components)
        ]
        total += sum(terms, arb(0)).log()
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_steps", [1, 5, 25])
def test_gains_of_gaussians_are_within_their_bounds(kind: Any, n_steps: int) -> None:
    x = blobs(25, 2, 3)
    if kind in ("spherical", "diagonal"):
        x[::6, 0] = math.nan
    start = Mixture(HALF, [Gaussian.random(x, 2, kind, rng=1)])
    fits = [fit_em(start, x, max_iter=n, tolerance=0.0) for n in (n_steps, n_steps + 1)]
    ends = [exact_objective(fit.model, x) for fit in fits]
    assert fits[1].n_iter == n_steps + 1
    assert verdict(fits[1].objective, fits[1].error, ends[1]) == "inside"
    assert verdict(fits[1].gains[-1], fits[1].gain_errors[-1], ends[1] - ends[0]) == "inside"
    assert fits[1].gain_errors[-1] <= max(fits[1].gains[-1] / CERTAIN, 1e-15)  # and the bounds say something


@settings(max_examples=15)
@given(st.sampled_from(KINDS), SEEDS, st.booleans())
def test_no_step_of_gaussians_loses(kind: Any, seed: int, with_prior: bool) -> None:
    x = blobs(40, 2, seed)
    prior = None
    if with_prior:
        prior = MixtureStatistics(np.ones(3), (NormalInverseWishart([0.0, 0.0], 0.1, 0.5, 1.0),))
    fit = fit_em(
        Mixture(np.log([0.4, 0.3, 0.3]), [Gaussian.random(x, 3, kind, rng=seed)]), x, prior=prior, max_iter=40, tolerance=0.0
    )
    assert fit.outcome is not Outcome.NOT_MONOTONE and (fit.gains >= -fit.gain_errors).all()
    assert not (with_prior and fit.outcome is Outcome.DEGENERATE)
    assert fit.outcome is not Outcome.CONVERGED or fit.gain_errors[-1] < math.inf


def product(rng: Any) -> Mixture:
    """Six columns: two yes or no, one answer in three, one count, two real ones."""
    families = [Bernoulli.random(2, 2, rng=rng), Categorical.random(2, 3, rng=rng), Poisson.from_rates(rng.exponential(3.0, 2))]
    return Mixture(HALF, [*families, draw_family("diagonal", 2, 2, rng, 0.3)])


@settings(max_examples=25)
@given(SEEDS, st.booleans())
def test_a_product_of_families_with_missing_values(seed: int, with_prior: bool) -> None:
    rng = np.random.default_rng(seed)
    model = product(rng)
    x, z = model.sample(40, rng=rng)
    assert x.shape == (40, 6) and x.dtype == np.float64 and set(z.tolist()) <= {0, 1}
    x[rng.random(x.shape) < 0.15] = math.nan
    x[0] = math.nan
    table, change = model.log_joint(x), model.log_joint_change(product(rng), x)
    assert table[0].tolist() == model.log_weights.tolist() and change[0].tolist() == [0.0, 0.0]
    prior = None
    if with_prior:
        gaussian = NormalInverseWishart([0.0, 0.0], 0.5, 0.5, 1.0)
        prior = MixtureStatistics(np.array(1.0), (0.5, 0.5, [1.0, 2.0], gaussian))
    fit = fit_em(product(rng), x, prior=prior, max_iter=30, tolerance=0.0)
    assert fit.outcome is not Outcome.NOT_MONOTONE and (fit.gains >= -fit.gain_errors).all()
    before, after = fit_em(fit.model, x, prior=prior, max_iter=1).trace if fit.outcome is Outcome.MAX_ITER else (0.0, 0.0)
    assert after >= before - 2.0 * fit.error
    assert json.loads(json.dumps(fit.model.to_dict()))["components"][2]["family"] == "poisson"


def test_missing_values_are_marginal_tables() -> None:
    rng = np.random.default_rng(0)
    model = product(rng)
    row = np.array([[1.0, math.nan, 2.0, 3.0, math.nan, 0.5]])
    answers, category, counts, reals = model.components
    one = Bernoulli(answers.log_probabilities[:, :1])
    seen = Mixture(HALF, [one, category, counts, Gaussian(reals.means[:, 1:], reals.scales[:, 1:], "diagonal")])
    (mine, error), (theirs, other_error) = model.log_joint_and_error(row), seen.log_joint_and_error([[1.0, 2.0, 3.0, 0.5]])
    assert (np.abs(mine - theirs) <= error + other_error).all()


def test_collapse_ends_the_fit_with_its_number() -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0], [50.0]])
    start = Mixture(HALF, [Gaussian([[1.0], [50.0]], [2.0, 1.0], "spherical")])
    fit = fit_em(start, x)
    assert fit.outcome is Outcome.DEGENERATE and "component 1 collapsed" in fit.detail and fit.detail.startswith("step ")
    assert np.isfinite(fit.objective) and len(fit.trace) == fit.n_iter + 1
    prior = MixtureStatistics(np.zeros(2), (NormalInverseWishart([0.0], 0.0, 1.0, 1.0),))
    assert fit_em(start, x, prior=prior).outcome is Outcome.CONVERGED


def test_a_collapsed_start_is_not_the_best() -> None:
    x = blobs(30, 1, 1)
    start = Mixture(HALF, [Gaussian([[0.0], x[0]], [2.0, 1e-4], "spherical")])
    fit = fit_em(start, x, restarts=3, rng=3, max_iter=200)
    ends = [end.outcome for end in fit.restarts]
    assert ends[0] is Outcome.DEGENERATE and not all(end is Outcome.DEGENERATE for end in ends)
    assert fit.outcome is not Outcome.DEGENERATE
    with ThreadPoolExecutor(2) as threads:
        again = fit_em(start, x, restarts=3, rng=3, max_iter=200, executor=threads)
    assert again.restarts == fit.restarts and again.trace.tolist() == fit.trace.tolist()


def test_zero_rates_and_empty_classes_stay() -> None:
    model = Mixture([0.0, -math.inf], [Poisson([[-math.inf, 0.0], [0.0, 0.0]])])
    fit = fit_em(model, [[0, 3], [0, 1]])
    assert fit.model.log_weights.tolist() == [0.0, -math.inf]
    assert fit.model.components[0].log_rates[0].tolist() == [-math.inf, math.log(2.0)]
    assert fit.model.components[0].log_rates[1].tolist() == [0.0, 0.0]


def test_wrong_number_of_columns() -> None:
    with pytest.raises(LogTableError) as caught:
        product(np.random.default_rng(0)).log_joint([[0.0, 1.0]])
    assert str(caught.value) == "x must have shape (N, 6), the columns of all families side by side; got (1, 2)."
