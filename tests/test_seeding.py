"""Starts around distant rows: reproducible, spread, zeros kept, every family."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_information import cases

import elbo_exact as ee
from elbo_exact.families import Bernoulli, Categorical, Gaussian
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.models import HiddenMarkov, Mixture, Monomial
from elbo_exact.models._seeding import seeded


def blobs() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(center, 0.1, (30, 2)) for center in ([0, 0], [5, 0], [0, 5], [5, 5])])


def test_each_blob_gets_a_seed() -> None:
    x = blobs()
    model = Mixture(np.log([0.25] * 4), [Gaussian.random(x, 4, "spherical", rng=0)])
    hits = 0
    for seed in range(20):
        means = seeded(model, x, np.ones(len(x)), np.random.default_rng(seed)).components[0].means
        # a tenth of the mean comes from everywhere, 0.25 at most from each blob's center
        hits += len({tuple((mean > 2.5).tolist()) for mean in means}) == 4
    # the chance of a second seed in one blob is below (100 * 2 * 0.02) / (30 * 25) each time: all twenty are expected to hit
    assert hits == 20


def test_rows_without_count_are_no_seeds() -> None:
    x = np.array([[0.0], [1.0], [100.0]])
    model = Mixture(np.log([0.5, 0.5]), [Gaussian([[0.0], [1.0]], [1.0, 1.0], "spherical")])
    for seed in range(10):
        assert seeded(model, x, np.array([1.0, 1.0, 0.0]), np.random.default_rng(seed)).components[0].means.max() < 1.5


@pytest.mark.parametrize("name", cases())
def test_every_family(name: str) -> None:
    model, x = cases()[name]
    one, two = (seeded(model, x, np.ones(len(x)), np.random.default_rng(4)) for _ in range(2))
    assert one.to_dict() == two.to_dict()
    assert np.isfinite(ee.log_evidence(one.log_joint(x))).all()


def test_structural_zeros_and_seen_categories_stay() -> None:
    model = Mixture(np.log([0.5, 0.5]), [Categorical([[0.0, -np.inf, -np.inf], np.log([0.3, 0.3, 0.4])])])
    start = seeded(model, [[0], [1], [2]], np.ones(3), np.random.default_rng(0))
    assert start.components[0].log_probabilities[0].tolist() == [0.0, -np.inf, -np.inf]
    assert np.isfinite(start.components[0].log_probabilities[1]).all()


def test_fewer_distinct_rows_than_classes_and_constant_columns() -> None:
    model = Mixture(np.log([0.2] * 5), [Bernoulli.random(5, 2, rng=0)])
    fit = fit_em(model, [[0, 1], [0, 1], [0, math.nan]], restarts=2, rng=0, starts="k-means++")
    assert fit.outcome is Outcome.CONVERGED and abs(fit.objective) <= fit.error


def test_data_on_a_line_collapse_in_the_fit_and_not_in_its_start() -> None:
    line = np.arange(6.0)[:, None] * [1.0, 2.0]
    model = Mixture(np.log([0.5, 0.5]), [Gaussian([[0.0, 0.0], [5.0, 9.0]], [np.eye(2)] * 2, "full")])
    fit = fit_em(model, line, restarts=1, rng=0, starts="k-means++")
    assert [end.outcome for end in fit.restarts] == [Outcome.DEGENERATE] * 2


def test_in_a_fit() -> None:
    x = blobs()
    model = Mixture(np.log([0.25] * 4), [Gaussian.random(x, 4, "full", rng=0)])
    fits = [fit_em(model, x, restarts=4, rng=7, starts="k-means++") for _ in range(2)]
    assert fits[0].to_dict() == fits[1].to_dict()
    assert fits[0].optima[0].count >= 4  # each seeded start finds the four blobs


def test_chains_start_around_rows_and_with_the_steps_between_them() -> None:
    means = np.array([[0.0], [10.0], [20.0]])
    moves = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.3, 0.0, 0.7]])
    with np.errstate(divide="ignore"):
        truth = HiddenMarkov(np.log([1.0, 0.0, 0.0]), np.log(moves), Gaussian(means, [0.5] * 3, "spherical"))
    x = [truth.sample(200, rng=seed)[0] for seed in range(4)]
    begin = HiddenMarkov.random(Gaussian([[9.0], [10.0], [11.0]], [8.0] * 3, "spherical"), rng=0)
    start = seeded(begin, x, np.array([1.0, 1.0, 1.0, 0.5]), np.random.default_rng(1))
    order = np.argsort(start.emission[0].means[:, 0])
    found = np.exp(start.log_transition)[np.ix_(order, order)]
    # a step keeps 0.9 * 0.9 of itself where it is, and the shares that are spread evenly are the same everywhere
    assert (np.diff(start.emission[0].means[order, 0]) > 5.0).all()
    assert (found.argmax(axis=1) == [0, 1, 2]).all() and found[0, 1] > found[0, 2] and found[2, 0] > found[2, 1]
    fit = fit_em(begin, x, restarts=5, rng=0, starts="k-means++")
    assert fit.optima[0].count >= 5 and fit.objective >= float(truth.log_evidence(x).sum())
    short = seeded(begin, [np.array([[1.0]]), np.array([[2.0]])], np.ones(2), np.random.default_rng(0))  # no step at all
    np.testing.assert_array_equal(short.log_transition, begin.log_transition)


def test_refused() -> None:
    model = Monomial(np.log([[0.5, 0.5]]), [[0.0]], np.ones((1, 1, 1, 2)))
    with pytest.raises(TypeError, match="starts must be 'random' for a Monomial"):
        fit_em(model, [0], restarts=1, starts="k-means++")
    with pytest.raises(ValueError, match=r"starts must be one of 'random', 'k-means\+\+'; got 'far'"):
        fit_em(model, [0], starts="far")
