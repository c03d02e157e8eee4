"""Generalized EM: a latent-class Rasch model, whose M-step has no closed form and only climbs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp

import elbo_exact as ee
from elbo_exact.families import Bernoulli
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.models import Mixture

U = 2.0**-53


@dataclass(frozen=True, eq=False)
class Rasch:
    """p(x_d = 1 | z = k) = logistic(abilities[k] - difficulties[d]) (Lindsay, Clogg & Grego 1991, JASA 86:96).

    Its M-step takes one gradient step, as long as the expected log joint allows: halved until that does not fall.
    """

    log_weights: Any
    abilities: Any
    difficulties: Any
    length: float = 1.0
    halving: bool = True

    @property
    def mixture(self) -> Mixture:
        logits = self.abilities[:, None] - self.difficulties
        return Mixture(self.log_weights, [Bernoulli(np.stack([log_expit(-logits), log_expit(logits)], axis=2))])

    def log_joint(self, x: Any, states: Any = None) -> Any:
        return self.mixture.log_joint(x, states)

    def log_joint_and_error(self, x: Any) -> Any:
        return self.mixture.log_joint_and_error(x)

    def log_joint_change_and_error(self, other: Rasch, x: Any) -> Any:
        return self.mixture.log_joint_change_and_error(other.mixture, x)

    def statistics(self, x: Any, weights: Any) -> Any:
        return self.mixture.statistics(x, weights)

    def maximize(self, statistics: Any, prior: Any = None) -> Rasch:
        seen = statistics.components[0]
        totals = seen.sum(axis=2)
        slope = seen[:, :, 1] - totals * expit(self.abilities[:, None] - self.difficulties)
        weights = np.log(statistics.weights / statistics.weights.sum())
        length = self.length * 2.0 / totals.sum(axis=0).mean()  # of logistic curvatures at most 1/4
        while length > 1e-12:
            abilities = self.abilities + length * slope.sum(axis=1)
            difficulties = self.difficulties - length * slope.sum(axis=0)
            following = Rasch(weights, abilities, difficulties, self.length, self.halving)
            if not self.halving or following.expected(seen) >= self.expected(seen):
                return following
            length /= 2.0
        return Rasch(weights, self.abilities, self.difficulties, self.length, self.halving)

    def expected(self, seen: Any) -> float:
        logits = self.abilities[:, None] - self.difficulties
        return float((seen[:, :, 0] * log_expit(-logits) + seen[:, :, 1] * log_expit(logits)).sum())

    def rounding_loss(self, statistics: Any, prior: Any, relative_error: float) -> float:
        """Two sums of fewer than 100 terms, and the M-step of the weights."""
        return 200.0 * U * abs(self.expected(statistics.components[0])) + self.mixture.rounding_loss(
            statistics, prior, relative_error
        )

    def randomize(self, rng: np.random.Generator) -> Rasch:
        return Rasch(self.log_weights, rng.normal(size=self.abilities.shape), rng.normal(size=self.difficulties.shape))

    def to_dict(self) -> dict[str, Any]:
        return {"abilities": self.abilities.tolist(), "difficulties": self.difficulties.tolist()}


def start(**settings: Any) -> Rasch:
    return Rasch(np.log([0.5, 0.5]), np.array([-0.5, 0.5]), np.array([0.1, 0.0, -0.1, 0.0]), **settings)


def naive_log_likelihood(parameters: Any, x: Any, counts: Any) -> float:
    share, abilities, difficulties = parameters[0], parameters[1:3], parameters[3:]
    logits = np.asarray(abilities)[:, None] - difficulties
    terms = [np.where(x == 1, log_expit(row), log_expit(-row)).sum(axis=1) for row in logits]
    return float(counts @ logsumexp([log_expit(-share) + terms[0], log_expit(share) + terms[1]], axis=0))


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_it_climbs_to_the_maximum_that_an_optimizer_finds(acceleration: Any) -> None:
    problem = ee.gallery.load("stouffer-toby")
    fit = fit_em(start(), problem.x, weights=problem.counts, acceleration=acceleration, tolerance=1e-10)
    assert fit.outcome is Outcome.CONVERGED and (fit.gains >= -fit.gain_errors).all()
    rival = minimize(
        lambda v: -naive_log_likelihood(v, problem.x, problem.counts),
        [0.0, -0.5, 0.5, 0.1, 0.0, -0.1, 0.0],
        options={"gtol": 1e-6},
    )
    # both stop where what is left is far below this; the optimizer differentiates by differences
    assert abs(fit.objective + rival.fun) <= 1e-6
    assert fit.criteria is None and fit.optima[0].count == 1


def test_restarts_and_a_checkpoint_need_nothing_more(tmp_path: Any) -> None:
    problem = ee.gallery.load("stouffer-toby")
    fits = [
        fit_em(start(), problem.x, weights=problem.counts, restarts=1, rng=0, max_iter=n, checkpoint=tmp_path / "a.npz")
        for n in (5, 9)
    ]
    assert np.array_equal(
        fits[1].trace, fit_em(start(), problem.x, weights=problem.counts, restarts=1, rng=0, max_iter=9).trace
    )


def test_a_step_too_long_is_reported_and_not_taken() -> None:
    problem = ee.gallery.load("stouffer-toby")
    fit = fit_em(start(length=30.0, halving=False), problem.x, weights=problem.counts)
    assert fit.outcome is Outcome.NOT_MONOTONE and (np.diff(fit.trace) > 0).all()
