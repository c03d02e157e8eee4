"""Poisson: densities, factorials and changes against ball arithmetic, the M-step against its rivals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from arb_oracle import verdict
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
from test_categorical import NINF, SEEDS

from elbo_exact.errors import LogTableError
from elbo_exact.families import Poisson
from elbo_exact.families._factorials import log_factorial

COUNTS = np.array([0.0, 1.0, 2.0, 7.0, 170.0, 171.0, 4000.0, 123456789.0, 2.0**52 + 3.0, math.nan])


U = 2.0**-53


@pytest.fixture(autouse=True, scope="module")
def _bits() -> Iterator[None]:
    before, ctx.prec = ctx.prec, 420
    yield
    ctx.prec = before


def exact_log_density(family: Poisson, row: Any, k: int) -> Any:
    """Sum of the definition over the columns that are not missing, as a ball or -inf."""
    total = arb(0)
    for value, log_rate in zip(row, family.log_rates[k].tolist(), strict=True):
        if math.isnan(value):
            continue
        if log_rate == NINF:
            if value > 0.0:
                return NINF
            continue
        total += arb(value) * arb(log_rate) - arb(log_rate).exp() - (arb(value) + 1).lgamma()
    return total


@st.composite
def families(draw: Any) -> Poisson:
    """Up to 3 states and 2 columns, rates from e**-200 to e**20, some of them 0."""
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    logs = rng.uniform(draw(st.sampled_from([-200.0, -2.0])), draw(st.sampled_from([2.0, 20.0])), shape)
    logs[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = NINF
    return Poisson(logs)


def rows_for(family: Poisson, seed: int) -> Any:
    return np.random.default_rng(seed).choice(COUNTS, (12, family.n_columns))


def few(family: Poisson, seed: int) -> Any:
    return np.random.default_rng(seed).choice([0.0, 1.0, 2.0, 5.0, math.nan], (12, family.n_columns))


@pytest.mark.parametrize("n", [*range(180), 1000, 10**6, 10**15, 2**53])
def test_log_factorial_is_within_its_bound(n: int) -> None:
    value, error = log_factorial(np.array([float(n)]))
    assert verdict(value[0], error[0], (arb(n) + 1).lgamma() if n > 1 else 0.0) == "inside"
    assert error[0] <= 24 * 2.0**-53 * max(1.0, 1.2 * value[0])  # the bound itself is of the order of rounding


@given(families(), SEEDS)
def test_log_density_is_within_its_bound(family: Poisson, seed: int) -> None:
    assert_contained(family, rows_for(family, seed), exact_log_density)


def test_log_density_is_the_one_of_scipy() -> None:
    rows, family = np.arange(30), Poisson.from_rates([0.5, 8.0])
    expected = stats.poisson.logpmf(rows[:, None], [0.5, 8.0])
    # SciPy and the three terms here each round a few times at sizes below 100
    assert np.abs(family.log_density(rows) - expected).max() <= 32 * 100 * 2.0**-53


@given(families(), st.sampled_from([1e-14, 1e-9, 1e-3, 3.0, None]), SEEDS)
def test_log_density_change_is_within_its_bound(family: Poisson, size: float | None, seed: int) -> None:
    rng = np.random.default_rng((seed, 1))
    moved = family.log_rates + rng.uniform(-1.0, 1.0, family.log_rates.shape) * (size or 1.0)
    if size is None:
        moved = np.where(rng.random(moved.shape) < 0.5, NINF, np.where(moved > NINF, moved, 0.5))
    assert_change_contained(family, Poisson(moved), rows_for(family, seed), exact_log_density)


def test_change_is_relative_to_the_change() -> None:
    family, other = Poisson([[5.0]]), Poisson([[5.0 + 2.0**-40]])
    change, error = family.log_density_change(other, [10.0])
    assert 0.0 < error[0, 0] < 100 * 2.0**-53 * abs(change[0, 0])


@given(families(), SEEDS)
def test_statistics_add_up(family: Poisson, seed: int) -> None:
    rows = few(family, seed)
    assert_additive(family, rows, seed)
    weights = np.random.default_rng(seed).integers(0, 2**20, (len(rows), family.n_states)) / 2.0**10
    found, seen = family.statistics(rows, weights), ~np.isnan(rows)
    for k in range(family.n_states):
        for d in range(family.n_columns):
            expected = [math.fsum(weights[seen[:, d], k]), math.fsum(weights[seen[:, d], k] * rows[seen[:, d], d])]
            assert found[k, d].tolist() == expected


@given(families(), SEEDS, st.sampled_from([0.0, [0.5, 1.5]]))
def test_maximize_beats_every_rival(family: Poisson, seed: int, prior: Any) -> None:
    rng = np.random.default_rng(seed)
    rows = few(family, seed)
    weights = rng.exponential(size=(len(rows), family.n_states)) * (family.log_density(rows) > NINF)
    nearby = family.maximize(family.statistics(rows, weights * rng.uniform(0.999, 1.001, weights.shape)), prior)
    assert_maximizes(family, rows, weights, prior, [family.randomize(rng), nearby, family])
    assert (nearby.log_rates[family.log_rates == NINF] == NINF).all()
    if np.array_equal(nearby.log_rates > NINF, family.log_rates > NINF):
        assert_prior_change(family, nearby, prior)


@given(SEEDS, st.sampled_from([1e-3, 1.0, 1e5]))
def test_rounding_loses_no_more_than_its_bound(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    rows, weights = rng.poisson(3.0 * size, (10, 1)) + 1, rng.exponential(size=(10, 1))
    family = Poisson([[0.0]])
    statistics = family.statistics(rows, weights)
    best = family.maximize(statistics)
    exposure = sum(map(arb, weights[:, 0].tolist()), arb(0))
    events = sum((arb(w) * arb(x) for w, x in zip(weights[:, 0].tolist(), rows[:, 0].tolist(), strict=True)), arb(0))
    stored = arb(float(best.log_rates[0, 0]))
    loss = events * (events / exposure).log() - events - (events * stored - exposure * stored.exp())
    assert loss.upper() >= 0 and loss.upper() <= best.rounding_loss(statistics, None, (10 + 2) * U) < 1e-20 * float(events)


def test_maximize_closed_form_and_zeros() -> None:
    family = Poisson([[0.0, NINF, 1.0, 2.0]])
    fitted = family.maximize([[[2.0, 8.0], [2.0, 8.0], [2.0, 0.0], [0.0, 0.0]]]).log_rates[0]
    assert fitted.tolist() == [np.log(4.0), NINF, NINF, 2.0]


def test_pullback_is_the_complex_step() -> None:
    rng = np.random.default_rng(3)
    family, cotangent = Poisson(rng.normal(size=(2, 2))), rng.normal(size=(12, 2))
    rows = few(family, 5)

    def value(flat: Any) -> complex:
        logs, total = flat.reshape(2, 2), 0j
        for n, row in enumerate(rows.tolist()):
            for k in range(2):
                total += cotangent[n, k] * sum(
                    v * logs[k, d] - np.exp(logs[k, d]) for d, v in enumerate(row) if not math.isnan(v)
                )
        return total

    size = 5 * float(np.abs(cotangent).sum()) * float(np.exp(family.log_rates).max() + 1)
    assert_pullback(family.pullback(rows, cotangent), family.log_rates.ravel(), value, size)


def test_sample_means_and_zeros() -> None:
    drawn = Poisson([[math.log(3.0), NINF]]).sample(np.zeros(40_000, int), rng=7)
    assert abs(drawn[:, 0].sum() - 120_000) < 6 * math.sqrt(120_000) and not drawn[:, 1].any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Poisson([[math.nan]]), LogTableError, "log_rates contains NaN at index (0, 0)."),
        (
            lambda: Poisson([[40.0]]),
            LogTableError,
            "log_rates must be at most 37; largest is 40; pass logarithms of the rates.",
        ),
        (lambda: Poisson.from_rates([-1.0]), LogTableError, "rates must be >= 0; got -1."),
        (lambda: ONE.log_density([-1]), LogTableError, "x must be in 0 ... 9007199254740992; got -1 at index (0, 0)."),
        (lambda: ONE.log_density([0.5]), TypeError, "x must hold whole numbers >= 0; got dtype float64."),
        (lambda: ONE.maximize([[[1.0, 2.0]]], 1.0), LogTableError, "pseudo_counts must hold imaginary exposure and events"),
    ],
)
def test_refused_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


ONE = Poisson([0.0])
