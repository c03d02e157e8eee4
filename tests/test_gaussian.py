"""Gaussian: densities, changes and priors against ball arithmetic, statistics against loops, the M-step against its rivals."""

from __future__ import annotations

import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from family_laws import assert_change_contained, assert_contained, assert_maximizes, assert_prior_change, assert_pullback
from flint import arb, arb_mat
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_categorical import SEEDS

from elbo_exact.errors import CollapsedComponent, LogTableError
from elbo_exact.families import Gaussian, NormalInverseWishart
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.models import Mixture

ARB_BITS = 420

KINDS = ("spherical", "diagonal", "tied", "full")
U = 2.0**-53


def factor_of(family: Gaussian, k: int) -> Any:
    """The stored lower triangular factor of state k as a full matrix."""
    scales = family.scales if family.covariance == "tied" else family.scales[k]
    return scales if scales.ndim == 2 else np.diag(np.broadcast_to(scales, family.n_columns))


def exact_log_density(family: Gaussian, row: Any, k: int) -> Any:
    """-log(2 pi)/2 per column seen, minus logarithms of the diagonal, minus half the squares of a forward substitution: a ball."""
    seen = [d for d, value in enumerate(row) if not math.isnan(value)]
    factor, total, z = factor_of(family, k), arb(0), []
    for i, d in enumerate(seen):
        rest = arb(row[d]) - arb(float(family.means[k, d]))
        rest -= sum((arb(float(factor[d, seen[j]])) * z[j] for j in range(i)), arb(0))
        z.append(rest / arb(float(factor[d, d])))
        total -= (2 * arb.pi()).log() / 2 + arb(float(factor[d, d])).log() + z[-1] * z[-1] / 2
    return total


def draw_family(kind: str, n_states: int, n_columns: int, rng: Any, spread: float = 1.0) -> Gaussian:
    """Random means and scales; the factors are ill-conditioned for a large spread."""
    means = rng.normal(size=(n_states, n_columns)) * 3.0
    if kind in ("spherical", "diagonal"):
        return Gaussian(means, np.exp(spread * rng.normal(size=(n_states, n_columns)[: 1 + (kind == "diagonal")])), kind)
    shape = (n_columns, n_columns) if kind == "tied" else (n_states, n_columns, n_columns)
    factors = np.tril(rng.normal(size=shape), -1) + np.exp(spread * rng.normal(size=(*shape[:-2], 1, n_columns))) * np.eye(
        n_columns
    )
    return Gaussian(means, factors, kind)


@st.composite
def families(draw: Any, kinds: Any = KINDS, spreads: Any = (0.3, 3.0)) -> Gaussian:
    """Up to 3 states and 4 columns."""
    rng = np.random.default_rng(draw(SEEDS))
    kind, shape = draw(st.sampled_from(kinds)), (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    return draw_family(kind, *shape, rng, draw(st.sampled_from(spreads)))


def rows_for(family: Gaussian, seed: int, n: int = 8) -> Any:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, family.n_columns)) * rng.choice([1e-3, 3.0, 1e4], (n, 1))
    if family.covariance in ("spherical", "diagonal"):
        rows[rng.random(rows.shape) < 0.3] = math.nan
    return rows


def moved(family: Gaussian, size: float, rng: Any) -> Gaussian:
    """Every parameter moved by at most ``size`` relative to its scale."""
    scales = family.scales * (1.0 + rng.uniform(-size, size, family.scales.shape))
    return Gaussian(family.means + rng.uniform(-size, size, family.means.shape), scales, family.covariance)


