"""Distinct maxima: label-free, counted, on ridges; and the criteria of the best."""

from __future__ import annotations

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from test_fit import COUNTS, PATTERNS, start

import elbo_exact as ee
from elbo_exact.families import Bernoulli, Categorical, Gaussian, Poisson
from elbo_exact.fit import Criteria, Outcome, fit_em, information
from elbo_exact.fit.optima import distinct_optima, remaining_gain
from elbo_exact.models import BayesianNetwork, DawidSkene, HiddenMarkov, Mixture, NoisyOr, SigmoidBelief

U = 2.0**-53


def mirrored() -> Any:
    """Two pairs of columns, each of which wants two classes: two maxima of exactly the same height, and more below."""
    x = np.array([[a, a, b, b] for a in (0, 1) for b in (0, 1)])
    return np.repeat(x, 10, axis=0)


def test_maxima_of_one_height_are_told_apart_and_labels_are_not() -> None:
    fit = fit_em(Mixture.random(2, [2] * 4, rng=0), mirrored(), restarts=15, rng=1)
    top = [optimum for optimum in fit.optima if abs(optimum.objective - fit.objective) <= 1e-9]
    assert len(top) == 2  # classes by the first pair, or by the second
    # one pair certain, the other even: log 1/2 for the class and log 1/4 for the other two columns
    assert fit.objective == pytest.approx(40 * (math.log(0.5) + 2 * math.log(0.5)), rel=1e-13)
    assert sum(optimum.count for optimum in fit.optima) == sum(end.outcome is Outcome.CONVERGED for end in fit.restarts)
    assert sorted(start for optimum in fit.optima for start in optimum.starts) == list(range(16))


def test_a_ridge_is_one_maximum() -> None:
    problem = ee.gallery.load("stouffer-toby")
    fit = fit_em(
        Mixture.random(3, [2] * 4, rng=0), problem.x, weights=problem.counts, restarts=3, rng=1, acceleration="squarem"
    )
    assert [optimum.count for optimum in fit.optima] == [4]
    models = [Mixture.random(3, [2] * 4, rng=0), fit.model]
    assert models[0].to_dict() != models[1].to_dict()


def test_optima_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("ELBO_EXACT_NUM_THREADS", threads)
        found.append(fit_em(start(1), PATTERNS, weights=COUNTS, restarts=5, rng=2).to_dict())
    with ThreadPoolExecutor(2) as pool:
        found.append(fit_em(start(1), PATTERNS, weights=COUNTS, restarts=5, rng=2, executor=pool).to_dict())
    assert found[0] == found[1] == found[2]


def test_unfinished_ends_are_no_maxima() -> None:
    assert fit_em(start(1), PATTERNS, weights=COUNTS, max_iter=2).optima == ()


def test_remaining_gain_of_a_slow_fit_is_what_it_still_gains() -> None:
    short = fit_em(start(1), PATTERNS, weights=COUNTS, tolerance=1e-6)
    whole = fit_em(start(1), PATTERNS, weights=COUNTS, tolerance=0.0)
    assert remaining_gain(short) == pytest.approx(whole.objective - short.objective, rel=0.1)


def test_criteria_by_their_definitions() -> None:
    fit = fit_em(start(1), PATTERNS, weights=COUNTS)
    table = ee.posterior(fit.model.log_joint(PATTERNS))
    doubt = -math.fsum(c * p * math.log(p) for c, row in zip(COUNTS, table.tolist(), strict=True) for p in row if p > 0)
    n, criteria = COUNTS.sum(), fit.criteria
    assert criteria is not None and criteria.n_parameters == 7 and criteria.n_observations == n
    assert criteria.aic == 14 - 2 * fit.objective and criteria.bic == 7 * math.log(n) - 2 * fit.objective
    assert criteria.icl == pytest.approx(criteria.bic + 2 * doubt, rel=100 * U)


def test_criteria_of_a_map_fit_leave_the_prior_out() -> None:
    fit = fit_em(start(1), PATTERNS, weights=COUNTS, prior=0.5)
    assert fit.criteria is not None
    evidence = ee.log_evidence(fit.model.log_joint(PATTERNS))
    assert fit.criteria.log_evidence == pytest.approx(math.fsum(COUNTS * evidence), rel=40 * U)
    assert fit.criteria.log_evidence > fit.objective


def test_zeros_of_the_start_are_no_parameters_but_zeros_of_the_fit_are() -> None:
    zero = Mixture(np.log([0.5, 0.5]), [Categorical([[0.0, -np.inf], np.log([0.5, 0.5])])])
    assert fit_em(zero, [[0], [1]]).criteria.n_parameters == 2
    sure = Mixture([0.0], [Bernoulli.from_probabilities([[0.5]])])
    assert fit_em(sure, [[1], [1]]).criteria.n_parameters == 1


