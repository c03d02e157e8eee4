"""Information of chains, networks, raters and layers: against second derivatives in 50 digits, the measured rate, and their corners."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from information_oracle import minus_hessian, slope

import elbo_exact as ee
from elbo_exact.errors import EnumerationTooLarge, LogTableError, ZeroEvidence
from elbo_exact.families import Bernoulli, Categorical, Gaussian, Poisson
from elbo_exact.fit import information
from elbo_exact.fit.information import n_free_parameters
from elbo_exact.models import BayesianNetwork, DawidSkene, HiddenMarkov, Mixture, NoisyOr, NoisyOrStatistics, SigmoidBelief
from elbo_exact.models._derivatives import joint_derivatives

U = 2.0**-53
NAN = math.nan


def network(hidden: tuple[str, ...] = ()) -> BayesianNetwork:
    rng = np.random.default_rng(2)
    states = {"a": ["0", "1"], "b": ["0", "1", "2"], "c": ["0", "1"], "d": ["0", "1"]}
    tables = {"a": rng.dirichlet([2, 2]), "b": rng.dirichlet([2] * 3, 2), "c": rng.dirichlet([2, 2], 2)}
    parents = {"b": ["a"], "c": ["a"], "d": ["c", "b"]}
    return BayesianNetwork.from_probabilities(states, parents, {**tables, "d": rng.dirichlet([2, 2], (2, 3))}, hidden)


def cases() -> dict[str, tuple[Any, Any]]:
    rng = np.random.default_rng(7)
    pair, moves = np.log([0.4, 0.6]), np.log([[0.7, 0.3], [0.2, 0.8]])
    zero = [[math.log(0.7), math.log(0.3)], [-np.inf, 0.0]]
    short, long = np.array([0, 2, 1]), np.array([1, 1, NAN, 0, 2])
    mixed = np.column_stack([rng.integers(0, 2, 5), rng.poisson(2.0, 5)]).astype(float)
    real = [rng.normal(size=4).round(2), rng.normal(1.0, size=3).round(2)]
    open_cells = [[0, -1, 1, 0], [-1, -1, 0, 1], [1, 2, 1, 1], [-1, 0, 0, -1], [0, -1, 0, 1]]
    layer = np.log([[0.6, 0.4], [0.3, 0.7]])
    findings = [[0, 1, 1], [1, 1, NAN], [0, 0, 1], [0, 1, 1], [1, 0, 0]]
    confusion = np.log(rng.dirichlet([3, 2, 1], (2, 2)))
    return {
        "chain": (HiddenMarkov(pair, moves, Categorical.random(2, 3, rng=rng)), [short, long, short[:1]]),
        "chain with a zero": (HiddenMarkov(pair, zero, Categorical.random(2, 3, rng=rng)), [short, long]),
        "chain of two families": (
            HiddenMarkov(pair, moves, [Bernoulli.random(2, 1, rng=rng), Poisson([[0.3], [1.0]])]),
            [mixed],
        ),
        "Gaussian chain": (HiddenMarkov(pair, moves, Gaussian([[0.1], [1.0]], [[0.9], [1.1]], "diagonal")), real),
        "network with open cells": (network(), open_cells),
        "network with hidden nodes": (network(("a", "c")), [[-1, 1, -1, 0], [-1, 2, 1, 1], [-1, 0, -1, 1], [-1, 1, -1, 0]]),
        "raters": (DawidSkene(pair, confusion, [0, 1, 1]), [[0, 1, 1], [2, NAN, 0], [1, 1, 2], [0, 1, 0]]),
        "noisy or": (NoisyOr(layer, [[0.5, 1.5], [0.0, 0.7], [2.0, np.inf]], [0.1, 0.3, 0.2]), findings),
        "belief": (SigmoidBelief(layer, [[0.5, -1.5], [0.3, 0.7], [2.0, 1.0]], [0.1, -0.3, 0.2]), findings),
    }


@pytest.mark.parametrize("name", cases())
def test_observed_information_and_gradient_are_derivatives_everywhere(name: str) -> None:
    model, x = cases()[name]
    if name == "Gaussian chain":  # far from a maximum its complete information need not be positive
        model = ee.fit_em(model, x, max_iter=3).model
    counts = 1.0 + np.arange(len(x)) / 2.0
    found = information(model, x, weights=counts)
    names = [found.names[i] for i in found.coordinates]
    expected = minus_hessian(model, names, x, counts)
    # sums over observations and states of products of scores, 100 roundings each; none exceeds the diagonal of second moments
    size = np.sqrt(np.abs(np.diagonal(found.complete)) + np.abs(np.diagonal(found.missing)) + found.gradient**2)
    n_terms = 100 * sum(np.size(row) for row in x) * 8
    assert (np.abs(found.observed - expected) <= n_terms * U * size[:, None] * size).all()
    for place, value in zip(names, found.gradient, strict=True):
        assert abs(value - slope(model, place, x, counts)) <= n_terms * U * (size.max() + 1.0)
    free = n_free_parameters(model)
    assert free == int(joint_derivatives(model).free.sum()) >= len(names)


def closed_step(rate: float, second: float, n_clear: int) -> float:
    """How far the next rate can still bend the measured one."""
    return 2.0 * (second / rate) ** n_clear + 1e-5


@pytest.mark.parametrize("name", ["raters", "network", "chain"])
def test_measured_rate_is_the_predicted_one(name: str) -> None:
    if name == "raters":
        model: Any = DawidSkene(np.log([0.4, 0.6]), np.log([[[0.8, 0.1, 0.1], [0.1, 0.2, 0.7]]] * 3), [0, 1, 1, 2])
        x: Any = model.sample(200, rng=2)[0]
    elif name == "network":
        model, x = network(), network().sample(300, rng=1).astype(float)
        x[::3, 1] = x[::4, 3] = x[20:, 0] = -1
    else:
        confusion = np.log([[0.95, 0.03, 0.02], [0.05, 0.15, 0.8]])
        model = HiddenMarkov(np.log([0.5, 0.5]), np.log([[0.8, 0.2], [0.3, 0.7]]), Categorical(confusion))
        x = [model.sample(30, rng=seed)[0] for seed in range(20)]
    fit = ee.fit_em(model, x, tolerance=0.0, max_iter=5000)
    found = information(fit.model, x)
    clear = int((fit.gains > 1e6 * fit.gain_errors).sum())
    # gains stand out of their errors by 1e6, so a measured rate has errors of 1e-6 and what is left of the second rate
    assert abs(fit.measured_rate - found.rate) <= closed_step(found.rate, found.rates[1], clear)
    assert 0.1 < found.rate < 1.0 and np.isfinite(found.standard_errors).all()


def test_links_that_fire_unseen_slow_em_as_predicted() -> None:
    """One cause that is always there, and its rival the leak: which of the two fired is all that is hidden."""
    model = NoisyOr([[-np.inf, 0.0]], [[0.7], [1.1]], [0.4, 0.2])
    x = np.repeat([[0, 1], [1, 1], [1, 0]], [5, 9, 6], axis=0)
    found = information(ee.fit_em(model, x).model, x)
    # only strength + leak is determined: one direction of each finding stands still
    assert found.n_undetermined == 2 and np.isinf(found.standard_errors[2:]).all()


def test_states_that_are_seen_leave_nothing_missing() -> None:
    see = Categorical([[0.0, -np.inf], [-np.inf, 0.0]])
    path = np.array([0, 0, 1, 0, 1, 1, 1, 0, 0, 1])
    model = ee.fit_em(HiddenMarkov(np.log([0.5, 0.5]), np.log([[0.5, 0.5], [0.5, 0.5]]), see), path).model
    found = information(model, path)
    stay, leave = 2, 3  # steps out of state 0
    assert np.abs(found.missing).max() <= 16 * U * np.diagonal(found.complete).max()
    p = leave / (stay + leave)
    # the count of a chain's step is a binomial's
    assert found.standard_errors[2:4] == pytest.approx([math.sqrt(p * (1 - p) / (stay + leave))] * 2, rel=1e-13)


def test_long_chains_in_blocks_and_beyond_the_range_of_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HiddenMarkov(
        np.log([0.4, 0.6]), np.log([[0.9, 0.1], [0.2, 0.8]]), Gaussian([[0.0], [3.0]], [1.0, 2.0], "spherical")
    )
    x = model.sample(400, rng=3)[0]
    x[200] = 900.0  # 100,000 nats: the forward variable of one state is below every double
    whole = information(model, [x])
    monkeypatch.setattr("elbo_exact.models._derivatives_chain.BLOCK", 7 * 4 * len(whole.names))
    pieces = information(model, [x])
    size = np.sqrt(np.diagonal(whole.complete) + np.diagonal(whole.missing))
    assert (np.abs(pieces.missing - whole.missing) <= 400 * 4 * U * size[:, None] * size).all()
    assert (np.linalg.eigvalsh(whole.missing / size[:, None] / size) >= -400 * 4 * U).all()
    assert (np.abs(whole.gradient - pieces.gradient) <= 400 * 4 * U * size**2).all()  # no score exceeds 1 + its square


def test_layers_in_blocks_and_equal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = cases()["noisy or"]
    whole = information(model, np.tile(x, (3, 1)))
    monkeypatch.setattr("elbo_exact.models._derivatives_causes.BLOCK", 1)
    counted = information(model, x, weights=np.full(len(x), 3.0))
    scale = np.sqrt(np.diagonal(whole.complete))
    assert (np.abs(whole.observed - counted.observed) <= 100 * U * scale[:, None] * scale).all()


def test_observations_without_weight_do_not_count() -> None:
    model, x = cases()["chain"]
    found, alone = information(model, x, weights=[1.0, 0.0, 2.0]), information(model, [x[0], x[2]], weights=[1.0, 2.0])
    assert np.array_equal(found.observed, alone.observed) and np.array_equal(found.gradient, alone.gradient)


def test_refused() -> None:
    chain, x = cases()["chain with a zero"]
    with pytest.raises(LogTableError, match=r"weights must have shape \(2,\)"):
        information(chain, x, weights=[1.0])
    seen = Categorical([[0.0, -np.inf], [-np.inf, 0.0]])
    with pytest.raises(ZeroEvidence, match="row 0"):
        information(HiddenMarkov(chain.log_initial, chain.log_transition, seen), [np.array([1, 0])])
    flat = np.full((1, 10_000), -math.log(10_000.0))
    with pytest.raises(EnumerationTooLarge, match="model has 10001 parameters, whose covariances need 6.0 GiB > 2 GiB"):
        information(DawidSkene([0.0], flat[None]), [[0]])
    far = HiddenMarkov([0.0], [[0.0]], Gaussian([[0.0]], [9.0], "spherical"))
    with pytest.raises(ValueError, match="complete information is not positive definite; fit it first"):
        information(far, np.array([0.0, 0.1]))


def test_parameters_that_only_act_together_are_not_determined() -> None:
    twins = SigmoidBelief([[-np.inf, 0.0]], [[1.0]], [0.0])  # a bias and a weight that are always added
    found = information(ee.fit_em(twins, [[0], [1], [1]]).model, [[0], [1], [1]])
    assert found.rates.tolist()[0] == 1.0 and found.n_undetermined == 1 and found.rate == 1.0
    assert np.isinf(found.standard_errors[2:]).all() and abs(found.rates[1]) <= 16 * U


def test_links_that_em_drove_to_nothing() -> None:
    for leak in (1e-150, 1e-160, 1e-300, 5e-324):
        found = information(NoisyOr(np.log([[0.5, 0.5]]), [[0.5]], [leak]), [[1.0], [0.0]])
        assert np.isfinite(found.complete).all() and np.isfinite(found.missing).all() and not np.isnan(found.covariance).any()
    tiny = NoisyOr(np.log([[0.5, 0.5]]), [[0.5]], [1e-160]).maximize(
        NoisyOrStatistics(np.array([[1.0, 1.0]]), np.array([[[1e-320, 1.0], [1.0, 1.0]]]))
    )
    assert 700.0 < tiny.leak[0] < 800.0


def test_the_layer_of_one_cause_has_the_rate_and_the_maximum_of_two_classes() -> None:
    truth = SigmoidBelief(np.log([[0.5, 0.5]]), [[2.0], [1.5], [2.8], [-2.4], [1.0]], [-1.0, -1.0, -1.0, 0.5, -0.5])
    rows, counts = np.unique(truth.sample(2000, rng=1)[0], axis=0, return_counts=True)
    fit = ee.fit_em(truth, rows, weights=counts, restarts=5, rng=2, max_iter=3000)
    classes = ee.fit_em(Mixture.random(2, [2] * 5, rng=0), rows, weights=counts, restarts=5, rng=2, max_iter=3000)
    assert [optimum.count for optimum in fit.optima] == [optimum.count for optimum in classes.optima] == [6]
    found = information(fit.model, rows, weights=counts)
    # both rates come from gains 100 times above their errors
    assert abs(found.rate - information(classes.model, rows, weights=counts).rate) <= 1e-5
    assert abs(fit.measured_rate - found.rate) <= 1e-2