@given(families(), SEEDS)
def test_log_density_is_within_its_bound(family: Gaussian, seed: int) -> None:
    assert_contained(family, rows_for(family, seed), exact_log_density)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_of_the_order_of_rounding(kind: str) -> None:
    family = draw_family(kind, 2, 3, np.random.default_rng(0), 0.1)
    values, errors = family.log_density_and_error(np.nan_to_num(rows_for(family, 1)))
    assert (errors > 0.0).all() and (errors <= 300 * U * (1.0 + np.abs(values))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_log_density_is_the_one_of_scipy(kind: str) -> None:
    rng = np.random.default_rng(4)
    family, rows = draw_family(kind, 3, 3, rng, 0.2), rng.normal(size=(20, 3))
    values, errors = family.log_density_and_error(rows)
    for k in range(3):
        factor = factor_of(family, k)
        expected = stats.multivariate_normal(family.means[k], factor @ factor.T).logpdf(rows)
        # SciPy decomposes a covariance that was itself rounded: a hundred times our own bound leaves room for both
        assert (np.abs(values[:, k] - expected) <= 100 * errors[:, k]).all()


@given(families(), st.sampled_from([1e-14, 1e-9, 1e-3, 0.5]), SEEDS)
def test_log_density_change_is_within_its_bound(family: Gaussian, size: float, seed: int) -> None:
    other = moved(family, size, np.random.default_rng(seed))
    assert_change_contained(family, other, rows_for(family, seed), exact_log_density)


@pytest.mark.parametrize("kind", KINDS)
def test_change_is_relative_to_the_change(kind: str) -> None:
    rng = np.random.default_rng(2)
    family = draw_family(kind, 2, 3, rng, 0.1)
    change, error = family.log_density_change(moved(family, 1e-11, rng), rng.normal(size=(20, 3)) * 3.0)
    assert np.median(error / np.abs(change)) < 1e-12  # the difference of two densities would know about 4 digits


@given(families(), SEEDS)
def test_statistics_are_means_and_scatter(family: Gaussian, seed: int) -> None:
    rows = rows_for(family, seed, 12)
    weights = np.random.default_rng(seed).exponential(size=(12, family.n_states))
    whole = family.statistics(rows, weights)
    parts = family.statistics(rows[:5], weights[:5]) + family.statistics(rows[5:], weights[5:])
    for k, d in itertools.product(range(family.n_states), range(family.n_columns)):
        seen = ~np.isnan(rows[:, d])
        w, x = weights[seen, k], rows[seen, d]
        total = math.fsum(w)
        if not total:
            assert whole.means[k, d] == family.means[k, d]
            continue
        mean = math.fsum(w * x) / total
        scatter = math.fsum(w * (x - mean) ** 2)
        size = math.sqrt(math.fsum(w * x * x) / total)
        for found in (whole, parts):
            # 12 observations: each sum rounds fewer than 30 times at the size of its terms
            assert abs(found.weights[k, d] - total) <= 30 * U * total
            assert abs(found.means[k, d] - mean) <= 60 * U * size
            assert abs(found.squares[k, d] - scatter) <= 60 * U * (
                scatter + total * U * size * size + math.sqrt(scatter * total) * size
            )


def test_scatter_far_from_the_origin_keeps_its_digits() -> None:
    rows = 1e8 + np.array([[1.0], [2.0], [6.0]])
    found = Gaussian([[0.0]], [1.0], "spherical").statistics(rows, np.ones((3, 1)))
    assert found.means.tolist() == [[1e8 + 3.0]] and found.scatter.tolist() == [[14.0]]


@given(families(spreads=(0.3,)), SEEDS, st.booleans())
def test_maximize_beats_every_rival(family: Gaussian, seed: int, with_prior: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(15, family.n_columns)) * 2.0
    if family.covariance in ("spherical", "diagonal"):
        rows[rng.random(rows.shape) < 0.1] = math.nan
    weights = rng.exponential(size=(15, family.n_states))
    prior = NormalInverseWishart(rng.normal(size=family.n_columns), rng.choice([0.0, 0.7]), 0.8, 3.0) if with_prior else None
    best = family.maximize(family.statistics(rows, weights), prior)
    rivals = [family, family.randomize(rng), *(moved(best, size, rng) for size in (1e-7, 1e-4, 1e-2, 0.2))]
    assert_maximizes(family, rows, weights, prior, rivals)
    if prior is not None:
        assert_prior_change(family, moved(family, 1e-3, rng), prior)


def exact_maximum(kind: str, rows: Any, weights: Any) -> Any:
    """Largest expected log density of any means and covariances of the kind, as a ball: -n (log det + D + D log 2 pi) / 2."""
    n_columns, scatters, totals = rows.shape[1], [], []
    for w in weights.T.tolist():
        total = sum(map(arb, w), arb(0))
        means = [sum((arb(a) * arb(b) for a, b in zip(w, column, strict=True)), arb(0)) / total for column in rows.T.tolist()]
        apart = [[arb(value) - mean for value, mean in zip(row, means, strict=True)] for row in rows.tolist()]
        scatter = [
            [sum((arb(a) * r[i] * r[j] for a, r in zip(w, apart, strict=True)), arb(0)) for j in range(n_columns)]
            for i in range(n_columns)
        ]
        scatters.append(arb_mat(scatter))
        totals.append(total)
    if kind == "tied":
        scatters, totals = [sum(scatters[1:], scatters[0])], [sum(totals, arb(0))]
    value = arb(0)
    for scatter, total in zip(scatters, totals, strict=True):
        diagonal = [scatter[i, i] / total for i in range(n_columns)]
        if kind == "spherical":
            log_determinant = n_columns * (sum(diagonal, arb(0)) / n_columns).log()
        elif kind == "diagonal":
            log_determinant = sum((entry.log() for entry in diagonal), arb(0))
        else:
            log_determinant = (scatter * (1 / total)).det().log()
        value -= total * (log_determinant + n_columns + n_columns * (2 * arb.pi()).log()) / 2
    return value


@given(st.sampled_from(KINDS), SEEDS, st.sampled_from([1.0, 1e3]), st.sampled_from([0.0, 1e4]))
def test_rounding_loses_no_more_than_its_bound(kind: str, seed: int, ratio: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(12, 3)) @ np.array([[1.0, 0.0, 0.0], [0.9, 1.0 / ratio, 0.0], [0.5, 0.5, ratio]]) + offset
    weights = rng.exponential(size=(12, 2))
    family = draw_family(kind, 2, 3, rng)
    statistics = family.statistics(rows, weights)
    best = family.maximize(statistics)
    bound = best.rounding_loss(statistics, None, (12 + 2) * U)
    reached = arb(0)
    for (row, row_weights), k in itertools.product(zip(rows.tolist(), weights.tolist(), strict=True), range(2)):
        reached += arb(row_weights[k]) * exact_log_density(best, row, k)
    loss = exact_maximum(kind, rows, weights) - reached
    assert loss.upper() >= 0 and loss.upper() <= bound < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_maximize_closed_forms(kind: str) -> None:
    rng = np.random.default_rng(7)
    rows, weights = rng.normal(size=(30, 2)), rng.exponential(size=(30, 2))
    family = draw_family(kind, 2, 2, rng)
    fitted = family.maximize(family.statistics(rows, weights))
    means = [np.average(rows, axis=0, weights=w) for w in weights.T]
    each = [np.cov(rows.T, aweights=w, bias=True) for w in weights.T]
    expected = {
        "spherical": [np.trace(c) / 2 for c in each],
        "diagonal": [np.diagonal(c) for c in each],
        "tied": sum(w.sum() * c for w, c in zip(weights.T, each, strict=True)) / weights.sum(),
        "full": each,
    }[kind]
    # sums of 30 terms of size below 10, twice over
    assert np.abs(fitted.means - means).max() <= 200 * U * 10 and np.abs(fitted.covariances - expected).max() <= 200 * U * 10


@pytest.mark.parametrize("kind", KINDS)
def test_log_prior_is_the_definition(kind: str) -> None:
    rng = np.random.default_rng(9)
    family, scale = draw_family(kind, 3, 2, rng, 0.2), np.array([[2.0, 0.5], [0.5, 1.0]])
    prior = NormalInverseWishart([0.5, -1.0], 0.7, scale, 4.0)
    value, error = family.log_prior(prior)
    expected = 0.0
    for k in range(3):
        covariance = factor_of(family, k) @ factor_of(family, k).T
        inverse, apart = np.linalg.inv(covariance), family.means[k] - prior.mean
        logdet = np.linalg.slogdet(covariance)[1]
        if kind == "diagonal":
            inside, count = float(np.sum(np.diagonal(scale) * np.diagonal(inverse))), 4.0 + 2.0
        else:
            inside, count = float(np.trace(scale @ inverse)), 4.0 + 2 + 1.0
        if kind != "tied" or k == 0:
            expected -= 0.5 * (count * logdet + inside)
        expected -= 0.5 * (logdet + 0.7 * float(apart @ inverse @ apart))
    assert abs(value - expected) <= 100 * error  # an inverse of a well-conditioned matrix, a few dozen roundings


def test_states_without_weight_are_frozen() -> None:
    rng = np.random.default_rng(1)
    for kind in KINDS:
        family, rows = draw_family(kind, 2, 2, rng), rng.normal(size=(9, 2))
        weights = np.stack([np.ones(9), np.zeros(9)], axis=1)
        fitted = family.maximize(family.statistics(rows, weights))
        assert np.array_equal(fitted.means[1], family.means[1])
        assert kind == "tied" or np.array_equal(fitted.scales[1], family.scales[1])


@pytest.mark.parametrize("kind", KINDS)
def test_collapse_is_refused_by_number(kind: str) -> None:
    rows = np.array([[0.0, 0.0], [1.0, 3.0], [2.0, 1.0], [9.0, 9.0], [9.0, 9.0]])
    weights = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2)
    family = draw_family(kind, 2, 2, np.random.default_rng(3))
    if kind == "tied":
        rows[:, 1] = 2.0 * rows[:, 0]
    with pytest.raises(CollapsedComponent) as caught:
        family.maximize(family.statistics(rows, weights))
    assert caught.value.component == (None if kind == "tied" else 1)
    assert pickle.loads(pickle.dumps(caught.value)).component == caught.value.component
    start = "the shared covariance collapsed" if kind == "tied" else "component 1 collapsed: its smallest variance is "
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    prior = NormalInverseWishart([0.0, 0.0], 0.0, 0.1, 1.0)
    assert np.isfinite(family.maximize(family.statistics(rows, weights), prior).scales).all()


