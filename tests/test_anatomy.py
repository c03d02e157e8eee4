"""Gaps and ELBOs taken apart: against multiple precision, and the laws that the parts obey."""

from __future__ import annotations

import json
import math
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from exact_tables import DIGITS, distribution, kl, mpf
from hypothesis import given
from hypothesis import strategies as st
from table_strategies import relation, tables

import elbo_exact as ee
from elbo_exact.anatomy import Surgery, gap_anatomy, surgery
from elbo_exact.errors import LogTableError

Array = npt.NDArray[np.float64]
INF = math.inf


def random_q(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Array:
    """Normalized log tables."""
    return np.asarray(ee.log_posterior(rng.normal(0.0, scale, shape)))


@pytest.mark.parametrize("seed", range(30))
def test_both_gaps_and_their_difference_within_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, n = rng.normal(0.0, 3.0, 6) + rng.choice([0.0, 1e6]), 6
    best = a + 10.0 ** rng.uniform(-9.0, 0.0) * rng.normal(size=n)
    shared = best + 10.0 ** rng.uniform(-9.0, 0.0) * rng.normal(size=n)
    result = gap_anatomy(a, best, shared, unnormalized=True)
    with mpmath.workdps(DIGITS):
        p = distribution(a)
        total, approximation = kl(distribution(shared), p), kl(distribution(best), p)
        exact = {"gap": total, "approximation": approximation, "amortization": total - approximation}
        for name, value in exact.items():
            assert abs(mpf(float(getattr(result, name))) - value) <= getattr(result.error, name), name


@relation
@given(tables(), st.integers(0, 2**32 - 1))
def test_the_parts_add_up(pair: tuple[Array, Array], seed: int) -> None:
    a, shared = pair
    best = np.where(shared > -INF, np.random.default_rng(seed).normal(size=a.size), -INF)
    result = gap_anatomy(a, best, shared, unnormalized=True)
    if np.isfinite(result.gap) and np.isfinite(result.approximation):
        allowed = sum(vars(result.error).values()) + 2.0**-52 * float(result.gap + result.approximation)
        assert abs(result.gap - (result.approximation + result.amortization)) <= allowed


def test_total_is_the_weighted_sum_and_zero_weights_add_nothing() -> None:
    rng = np.random.default_rng(1)
    a, best, shared = (rng.normal(size=(3, 5)) for _ in range(3))
    a[2, 0] = -INF  # an infinite gap, of weight zero
    result = gap_anatomy(a, best, shared, unnormalized=True)
    total = result.total([2.0, 5.0, 0.0])
    for name in result.NAMES:
        value = getattr(result, name)
        assert abs(getattr(total, name) - math.fsum([2.0 * value[0], 5.0 * value[1]])) <= getattr(total.error, name)
    assert result.total().gap == INF
    with pytest.raises(LogTableError, match="weights must have the shape"):
        result.total([1.0])


def test_a_best_that_is_worse_is_reported_and_not_clipped() -> None:
    a, right, wrong = np.log([0.3, 0.7]), np.log([0.31, 0.69]), np.log([0.9, 0.1])
    result = gap_anatomy([a, a], [right, wrong], [wrong, right])
    assert result.amortization[0] > 0.0 > result.amortization[1]
    np.testing.assert_array_equal(result.best_is_worse, [False, True])
    assert "best is worse" in str(result)
    assert result.to_dict()["best_is_worse"] == [False, True]


def test_infinite_gaps() -> None:
    a, fine, charged = [math.log(0.5), math.log(0.5), -INF], np.log([0.4, 0.6, 1e-300]), np.log([0.4, 0.4, 0.2])
    fine[2] = -INF
    one = gap_anatomy(a, fine, charged)
    assert one.gap == one.amortization == INF and one.error.amortization == 0.0 and np.isfinite(one.approximation)
    assert gap_anatomy(a, charged, fine).amortization == -INF
    assert math.isnan(gap_anatomy(a, charged, charged).amortization)


def test_one_best_serves_all_rows_and_results_are_plain() -> None:
    rng = np.random.default_rng(2)
    result = gap_anatomy(rng.normal(size=(2, 4)), random_q(rng, (4,), 1.0), random_q(rng, (2, 4), 1.0))
    assert result.gap.shape == result.approximation.shape == result.error.amortization.shape == (2,)
    assert json.loads(json.dumps(result.to_dict()))["gap"] == result.gap.tolist()
    assert len(str(result).splitlines()) == 3
    assert len({len(line) for line in str(result).splitlines()}) == 1
    alone = gap_anatomy(np.zeros(2), np.zeros(2), np.zeros(2), unnormalized=True)
    assert isinstance(alone.gap, np.float64) and alone.gap == alone.amortization == 0.0


def data_set(seed: int) -> tuple[Array, Array, Array, Array]:
    """(log_likelihood, log_prior, log_q, counts), some of them with zeros, some nearly collapsed."""
    rng = np.random.default_rng(seed)
    n, s = int(rng.integers(1, 7)), int(rng.integers(1, 8))
    log_q = rng.normal(0.0, rng.choice([0.1, 3.0, 60.0]), (n, s))
    if seed % 3 == 0:
        log_q = log_q[0] + 10.0 ** rng.uniform(-9.0, -3.0) * rng.normal(size=(n, s))
    if seed % 4 == 0:
        log_q[rng.random((n, s)) < 0.3] = -INF
        log_q[:, 0] = 0.0
    log_prior = random_q(rng, (s,), 1.0) if seed % 5 else np.asarray(ee.log_posterior(log_q[0]))
    counts = rng.integers(1, 9, n).astype(np.float64)
    return rng.normal(-2.0, 3.0, (n, s)), log_prior, np.asarray(ee.log_posterior(log_q)), counts


def exact_surgery(log_likelihood: Array, log_prior: Array, log_q: Array, counts: Array) -> dict[str, Any]:
    """The definitions, entry by entry."""
    shares = [mpf(float(c)) / mpmath.fsum(mpf(float(x)) for x in counts) for c in counts]
    q, prior = [distribution(row) for row in log_q], distribution(log_prior)
    aggregate = [mpmath.fsum(w * row[z] for w, row in zip(shares, q, strict=True)) for z in range(len(prior))]
    reconstruction = mpmath.fsum(
        w * x * mpf(float(y))
        for w, row, line in zip(shares, q, log_likelihood, strict=True)
        for x, y in zip(row, line, strict=True)
        if x > 0
    )
    return {
        "reconstruction": reconstruction,
        "mutual_information": mpmath.fsum(w * kl(row, aggregate) for w, row in zip(shares, q, strict=True)),
        "kl_to_prior": kl(aggregate, prior),
        "elbo": reconstruction - mpmath.fsum(w * kl(row, prior) for w, row in zip(shares, q, strict=True)),
    }


@pytest.mark.parametrize("seed", range(40))
def test_surgery_within_its_bounds(seed: int) -> None:
    log_likelihood, log_prior, log_q, counts = data_set(seed)
    result = surgery(log_likelihood, log_prior, log_q, weights=counts)
    with mpmath.workdps(DIGITS):
        for name, value in exact_surgery(log_likelihood, log_prior, log_q, counts).items():
            got, bound = float(getattr(result, name)), getattr(result.error, name)
            assert got == float(value) if not mpmath.isfinite(value) else abs(mpf(got) - value) <= bound, name
    assert abs(result.residual) <= result.residual_bound


@pytest.mark.parametrize("seed", range(200))
def test_information_is_at_most_the_entropy_of_the_index(seed: int) -> None:
    """And never negative; and the parts add up to the mean ELBO, which is computed without them."""
    log_likelihood, log_prior, log_q, counts = data_set(seed + 1000)
    result = surgery(log_likelihood, log_prior, log_q)
    assert 0.0 <= result.mutual_information <= math.log(len(log_q)) + result.error.mutual_information + 2.0**-52
    assert abs(result.residual) <= result.residual_bound
    weighted = surgery(log_likelihood, log_prior, log_q, weights=counts)
    entropy = float(ee.entropy(np.log(counts / counts.sum())))
    assert weighted.mutual_information <= entropy + weighted.error.mutual_information + 2.0**-50


def test_collapse_and_its_opposite() -> None:
    collapsed = surgery(np.zeros((3, 2)), np.log([0.5, 0.5]), np.log([[0.3, 0.7]] * 3))
    assert collapsed.mutual_information <= collapsed.error.mutual_information < 1e-15
    with np.errstate(divide="ignore"):
        told = surgery(np.zeros((4, 4)), np.log([0.25] * 4), np.log(np.eye(4)))
    assert abs(told.mutual_information - math.log(4.0)) <= told.error.mutual_information + 2.0**-53
    assert abs(told.kl_to_prior) <= told.error.kl_to_prior


def test_counts_are_repetitions() -> None:
    log_likelihood, log_prior, log_q, _ = data_set(3)
    counts = np.arange(1, len(log_q) + 1)
    rows = np.repeat(np.arange(len(log_q)), counts)
    first, second = (
        surgery(log_likelihood, log_prior, log_q, weights=counts.astype(float)),
        surgery(log_likelihood[rows], log_prior, log_q[rows]),
    )
    for name in Surgery.NAMES:
        allowed = getattr(first.error, name) + getattr(second.error, name)
        assert abs(getattr(first, name) - getattr(second, name)) <= allowed


def test_impossible_states_in_the_prior_or_the_likelihood() -> None:
    half = np.log([0.5, 0.5])
    no_prior = surgery(np.zeros((1, 2)), [0.0, -INF], [half])
    assert no_prior.kl_to_prior == INF and no_prior.elbo == -INF and no_prior.residual == 0.0
    no_likelihood = surgery([[0.0, -INF]], half, [half])
    assert no_likelihood.reconstruction == no_likelihood.elbo == -INF and no_likelihood.kl_to_prior == 0.0


def test_surgery_prints_and_exports() -> None:
    result = surgery(*data_set(1)[:3])
    assert json.loads(json.dumps(result.to_dict()))["error"]["elbo"] == result.error.elbo
    assert [line.split()[0] for line in str(result).splitlines()] == [*Surgery.NAMES, "residual"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros((2, 2)), np.zeros(2), np.log([[0.5, 0.5]] * 2)), "log_prior must be normalized"),
        ((np.zeros((2, 2)), np.log([0.5, 0.5]), np.log([0.5, 0.5])), r"log_q must have shape \(N, S\)"),
        ((np.zeros((2, 2)), np.log([0.5, 0.5]), np.zeros((2, 2))), "log_q sums to 2"),
        ((np.zeros((3, 2)), np.log([0.5, 0.5]), np.log([[0.5, 0.5]])), "log_likelihood must have the shape"),
    ],
)
def test_surgery_refuses(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(LogTableError, match=words):
        surgery(*arguments)


def test_surgery_refuses_weights_that_sum_to_zero() -> None:
    with pytest.raises(LogTableError, match="must not all be zero"):
        surgery(np.zeros((1, 2)), np.log([0.5, 0.5]), np.log([[0.5, 0.5]]), weights=[0.0])


@pytest.mark.parametrize("role", ["log_q_best", "log_q_amortized"])
def test_gap_anatomy_names_the_q_at_fault(role: str) -> None:
    good = np.log([0.5, 0.5])
    for bad, words in (
        ([math.nan, 0.0], " contains NaN"),
        (good + 1.0, " sums to 2.72"),
        ([-INF, -INF], " has no support"),
        ([0.0], r" must have the same shape as log_joint \(2,\)"),
        (0.0, " must have at least one axis"),
    ):
        with pytest.raises(LogTableError, match=f"^{role}{words}") as caught:
            gap_anatomy(good, **{"log_q_best": good, "log_q_amortized": good, role: bad})
        assert caught.value.argument == role


def test_gap_anatomy_refuses_batches_that_do_not_broadcast() -> None:
    good = np.log([0.5, 0.5])
    with pytest.raises(LogTableError, match="log_q_best must have the same shape as log_q_amortized"):
        gap_anatomy(good, np.tile(good, (2, 1)), np.tile(good, (3, 1)))


@pytest.mark.parametrize("power", [1022, -1074])
def test_surgery_with_weights_at_the_ends_of_the_range(power: int) -> None:
    tables, weights = data_set(4)[:3], np.array([1.0, 2.0])
    tables = tables[0][:2], tables[1], tables[2][:2]
    assert str(surgery(*tables, weights=np.ldexp(weights, power))) == str(surgery(*tables, weights=weights))


def test_surgery_names_the_prior_and_an_empty_data_set() -> None:
    half = np.log([[0.5, 0.5]])
    with pytest.raises(LogTableError, match=r"log_prior must have shape \(2,\), the states of log_q; got \(3,\)"):
        surgery(half, np.log([0.2, 0.3, 0.5]), half)
    with pytest.raises(LogTableError, match=r"log_q must hold at least one observation; got shape \(0, 2\)"):
        surgery(half[:0], half[0], half[:0])
