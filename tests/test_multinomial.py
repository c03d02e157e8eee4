"""Multinomial: densities and changes against ball arithmetic, counts against loops, the M-step against its rivals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
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
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_categorical import NINF, SEEDS, exact_log_probability
from test_categorical import families as categorical_families

from elbo_exact.errors import LogTableError
from elbo_exact.families import Multinomial


@pytest.fixture(autouse=True, scope="module")
def _bits() -> Iterator[None]:
    before, ctx.prec = ctx.prec, 1400
    yield
    ctx.prec = before


def exact_log_density(family: Multinomial, row: Any, k: int) -> Any:
    """The definition, as a ball or -inf; 0 for a missing row."""
    if math.isnan(row[0]):
        return arb(0)
    total = (arb(sum(row)) + 1).lgamma()
    for c, count in enumerate(row):
        term = exact_log_probability(family.log_probabilities[k].tolist(), c) if count else arb(0)
        if isinstance(term, float):
            return NINF
        total += arb(count) * term - (arb(count) + 1).lgamma()
    return total


def families() -> Any:
    """The parameters of a categorical family, seen many times."""
    return categorical_families().map(lambda family: Multinomial(family.log_probabilities))


def rows_for(family: Multinomial, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    rows = rng.choice([0.0, 1.0, 2.0, 40.0, 1e6], (8, family.n_columns), p=[0.4, 0.2, 0.2, 0.1, 0.1])
    rows[3] = math.nan
    return rows


@given(families(), SEEDS)
def test_log_density_is_within_its_bound(family: Multinomial, seed: int) -> None:
    assert_contained(family, rows_for(family, seed), exact_log_density)


def test_log_density_is_the_one_of_scipy() -> None:
    rows = np.array([row for row in itertools.product(range(6), repeat=3) if sum(row) == 5])
    family = Multinomial(np.log([[0.2, 0.3, 0.5]]))
    expected = stats.multinomial.logpmf(rows, 5, [0.2, 0.3, 0.5])
    assert np.abs(family.log_density(rows)[:, 0] - expected).max() <= 32 * 100 * 2.0**-53  # few roundings at sizes below 100


@given(families(), st.sampled_from([1e-14, 1e-9, 1e-3, 3.0, None]), SEEDS)
def test_log_density_change_is_within_its_bound(family: Multinomial, size: float | None, seed: int) -> None:
    rng = np.random.default_rng((seed, 1))
    if size is None:
        other = Multinomial.random(family.n_states, family.n_columns, rng=rng)
    else:
        moved = family.log_probabilities + rng.uniform(-size, size, family.log_probabilities.shape)
        other = Multinomial(moved - np.log(np.exp(moved).sum(axis=1, keepdims=True)))
    assert_change_contained(family, other, rows_for(family, seed), exact_log_density)


@given(families(), SEEDS)
def test_statistics_are_the_weighted_counts(family: Multinomial, seed: int) -> None:
    rows = rows_for(family, seed)
    assert_additive(family, rows, seed)
    weights = np.random.default_rng(seed).integers(0, 2**20, (len(rows), family.n_states)) / 2.0**10
    seen = ~np.isnan(rows[:, 0])
    expected = [[math.fsum(weights[seen, k] * rows[seen, c]) for c in range(family.n_columns)] for k in range(family.n_states)]
    assert family.statistics(rows, weights).tolist() == expected


@given(families(), SEEDS, st.sampled_from([None, 0.5]))
def test_maximize_beats_every_rival(family: Multinomial, seed: int, prior: float | None) -> None:
    rng = np.random.default_rng(seed)
    rows = rows_for(family, seed)
    weights = rng.exponential(size=(len(rows), family.n_states)) * (family.log_density(rows) > NINF)
    nearby = family.maximize(family.statistics(rows, weights * rng.uniform(0.999, 1.001, weights.shape)), prior)
    assert_maximizes(family, rows, weights, prior, [family.randomize(rng), nearby])
    assert_prior_change(family, nearby, prior)


def test_pullback_is_the_complex_step() -> None:
    rng = np.random.default_rng(3)
    family, cotangent = Multinomial.random(2, 3, rng=rng), rng.normal(size=(8, 2))
    rows = np.minimum(rows_for(family, 5), 4.0)

    def value(flat: Any) -> complex:
        table, total = flat.reshape(2, 3), 0j
        for n, k, c in itertools.product(range(8), range(2), range(3)):
            if not math.isnan(rows[n, c]):
                total += cotangent[n, k] * rows[n, c] * (table[k, c] - np.log(np.exp(table[k]).sum()))
        return total

    assert_pullback(family.pullback(rows, cotangent), family.log_probabilities.ravel(), value, 12 * np.abs(cotangent).sum())


def test_samples_have_the_totals_and_keep_zeros() -> None:
    family = Multinomial([[math.log(0.75), NINF, math.log(0.25)]])
    drawn = family.sample(np.zeros(1000, int), 20, rng=7)
    assert (drawn.sum(axis=1) == 20).all() and not drawn[:, 1].any()
    assert abs(drawn[:, 0].sum() - 15_000) < 6 * math.sqrt(20_000 * 0.75 * 0.25)  # six standard deviations, fixed seed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: HALVES.log_density([[1.0, math.nan]]),
            "x has missing counts at index (0,); make the whole row NaN, or none of it.",
        ),
        (lambda: HALVES.log_density([[1, 2, 3]]), "x must have shape (N, 2); got (1, 3)."),
        (lambda: HALVES.log_density([[1, -2]]), "x must be in 0 ... 9007199254740992; got -2 at index (0, 1)."),
        (lambda: Multinomial([[0.0, 0.0]]), "log_probabilities sums to 2 at index (0,); expected 1"),
    ],
)
def test_refused_arguments(call: Any, message: str) -> None:
    with pytest.raises(LogTableError) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


HALVES = Multinomial(np.log([[0.5, 0.5]]))
