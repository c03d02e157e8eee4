"""Bernoulli: densities and changes against ball arithmetic, counts against loops, the M-step against its rivals."""

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
from test_categorical import NINF, SEEDS, exact_log_probability

from elbo_exact.errors import LogTableError
from elbo_exact.families import Bernoulli

ARB_BITS = 1400


def exact_log_density(family: Bernoulli, row: Any, k: int) -> Any:
    """Sum over the columns that are not missing, as a ball or -inf."""
    table = family.log_probabilities[k].tolist()
    terms = [exact_log_probability(table[d], int(value)) for d, value in enumerate(row) if not math.isnan(value)]
    return NINF if any(isinstance(term, float) for term in terms) else sum(terms, arb(0))


@st.composite
def families(draw: Any) -> Bernoulli:
    """Up to 3 states and 3 columns, probabilities down to e**-300, some structural zeros."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 3)), 2
    rng = np.random.default_rng(draw(SEEDS))
    logits = rng.uniform(-draw(st.sampled_from([1e-9, 1.0, 300.0])), 0.0, shape)
    zeros = rng.random(shape[:2]) < draw(st.sampled_from([0.0, 0.4]))
    logits[zeros, rng.integers(0, 2)] = NINF
    return Bernoulli(logits - np.logaddexp(logits[..., :1], logits[..., 1:]))


def all_rows(family: Bernoulli) -> Any:
    """Every row of zeros, ones and missing values."""
    return np.array(list(itertools.product([0.0, 1.0, math.nan], repeat=family.n_columns)))


@given(families())
def test_log_density_is_within_its_bound(family: Bernoulli) -> None:
    assert_contained(family, all_rows(family), exact_log_density)


@given(families(), st.sampled_from([1e-14, 1e-9, 1e-3, 3.0, None]), SEEDS)
def test_log_density_change_is_within_its_bound(family: Bernoulli, size: float | None, seed: int) -> None:
    rng = np.random.default_rng((seed, 1))
    if size is None:
        other = Bernoulli.random(family.n_states, family.n_columns, rng=rng)
    else:
        moved = family.log_probabilities + rng.uniform(-size, size, family.log_probabilities.shape)
        other = Bernoulli(moved - np.logaddexp(moved[..., :1], moved[..., 1:]))
    assert_change_contained(family, other, all_rows(family), exact_log_density)


@given(families(), SEEDS)
def test_statistics_are_the_weighted_counts(family: Bernoulli, seed: int) -> None:
    rows = all_rows(family)
    assert_additive(family, rows, seed)
    weights = np.random.default_rng(seed).integers(0, 2**20, (len(rows), family.n_states)) / 2.0**10
    expected = [
        [[math.fsum(weights[rows[:, d] == c, k]) for c in (0, 1)] for d in range(family.n_columns)]
        for k in range(family.n_states)
    ]
    assert family.statistics(rows, weights).tolist() == expected


@given(families(), SEEDS, st.sampled_from([0.0, 0.5]))
def test_maximize_beats_every_rival(family: Bernoulli, seed: int, prior: float) -> None:
    rng = np.random.default_rng(seed)
    rows = all_rows(family)
    weights = rng.exponential(size=(len(rows), family.n_states)) * (family.log_density(rows) > NINF)
    nearby = family.maximize(family.statistics(rows, weights * rng.uniform(0.999, 1.001, weights.shape)), prior)
    assert_maximizes(family, rows, weights, prior, [family.randomize(rng), nearby])
    assert_prior_change(family, nearby, prior)


def test_missing_values_contribute_nothing() -> None:
    family, one = Bernoulli.random(2, 2, rng=1), [[math.nan, math.nan]]
    assert [part.tolist() for part in family.log_density_and_error(one)] == [[[0.0, 0.0]]] * 2
    assert [part.tolist() for part in family.log_density_change(Bernoulli.random(2, 2, rng=2), one)] == [[[0.0, 0.0]]] * 2
    assert not family.statistics(one, [[1.0, 2.0]]).any()


def test_maximize_closed_form_and_zeros() -> None:
    family = Bernoulli.from_probabilities([[0.5, 0.0, 0.25]])
    fitted = family.maximize([[[1.0, 3.0], [1.0, 3.0], [0.0, 0.0]]]).log_probabilities
    assert fitted[0, 0].tolist() == np.log([0.25, 0.75]).tolist()
    assert fitted[0, 1].tolist() == [0.0, NINF]  # a structural zero stays, whatever was counted
    assert fitted[0, 2].tolist() == family.log_probabilities[0, 2].tolist()  # no counts
    with_prior = family.maximize([[[0.0, 3.0], [2.0, 0.0], [0.0, 0.0]]], 1.0).log_probabilities
    assert with_prior[0, 0].tolist() == np.log([0.2, 0.8]).tolist() and with_prior[0, 1, 1] == NINF


def test_pullback_is_the_complex_step() -> None:
    rng = np.random.default_rng(3)
    family, cotangent = Bernoulli.random(2, 2, rng=rng), rng.normal(size=(9, 2))
    rows = all_rows(family)

    def value(flat: Any) -> complex:
        table, total = flat.reshape(2, 2, 2), 0j
        for (n, row), k, d in itertools.product(enumerate(rows.tolist()), range(2), range(2)):
            if not math.isnan(row[d]):
                total += cotangent[n, k] * (table[k, d, int(row[d])] - np.log(np.exp(table[k, d]).sum()))
        return total

    assert_pullback(family.pullback(rows, cotangent), family.log_probabilities.ravel(), value, np.abs(cotangent).sum())


@given(families(), SEEDS)
def test_randomize_and_samples_keep_zeros(family: Bernoulli, seed: int) -> None:
    other = family.randomize(np.random.default_rng(seed))
    assert np.array_equal(other.log_probabilities > NINF, family.log_probabilities > NINF)
    states = np.arange(20) % family.n_states
    drawn = other.sample(states, rng=seed)
    assert (other.log_density(drawn)[np.arange(20), states] > NINF).all()


def test_sample_frequencies() -> None:
    family = Bernoulli.from_probabilities([[0.75, 0.2]])
    ones = family.sample(np.zeros(40_000, int), rng=7).sum(axis=0)
    for count, p in zip(ones, [0.75, 0.2], strict=True):
        assert abs(count - 40_000 * p) < 6 * math.sqrt(40_000 * p * (1 - p))  # six standard deviations, fixed seed


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Bernoulli([[0.0, NINF]]),
            LogTableError,
            "log_probabilities must have 3 axes without a length of 0; got shape",
        ),
        (
            lambda: Bernoulli(np.log([[[0.2, 0.3, 0.5]]])),
            LogTableError,
            "log_probabilities must have shape (K, D, 2); got (1, 1, 3)",
        ),
        (lambda: Bernoulli([[[0.0, 0.0]]]), LogTableError, "log_probabilities sums to 2 at index (0, 0); expected 1"),
        (lambda: Bernoulli.from_probabilities([1.5]), LogTableError, "probabilities must be in 0 ... 1; got 1.5."),
        (
            lambda: ONE.log_density([2]),
            LogTableError,
            "x must be in 0 ... 1; got 2 at index (0, 0); number the categories from 0.",
        ),
        (lambda: ONE.log_density([0.5]), TypeError, "x must hold whole numbers 0 ... 1; got dtype float64."),
        (lambda: ONE.log_density([[0, 1]]), LogTableError, "x must have shape (N,) or (N, 1); got (1, 2)."),
        (lambda: ONE.statistics([0, 1], [[1.0]]), LogTableError, "weights must have shape (2, 1); got (1, 1)."),
        (lambda: ONE.maximize([[[-1.0, 2.0]]]), LogTableError, "statistics must be finite and >= 0; smallest is -1."),
    ],
)
def test_refused_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


ONE = Bernoulli.from_probabilities([0.5])