@pytest.mark.parametrize("kind", ["spherical", "diagonal", "full"])
@pytest.mark.parametrize(("spread", "collapses"), [(1e-8, True), (1e-6, False)])
def test_collapse_begins_at_a_hundred_units_of_rounding(kind: str, spread: float, collapses: bool) -> None:
    # the second state has variance spread**2 beside a total of about 1: 1e-16 and 1e-12, on either side of 100 u = 1.1e-14
    rows = np.array([[-1.0], [1.0], [-spread], [spread]])
    weights = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    family = draw_family(kind, 2, 1, np.random.default_rng(3))
    statistics = family.statistics(rows, weights)
    if collapses:
        with pytest.raises(CollapsedComponent):
            family.maximize(statistics)
    else:
        assert family.maximize(statistics).covariances.ravel()[1] == pytest.approx(spread**2, rel=20 * U)


def test_columns_of_very_different_units_do_not_collapse() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 2)) * [1e9, 1e-9]
    for kind in ("diagonal", "tied", "full"):
        family = draw_family(kind, 1, 2, np.random.default_rng(3))
        assert family.maximize(family.statistics(rows, np.ones((20, 1)))).n_states == 1


@pytest.mark.parametrize("kind", KINDS)
def test_pullback_is_the_complex_step(kind: str) -> None:
    rng = np.random.default_rng(11)
    family, cotangent = draw_family(kind, 2, 3, rng, 0.2), rng.normal(size=(8, 2))
    rows = np.clip(rows_for(family, 3), -5.0, 5.0)
    lower = np.tril_indices(3)
    flat = family.scales[..., *lower].ravel() if kind in ("tied", "full") else family.scales.ravel()

    def value(parameters: Any) -> complex:
        means, scales, total = parameters[:6].reshape(2, 3), parameters[6:], 0j
        for k in range(2):
            factor = np.zeros((3, 3), complex)
            if kind in ("tied", "full"):
                factor[lower] = scales if kind == "tied" else scales.reshape(2, 6)[k]
            else:
                factor[range(3), range(3)] = scales[k] if kind == "spherical" else scales.reshape(2, 3)[k]
            for n, row in enumerate(rows.tolist()):
                z: list[complex] = []
                for d in range(3):
                    rest = row[d] - means[k, d] - sum(factor[d, j] * z[j] for j in range(d))
                    z.append(0j if math.isnan(row[d]) else rest / factor[d, d])
                    if not math.isnan(row[d]):
                        total -= cotangent[n, k] * (np.log(factor[d, d]) + z[d] * z[d] / 2)
        return total

    assert_pullback(family.pullback(rows, cotangent), np.concatenate([family.means.ravel(), flat]), value, 1e4)


