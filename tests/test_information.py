"""Information: against second derivatives in 50 digits, published numbers, the measured rate of EM, and its corners."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from information_oracle import minus_hessian, slope

import elbo_exact as ee
from elbo_exact.errors import LogTableError, ZeroEvidence
from elbo_exact.families import Bernoulli, Binomial, Categorical, Gaussian, Multinomial, Poisson
from elbo_exact.fit import information
from elbo_exact.fit.information import n_free_parameters
from elbo_exact.models import Mixture, Monomial

U = 2.0**-53


def cases() -> dict[str, tuple[Mixture, Any]]:
    rng = np.random.default_rng(3)
    nan = math.nan
    triangle = np.array([[1.0, 0.0], [0.3, 0.8]])
    pair = np.log([0.4, 0.6])
    means = [[0.1, 0.2], [1.0, -0.5]]
    real = rng.normal(size=(12, 2)).tolist()
    gapped = [*real[:6], [nan, 0.4]]
    return {
        "bernoulli": (Mixture(pair, [Bernoulli.random(2, 2, rng=rng)]), [[0, 1], [1, 1], [nan, 0]]),
        "categorical": (
            Mixture(pair, [Categorical.random(2, 3, rng=rng), Categorical(np.log([[0.5, 0.5], [0.2, 0.8]]))]),
            [[0, 1], [2, 0], [1, nan]],
        ),
        "binomial": (Mixture(pair, [Binomial.random(2, [3, 4], rng=rng)]), [[3, 1], [0, 2]]),
        "multinomial": (Mixture(pair, [Multinomial.random(2, 3, rng=rng)]), [[3, 1, 0], [0, 2, 2]]),
        "poisson": (Mixture(pair, [Poisson([[0.0, 1.0], [1.5, -0.5]])]), [[3, 1], [0, nan], [1, 4]]),
        "spherical": (Mixture(pair, [Gaussian(means, [0.9, 1.4], "spherical")]), gapped),
        "diagonal": (Mixture(pair, [Gaussian(means, [[0.9, 1.4], [1.1, 0.7]], "diagonal")]), gapped),
        "tied": (Mixture(pair, [Gaussian(means, triangle, "tied")]), real),
        "full": (Mixture(pair, [Gaussian(means, [triangle, 1.3 * triangle + [[0, 0], [0.2, 0]]], "full")]), real),
        "mixed": (
            Mixture(pair, [Bernoulli.random(2, 1, rng=rng), Poisson([[0.3], [1.0]])]),
            [[1, 0], [0, 2], [1, 5]],
        ),
    }


def near_a_maximum(name: str) -> tuple[Mixture, Any]:
    """Gaussian cases after three steps: far from a maximum their complete information need not be positive."""
    model, x = cases()[name]
    return (ee.fit_em(model, x, max_iter=3).model if isinstance(model.components[0], Gaussian) else model), x


@pytest.mark.parametrize("name", cases())
def test_observed_information_is_minus_the_second_derivative_everywhere(name: str) -> None:
    model, x = near_a_maximum(name)
    counts = np.ones(len(x))
    found = information(model, x, weights=counts)
    names = [found.names[i] for i in found.coordinates]
    expected = minus_hessian(model, names, x, counts)
    # sums of N K products of scores, 100 roundings each; no product exceeds the diagonal of their second moments
    size = np.sqrt(np.abs(np.diagonal(found.complete)) + np.abs(np.diagonal(found.missing)) + found.gradient**2)
    assert (np.abs(found.observed - expected) <= 100 * len(x) * 2 * U * size[:, None] * size).all()


@pytest.mark.parametrize("name", cases())
def test_gradient_is_the_first_derivative(name: str) -> None:
    model, x = near_a_maximum(name)
    found, ones = information(model, x), np.ones(len(x))
    size = np.abs(found.gradient) + np.sqrt(np.abs(np.diagonal(found.complete)) * len(x))
    for place, value, bound in zip(found.coordinates, found.gradient, size, strict=True):
        assert abs(value - slope(model, found.names[place], x, ones)) <= 100 * len(x) * 2 * U * bound


def test_linkage_as_published() -> None:
    problem = ee.gallery.load("linkage")
    fit = ee.fit_em(problem.model, problem.x, weights=problem.counts, tolerance=0.0)
    found = information(fit.model, problem.x, weights=problem.counts)
    assert round(found.rate, 4) == 0.1328  # Dempster, Laird & Rubin 1977
    t = found.values[0]
    unit = (t * (1 - t)) ** 2  # from log odds to t
    published = {435.3: found.complete, 57.8: found.missing, 377.5: found.observed}  # Louis 1982
    for value, matrix in published.items():
        assert round(float(matrix[0, 0]) / unit, 1) == value
    # computed in bounds with 15 digits; the condition of the problem is near 1
    assert found.rate == pytest.approx(0.132778733746, abs=1e-12)
    assert float(found.standard_errors[0]) ** -2 == pytest.approx(377.516900394687, rel=1e-12)


def test_coins_to_all_digits() -> None:
    problem = ee.gallery.load("coins")
    fit = ee.fit_em(problem.model, problem.x, weights=problem.counts, tolerance=0.0)
    found = information(fit.model, problem.x, weights=problem.counts)
    assert found.rates.round(8).tolist() == [0.40969066, 0.37799534]
    p = found.values[[0, 2]]
    unit = np.outer(p * (1 - p), p * (1 - p))
    assert np.allclose(found.complete / unit, np.diag([156.4214631, 98.84291773]), rtol=1e-9, atol=1e-9)
    assert np.allclose(np.abs(found.missing / unit), [[59.34271789, 0.80473381], [0.80473381, 40.35844534]], rtol=1e-8)


@pytest.mark.parametrize("name", ["linkage", "coins"])
def test_measured_rate_is_the_predicted_one(name: str) -> None:
    problem = ee.gallery.load(name)
    fit = ee.fit_em(problem.model, problem.x, weights=problem.counts, tolerance=0.0)
    found = information(fit.model, problem.x, weights=problem.counts)
    # the next rate still shows: its share has shrunk by (second/first)^(2 n)
    clear = int((fit.gains > 1e6 * fit.gain_errors).sum())
    leak = 2.0 * (found.rates[1] / found.rate) ** clear if len(found.rates) > 1 else 1e-5
    assert abs(fit.measured_rate - found.rate) <= leak + 1e-5


def test_three_classes_of_stouffer_toby_are_not_determined() -> None:
    problem = ee.gallery.load("stouffer-toby")
    fit = ee.fit_em(Mixture.random(3, [2] * 4, rng=0), problem.x, weights=problem.counts, tolerance=0.0, max_iter=30_000)
    found = information(fit.model, problem.x, weights=problem.counts)
    assert (len(found.coordinates), found.n_undetermined) == (14, 1)  # Goodman 1974: 14 parameters, 13 of them determined
    assert np.isinf(found.standard_errors).any() and not np.isnan(found.covariance).any()
    assert None in json.loads(json.dumps(found.to_dict(), allow_nan=False))["standard_errors"]


def test_one_class_has_the_textbook_standard_errors() -> None:
    x = np.repeat([[0], [1]], [30, 10], axis=0)
    found = information(ee.fit_em(Mixture([0.0], [Bernoulli.from_probabilities([[0.5]])]), x).model, x)
    assert found.rate <= 4 * U and found.standard_errors[1:] == pytest.approx([math.sqrt(0.25 * 0.75 / 40)] * 2, rel=1e-13)
    assert found.standard_errors[0] == 0.0  # a share of 1 is no parameter


def test_gaussian_has_the_textbook_standard_errors() -> None:
    x = np.random.default_rng(0).normal(size=(50, 1))
    model = ee.fit_em(Mixture([0.0], [Gaussian([[0.0]], [1.0], "spherical")]), x).model
    found = information(model, x)
    deviation = model.components[0].scales[0]
    assert found.standard_errors[1:] == pytest.approx([deviation / math.sqrt(50), deviation / math.sqrt(100)], rel=1e-12)


def test_zeros_are_no_parameters_and_an_empty_class_has_no_information() -> None:
    zero = Categorical([[0.0, -np.inf, -np.inf], *np.log([[0.2, 0.3, 0.5]])])
    model = Mixture(np.log([0.5, 0.5]), [zero])
    assert n_free_parameters(model) == 1 + 0 + 2
    found = information(model, [[0], [1], [2]])
    assert found.covariance[3, 3] == found.standard_errors[3] == 0.0
    empty = Mixture([0.0, -np.inf], [Bernoulli.from_probabilities([[0.5], [0.3]])])
    alone = information(empty, [[0], [1]])
    assert len(alone.coordinates) == 1 and np.isinf(alone.standard_errors[-2:]).all()


@pytest.mark.parametrize(
    ("model", "number"),
    [
        (Mixture.random(3, [2, 2, 4], rng=0), 2 + 3 * (1 + 1 + 3)),
        (Mixture(np.log([0.5, 0.5]), [Poisson([[0.0, -np.inf], [1.0, 1.0]])]), 1 + 3),
        (Mixture(np.log([0.5, 0.5]), [Gaussian(np.zeros((2, 3)), np.eye(3), "tied")]), 1 + 6 + 6),
        (Mixture(np.log([0.5, 0.5]), [Gaussian(np.zeros((2, 3)), [np.eye(3)] * 2, "full")]), 1 + 6 + 12),
        (Monomial(np.log([[0.5, 0.5]]), [[0.0]], np.ones((1, 1, 1, 2))), 1),
    ],
)
def test_number_of_free_parameters(model: Any, number: int) -> None:
    assert n_free_parameters(model) == number


@pytest.mark.parametrize("threads", ["1", "2"])
def test_blocks_and_threads_do_not_change_bits(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = cases()["mixed"]
    rows = np.tile(x, (40, 1))
    whole = information(model, rows)
    monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", threads)
    assert np.array_equal(information(model, rows).observed, whole.observed)


def test_refused_arguments() -> None:
    model = Mixture.random(2, [2], rng=0)
    with pytest.raises(TypeError, match="model must be one of elbo_exact.models"):
        information(3, [[0]])
    with pytest.raises(LogTableError, match=r"weights must have shape \(1,\)"):
        information(model, [[0]], weights=[1.0, 2.0])
    with pytest.raises(LogTableError, match="weights must be finite and >= 0; got nan at index 0"):
        information(model, [[0]], weights=[math.nan])
    with pytest.raises(ZeroEvidence):
        information(Mixture([0.0], [Categorical([[0.0, -np.inf]])]), [[1]])
    far = Mixture(np.log([0.5, 0.5]), [Gaussian([[0.0], [0.1]], [9.0, 9.0], "spherical")])
    with pytest.raises(ValueError, match="fit it first"):
        information(far, [[0.0], [0.1]])
