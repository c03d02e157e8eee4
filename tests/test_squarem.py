"""Squared extrapolation: monotone, zeros kept, the same maxima, its fixed point, and every way to fall back."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_categorical import NINF, SEEDS
from test_fit import COUNTS, PATTERNS, Overshooting, start

import elbo_exact as ee
from elbo_exact.errors import CollapsedComponent
from elbo_exact.families import Bernoulli, Categorical, Gaussian, Poisson
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.fit.loop import Step
from elbo_exact.fit.optima import remaining_gain
from elbo_exact.fit.squarem import extrapolated, squared_step
from elbo_exact.models import Mixture

U = 2.0**-53


def at(mean: float, scale: float = 1.0) -> Mixture:
    return Mixture([0.0], [Gaussian([[mean]], [scale], "spherical")])


@given(SEEDS, st.integers(1, 4), st.sampled_from([None, 0.5]))
def test_no_cycle_loses(seed: int, n_components: int, prior: float | None) -> None:
    fit = fit_em(start(seed, n_components), PATTERNS, weights=COUNTS, prior=prior, max_iter=25, acceleration="squarem")
    assert fit.outcome is not Outcome.NOT_MONOTONE
    assert (fit.gains >= -fit.gain_errors).all()
    assert (np.diff(fit.trace) >= -fit.gain_errors - 2 * fit.error - 4 * U * abs(fit.objective)).all()


@given(SEEDS)
def test_a_cycle_gains_at_least_two_steps_where_it_starts(seed: int) -> None:
    two = fit_em(start(seed), PATTERNS, weights=COUNTS, max_iter=2, tolerance=0.0)
    one = fit_em(start(seed), PATTERNS, weights=COUNTS, max_iter=1, tolerance=0.0, acceleration="squarem")
    assert one.gains[0] >= math.fsum(two.gains) - 4 * U * math.fsum(two.gains)


@given(SEEDS)
def test_structural_zeros_stay(seed: int) -> None:
    first = Categorical([[0.0, NINF], [math.log(0.5), math.log(0.5)]])
    model = Mixture(np.log([0.5, 0.5]), (first, *start(seed).components[:2]))
    fit = fit_em(model, PATTERNS, weights=COUNTS, max_iter=15, acceleration="squarem")
    assert fit.model.components[0].log_probabilities[0, 1] == NINF
    for logs in (fit.model.log_weights, *(family.log_probabilities for family in fit.model.components)):
        assert np.logaddexp.reduce(logs, axis=-1) == pytest.approx(0.0, abs=1e-14)


def mixed() -> tuple[Mixture, Any]:
    rng = np.random.default_rng(5)
    z = rng.integers(0, 2, 120)
    x = np.column_stack([rng.random(120) < 0.2 + 0.6 * z, rng.poisson(1 + 3 * z), rng.normal(2.0 * z, 1.0)]).astype(float)
    families = [
        Bernoulli.from_probabilities([0.4, 0.6]),
        Poisson([[0.2], [1.0]]),
        Gaussian([[0.0], [1.0]], [1.0, 1.0], "spherical"),
    ]
    return Mixture(np.log([0.5, 0.5]), families), x


def test_the_same_maximum_in_fewer_steps() -> None:
    problem = ee.gallery.load("stouffer-toby")
    for model, x, counts in ((Mixture.random(2, [2] * 4, rng=0), problem.x, problem.counts), (*mixed(), None)):
        slow = fit_em(model, x, weights=counts)
        fast = fit_em(model, x, weights=counts, acceleration="squarem")
        assert fast.outcome is Outcome.CONVERGED
        assert abs(fast.objective - slow.objective) <= fast.error + slow.error + 2 * (
            remaining_gain(slow) + remaining_gain(fast)
        )
        assert 3 * fast.n_iter < slow.n_iter


def test_a_geometric_approach_is_extrapolated_to_its_end() -> None:
    # distances 8, 4, 2 from 3: r = -4, v = 2, a = -2
    assert extrapolated(at(11.0), at(7.0), at(5.0)).components[0].means.tolist() == [[3.0]]


def test_log_probabilities_are_renormalized() -> None:
    models = [Mixture(np.log([p, 1 - p]), [Bernoulli.from_probabilities([0.5, 0.5])]) for p in (0.1, 0.2, 0.26)]
    far = extrapolated(*models)
    assert np.exp(far.log_weights).sum() == pytest.approx(1.0, abs=4 * U) and np.exp(far.log_weights[0]) > 0.26


@pytest.mark.parametrize(
    "models",
    [
        (at(1.0), at(1.0), at(1.0)),  # nothing moves
        (at(0.0), at(1.0), at(2.0)),  # no bend: any length
        (at(0.0), at(1.0), at(3.0)),  # speeding up
        (at(0.0, 9.0), at(0.0, 5.0), at(0.0, 1.5)),  # a negative scale
        (at(0.0), at(1e300), at(1.9e300)),  # squares beyond the doubles
    ],
    ids=["still", "straight", "faster", "domain", "overflow"],
)
def test_no_model_to_go_to(models: tuple[Mixture, Mixture, Mixture]) -> None:
    assert extrapolated(*models) is None


@dataclasses.dataclass(frozen=True)
class Place:
    model: Any


CERTAIN, LOW, DOUBTFUL, UNKNOWN = (1.0, 0.1), (-1.0, 0.1), (0.1, 0.2), (1.0, math.inf)


@pytest.mark.parametrize(
    ("extras", "end"),
    [
        ([CERTAIN], 3.0),
        ([LOW, CERTAIN], 2.0),  # after a step from there
        ([DOUBTFUL, UNKNOWN, CERTAIN], 4.53125),  # a = -9/8: 11 - 9 + 2 (9/8)**2
        ([LOW, UNKNOWN, DOUBTFUL, LOW, LOW, LOW], 5.0),  # no attempt is left
    ],
)
def test_a_jump_is_taken_only_if_its_gain_is_certain(extras: list[tuple[float, float]], end: float) -> None:
    """The distances of the path are 8, 4, 2 from 3, so that a = -2 ends there, and -1 - 1/8 is the next length tried."""
    path, left = {11.0: 7.0, 7.0: 5.0, 3.0: 2.0}, list(extras)

    def step(point: Place) -> Step:
        return Step(Place(at(path.get(float(point.model.components[0].means[0, 0]), 0.0))), 1.0, 0.25)

    found = squared_step(Place(at(11.0)), step, Place, lambda old, new: left.pop(0))
    assert float(found.point.model.components[0].means[0, 0]) == end and not left
    taken = extras[-1] == CERTAIN
    assert (found.gain, found.error) == ((3.0, 0.6) if taken else (2.0, 0.5))


def test_a_trial_that_collapses_is_no_end() -> None:
    def step(point: Place) -> Step:
        if float(point.model.components[0].means[0, 0]) < 5.0:
            raise CollapsedComponent("a point", 0)
        return Step(Place(at({11.0: 7.0, 7.0: 5.0}[float(point.model.components[0].means[0, 0])])), 1.0, 0.25)

    assert squared_step(Place(at(11.0)), step, Place, lambda old, new: LOW).gain == 2.0


def test_a_step_down_ends_the_fit() -> None:
    model = start(2, 1)
    counts = [1.0] * 7 + [9.0]
    fit = fit_em(Overshooting(model.log_weights, model.components), PATTERNS, weights=counts, acceleration="squarem")
    assert fit.outcome is Outcome.NOT_MONOTONE and (np.diff(fit.trace) > 0).all()


def test_a_collapse_is_an_outcome() -> None:
    x = [[0.0], [0.0], [5.0], [6.0], [7.0]]
    model = Mixture(np.log([0.5, 0.5]), [Gaussian([[0.0], [6.0]], [0.5, 1.0], "spherical")])
    assert fit_em(model, x, acceleration="squarem").outcome is Outcome.DEGENERATE


def test_refused() -> None:
    with pytest.raises(ValueError, match="acceleration must be one of None, 'squarem'; got 'fast'"):
        fit_em(start(1), PATTERNS, acceleration="fast")