def test_sample_moments() -> None:
    family = Gaussian.from_covariances([[1.0, -2.0]], [[[4.0, 1.0], [1.0, 2.0]]])
    drawn = family.sample(np.zeros(40_000, int), rng=7)
    # six standard deviations of the mean, and of a variance: sqrt(2 / n) of it
    assert (np.abs(drawn.mean(axis=0) - [1.0, -2.0]) < 6 * np.sqrt([4.0, 2.0]) / 200).all()
    assert np.abs(np.cov(drawn.T) - [[4.0, 1.0], [1.0, 2.0]]).max() < 6 * 4 * math.sqrt(2 / 40_000)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Gaussian([[0.0]], [1.0, 2.0], "spherical"),
            LogTableError,
            "scales must have shape (1,) for 'spherical'; got (2,).",
        ),
        (lambda: Gaussian([[0.0]], [0.0], "spherical"), LogTableError, "scales must be positive"),
        (
            lambda: Gaussian([[0.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]], "tied"),
            LogTableError,
            "scales must be positive (lower triangular",
        ),
        (
            lambda: Gaussian([[0.0]], [1.0], "round"),
            ValueError,
            "covariance must be one of 'spherical', 'diagonal', 'tied', 'full'",
        ),
        (lambda: Gaussian([[math.nan]], [1.0], "spherical"), LogTableError, "means and scales must be finite"),
        (
            lambda: Gaussian.from_covariances([[0.0]], [[-1.0]], "diagonal"),
            LogTableError,
            "covariances must be positive; smallest is -1.",
        ),
        (lambda: Gaussian.from_covariances([[0.0]], [[[-1.0]]]), LogTableError, "covariances must be positive definite"),
        (
            lambda: FULL.log_density([[math.nan, 0.0]]),
            LogTableError,
            "x must be finite; got nan at index (0, 0); missing values need",
        ),
        (
            lambda: FULL.log_density([[0.0, math.inf]]),
            LogTableError,
            "x must be finite; got inf at index (0, 1); drop the observation.",
        ),
        (lambda: FULL.log_density([0.0, 1.0]), LogTableError, "x must have shape (N, 2); got (2,)."),
        (
            lambda: FULL.log_prior(1.0),
            LogTableError,
            "prior must be a NormalInverseWishart of 2 columns for a Gaussian family.",
        ),
        (lambda: NormalInverseWishart([0.0], 1.0, [[-1.0]], 1.0), LogTableError, "scale must be positive definite"),
        (lambda: NormalInverseWishart([0.0], -1.0, 1.0, 1.0), ValueError, "mean_weight must be finite and >= 0; got -1.0."),
        (lambda: Gaussian.random([[0.0]], 2), LogTableError, "x must hold at least 2 rows; got 1."),
    ],
)
def test_refused_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


FULL = Gaussian([[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "tied", "full"])
@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_squares_beyond_the_range_of_doubles_end_a_fit_in_words(covariance: Any, size: float) -> None:
    x = size * np.random.default_rng(0).normal(size=(20, 2))
    scales = {"spherical": [1.0] * 2, "diagonal": [[1.0] * 2] * 2, "tied": np.eye(2), "full": [np.eye(2)] * 2}[covariance]
    start = Mixture(np.log([0.5, 0.5]), [Gaussian(x[:2], size * np.array(scales), covariance)])
    fit = fit_em(start, x, max_iter=60)
    assert fit.outcome in (Outcome.DEGENERATE, Outcome.CONVERGED, Outcome.MAX_ITER)
