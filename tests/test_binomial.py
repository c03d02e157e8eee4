"""Binomial: densities and changes against ball arithmetic, counts against loops, the M-step against its rivals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from family_laws import (
    assert_additive,
    assert_change_contained,
    assert_contained,
    assert_maximizes,
    assert_prior_change,
    assert_pullback,
)
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_categorical import NINF, SEEDS, exact_log_probability

from elbo_exact.errors import LogTableError
from elbo_exact.families import Bernoulli, Binomial

ARB_BITS = 1400


def exact_log_density(family: Binomial, row: Any, k: int) -> Any:
    """Sum of the definition over the columns that are not missing, as a ball or -inf."""
    total = arb(0)
    for d, (successes, trials) in enumerate(zip(row, family.trials.tolist(), strict=True)):
        if math.isnan(successes):
            continue
        total += (arb(trials) + 1).lgamma() - (arb(successes) + 1).lgamma() - (arb(trials - successes) + 1).lgamma()
        for category, count in enumerate((trials - successes, successes)):
            if count:
                term = exact_log_probability(family.log_probabilities[k, d].tolist(), category)
                if isinstance(term, float):
                    return NINF
                total += arb(count) * term
    return total


@st.composite
def families(draw: Any) -> Binomial:
    """Up to 3 states and 2 columns, up to 10**6 trials, some structural zeros."""
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    logits = rng.uniform(-draw(st.sampled_from([1e-9, 1.0, 300.0])), 0.0, (*shape, 2))
    zeros = rng.random(shape) < draw(st.sampled_from([0.0, 0.4]))
    logits[zeros, rng.integers(0, 2)] = NINF
    trials = rng.choice([0, 1, 2, 5, 300, 10**6], shape[1])
    return Binomial(logits - np.logaddexp(logits[..., :1], logits[..., 1:]), trials)


def rows_for(family: Binomial, seed: int) -> Any:
    """Both ends, missing values, and something between."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, family.trials.astype(int) + 1, (10, family.n_columns)).astype(float)
    rows[:2], rows[2:4] = 0.0, family.trials
    rows[rng.random(rows.shape) < 0.2] = math.nan
    return rows


@given(families(), SEEDS)
def test_log_density_is_within_its_bound(family: Binomial, seed: int) -> None:
    assert_contained(family, rows_for(family, seed), exact_log_density)


def test_log_density_is_the_one_of_scipy() -> None:
    rows, chances = np.arange(21), np.array([0.1, 0.7])
    family = Binomial.from_probabilities(chances, 20)
    expected = stats.binom.logpmf(rows[:, None], 20, chances)
    assert np.abs(family.log_density(rows) - expected).max() <= 32 * 100 * 2.0**-53  # a few roundings at sizes below 100


def test_one_trial_is_bernoulli() -> None:
    one, two = Bernoulli.random(2, 3, rng=1), np.array(list(itertools.product([0, 1], repeat=3)))
    family = Binomial(one.log_probabilities, 1)
    (mine, error), (theirs, other) = family.log_density_and_error(two), one.log_density_and_error(two)
    assert (np.abs(mine - theirs) <= error + other).all()
    weights = np.ones((8, 2))
    assert np.array_equal(family.statistics(two, weights), one.statistics(two, weights))


@given(families(), st.sampled_from([1e-14, 1e-9, 1e-3, 3.0, None]), SEEDS)
def test_log_density_change_is_within_its_bound(family: Binomial, size: float | None, seed: int) -> None:
    rng = np.random.default_rng((seed, 1))
    if size is None:
        other = Binomial(Binomial.random(family.n_states, family.trials, rng=rng).log_probabilities, family.trials)
    else:
        moved = family.log_probabilities + rng.uniform(-size, size, family.log_probabilities.shape)
        other = Binomial(moved - np.logaddexp(moved[..., :1], moved[..., 1:]), family.trials)
    assert_change_contained(family, other, rows_for(family, seed), exact_log_density)


@given(families(), SEEDS)
def test_statistics_are_the_weighted_counts(family: Binomial, seed: int) -> None:
    rows = rows_for(family, seed)
    assert_additive(family, rows, seed)
    weights = np.random.default_rng(seed).integers(0, 2**20, (len(rows), family.n_states)) / 2.0**10
    found = family.statistics(rows, weights)
    for k, d in itertools.product(range(family.n_states), range(family.n_columns)):
        seen = ~np.isnan(rows[:, d])
        ones = rows[seen, d]
        expected = [math.fsum(weights[seen, k] * (family.trials[d] - ones)), math.fsum(weights[seen, k] * ones)]
        assert found[k, d].tolist() == expected


@given(families(), SEEDS, st.sampled_from([None, 0.5]))
def test_maximize_beats_every_rival(family: Binomial, seed: int, prior: float | None) -> None:
    rng = np.random.default_rng(seed)
    rows = rows_for(family, seed)
    weights = rng.exponential(size=(len(rows), family.n_states)) * (family.log_density(rows) > NINF)
    nearby = family.maximize(family.statistics(rows, weights * rng.uniform(0.999, 1.001, weights.shape)), prior)
    assert_maximizes(family, rows, weights, prior, [family.randomize(rng), nearby])
    assert_prior_change(family, nearby, prior)


def test_pullback_is_the_complex_step() -> None:
    rng = np.random.default_rng(3)
    family, cotangent = Binomial.random(2, [3, 5], rng=rng), rng.normal(size=(10, 2))
    rows = rows_for(family, 5)

    def value(flat: Any) -> complex:
        table, total = flat.reshape(2, 2, 2), 0j
        for n, k, d in itertools.product(range(10), range(2), range(2)):
            if not math.isnan(rows[n, d]):
                logs = table[k, d] - np.log(np.exp(table[k, d]).sum())
                total += cotangent[n, k] * ((family.trials[d] - rows[n, d]) * logs[0] + rows[n, d] * logs[1])
        return total

    assert_pullback(family.pullback(rows, cotangent), family.log_probabilities.ravel(), value, 5 * np.abs(cotangent).sum())


def test_sample_frequencies_and_zeros() -> None:
    family = Binomial.from_probabilities([[0.3, 0.0]], [10, 4])
    drawn = family.sample(np.zeros(10_000, int), rng=7)
    assert abs(drawn[:, 0].sum() - 30_000) < 6 * math.sqrt(100_000 * 0.3 * 0.7) and not drawn[:, 1].any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Binomial(np.log([[[0.2, 0.3, 0.5]]]), 1), LogTableError, "log_probabilities must have shape (K, D, 2); got"),
        (
            lambda: Binomial.from_probabilities([[0.5]], [1, 2]),
            LogTableError,
            "trials must be one whole number or 1; got shape (2,).",
        ),
        (
            lambda: Binomial.from_probabilities([[0.5]], 1.5),
            TypeError,
            "trials must hold whole numbers >= 0; got dtype float64.",
        ),
        (lambda: TWO.log_density([3]), LogTableError, "x must be in 0 ... 2; got 3 at index (0, 0)."),
    ],
)
def test_refused_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


TWO = Binomial.from_probabilities([0.5], 2)