def test_parameters_of_every_model_are_counted() -> None:
    """By hand: categories but one of each possible row; zeros, absent and certain links are none. A chain is observed at each step."""
    chain = HiddenMarkov([0.0, -np.inf], np.log([[0.5, 0.5], [0.2, 0.8]]), Categorical.random(2, 3, rng=0))
    sequences = [np.array([0, 1, 2, 0]), np.array([1, 1])]
    found = fit_em(chain, sequences, weights=[2.0, 1.0], max_iter=3).criteria
    assert found is not None and (found.n_parameters, found.n_observations) == (0 + 2 + 4, 10.0)
    assert found.bic == 6 * math.log(10.0) - 2.0 * found.log_evidence < found.icl
    raters = DawidSkene(np.log([0.5, 0.5]), np.full((3, 2, 2), -math.log(2.0)))
    assert fit_em(raters, [[0, 1, 1], [1, 1, 0], [0, 0, 0]], max_iter=3).criteria.n_parameters == 1 + 3 * 2
    causes = NoisyOr(np.log([[0.5, 0.5]] * 2), [[0.7, 0.0], [np.inf, 0.3]], [0.1, 0.2])
    assert fit_em(causes, [[1, 1], [0, 0]], max_iter=1).criteria.n_parameters == 2 + 2 + 2
    layer = SigmoidBelief(np.log([[0.5, 0.5]] * 2), [[1.0, -1.0]], [0.5])
    assert fit_em(layer, [[1], [0]], max_iter=1).criteria.n_parameters == 2 + 2 + 1
    states = {"burglary": ["no", "yes"], "alarm": ["off", "on"]}
    tables = {"burglary": [0.9, 0.1], "alarm": [[1.0, 0.0], [0.2, 0.8]]}
    assert BayesianNetwork.from_probabilities(states, {"burglary": [], "alarm": ["burglary"]}, tables).n_parameters == 1 + 0 + 1


def test_one_class_has_no_doubt() -> None:
    fit = fit_em(Mixture([0.0], [Gaussian([[0.0]], [1.0], "spherical")]), [[0.0], [1.0], [3.0]])
    assert fit.criteria.entropy == 0.0 and fit.criteria.icl == fit.criteria.bic
    assert Criteria(0.0, 0.0, 1.0, 0, 1.0).icl == 2.0


def test_to_dict_is_json() -> None:
    fit = fit_em(start(1), PATTERNS, weights=COUNTS, restarts=2, rng=0)
    back = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    assert back["criteria"]["bic"] == fit.criteria.bic
    assert [entry["count"] for entry in back["optima"]] == [optimum.count for optimum in fit.optima]


def test_a_saddle_that_em_leaves_too_slowly_is_no_maximum() -> None:
    """Accidents of 9461 drivers (Simar 1976, Ann. Statist. 4:1200): a rate near 0 regrows by 3.5 % a step, gaining nothing to see."""
    accidents, drivers = np.arange(8.0)[:, None], [7840.0, 1317.0, 239.0, 42.0, 14.0, 4.0, 4.0, 1.0]
    saddle = Mixture(np.log([0.54, 0.46]), [Poisson([[-38.4], [-0.7633898654084696]])])
    fit = fit_em(saddle, accidents, weights=drivers, restarts=2, rng=1)
    assert fit.restarts[0].outcome is Outcome.CONVERGED and fit.restarts[0].objective < -5375.6
    assert [round(one.objective, 5) for one in fit.optima] == [-5347.962] and fit.optima[0].count == 2
    alone = fit_em(saddle, accidents, weights=drivers)
    assert len(alone.optima) == 1 and information(alone.model, accidents, weights=drivers).rate > 1.01


def test_ends_of_one_distribution_are_one_maximum_whatever_their_last_gains_let_one_expect() -> None:
    fit = fit_em(start(1), PATTERNS, weights=COUNTS)
    rows, none = ee.log_evidence(fit.model.log_joint(PATTERNS)), np.empty(0)
    lower = dataclasses.replace(fit, trace=fit.trace - 1e-6)
    assert 1e-6 > 10.0 * (fit.error + 2.0 * remaining_gain(fit))
    for apart, n_maxima in ((3e-8, 1), (3e-6, 2)):
        found = distinct_optima([fit, lower], [rows, rows + apart], [none, none], COUNTS)
        assert len(found) == n_maxima and found[0].objective == fit.objective


def test_one_maximum_of_a_ridge_that_accelerated_starts_end_on() -> None:
    """Colds of 602 Thai children (Boehning et al. 1992, Biometrics 48:283), five Poissons: four are enough, so the maximum is a ridge."""
    children = [120, 64, 69, 72, 54, 35, 36, 25, 25, 19, 18, 18, 13, 4, 3, 6, 6, 5, 1, 3, 1, 2, 0, 1, 2]
    five = Mixture(np.full(5, -math.log(5.0)), [Poisson(np.log(np.linspace(1.0, 15.0, 5))[:, None])])
    fit = fit_em(five, np.arange(25.0)[:, None], weights=children, restarts=3, rng=1, acceleration="squarem")
    assert [optimum.count for optimum in fit.optima] == [4] and round(fit.objective, 3) == -1553.810
