"""Theorems that the returned numbers must obey, up to the sum of their error bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracle
from hypothesis import assume, given
from hypothesis import strategies as st
from table_strategies import Array, U, perturbation, relation, tables

import elbo_exact as ee

DIVERGENCES = ("chi2_divergence", "total_variation", "hellinger", "jensen_shannon")
ORDERS = (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, math.inf)


def audit(a: Array, b: Array, *orders: float) -> ee.Audit:
    include = [("renyi_divergence", orders[0])] if orders else DIVERGENCES
    return ee.audit(a, b, include=include, unnormalized=True)


@relation
@given(tables())
def test_evidence_lies_between_its_largest_term_and_that_times_the_states(pair: tuple[Array, Array]) -> None:
    a, _ = pair
    result = audit(*pair)
    top, error = float(a.max()), float(result.error.log_evidence)
    assert top - error <= result.log_evidence <= top + math.log(a.size) * (1.0 + 2.0 * U) + error


@relation
@given(tables())
def test_pinsker(pair: tuple[Array, Array]) -> None:
    """KL >= 2 TV**2, both ways (Csiszar 1967); the largest TV below its bound, squared with two roundings."""
    result = audit(*pair)
    distance = max(0.0, float(result.total_variation - result.error.total_variation))
    for name in ("gap", "forward_kl"):
        assert getattr(result, name) + getattr(result.error, name) >= 2.0 * distance**2 * (1.0 - 2.0 * U), name


@relation
@given(tables())
def test_chi_square_bounds_the_forward_divergence(pair: tuple[Array, Array]) -> None:
    """KL(p || q) <= log(1 + chi2(p, q)), by Jensen; libm's log1p within one ulp, 2u."""
    result = audit(*pair)
    roof = math.log1p(float(result.chi2_divergence + result.error.chi2_divergence))
    assert result.forward_kl <= roof * (1.0 + 2.0 * U) + result.error.forward_kl


@relation
@given(tables())
def test_distances_bound_each_other(pair: tuple[Array, Array]) -> None:
    """H**2 <= TV <= H sqrt(2 - H**2) (Le Cam) and JS <= TV log 2 (Lin 1991)."""
    result = audit(*pair)
    tv, tv_error = float(result.total_variation), float(result.error.total_variation)
    low, high = (max(0.0, float(x)) for x in result.interval("hellinger"))
    rounding = 1.0 + 8.0 * U
    assert low**2 <= (tv + tv_error) * rounding
    assert tv - tv_error <= min(1.0, high) * math.sqrt(max(0.0, 2.0 - min(1.0, high) ** 2)) * rounding
    assert result.jensen_shannon - result.error.jensen_shannon <= (tv + tv_error) * math.log(2) * rounding


@relation
@given(tables(), st.sampled_from(range(len(ORDERS) - 1)))
def test_renyi_divergence_grows_with_its_order(pair: tuple[Array, Array], i: int) -> None:
    first, second = (audit(*pair, ORDERS[j]) for j in (i, i + 1))
    room = first.error.renyi_divergence + second.error.renyi_divergence
    assert first.renyi_divergence <= second.renyi_divergence + room


@relation
@given(tables(zeros=False), st.floats(0.0625, 4.0))
def test_renyi_divergence_is_skew_symmetric(pair: tuple[Array, Array], alpha: float) -> None:
    """(1 - alpha) D_alpha(q || p) = alpha D_(1-alpha)(p || q), for an alpha whose 1 - alpha is exact."""
    alpha = round(alpha * 16.0) / 16.0
    assume(alpha not in (0.0, 1.0))
    a, b = pair
    first, second = audit(a, b, alpha), audit(b, a, 1.0 - alpha)
    left, right = (1.0 - alpha) * first.renyi_divergence, alpha * second.renyi_divergence
    room = abs(1.0 - alpha) * first.error.renyi_divergence + alpha * second.error.renyi_divergence
    assert abs(left - right) <= 1.01 * room + 2.0 * U * (abs(left) + abs(right))


def two_factors(draw: Any) -> tuple[Array, Array]:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    entry = st.integers(-(2**11), 2**11)
    a, b = (np.array(draw(st.lists(entry, min_size=rows * columns, max_size=rows * columns))) * 2.0**-7 for _ in range(2))
    return a.reshape(rows, columns), b.reshape(rows, columns)


@relation
@given(st.composite(two_factors)())
def test_chain_rule(pair: tuple[Array, Array]) -> None:
    """KL(q(y,z) || p(y,z)) = KL(q(y) || p(y)) + sum q(y) KL(q(z|y) || p(z|y)); the marginals are off by their own bounds."""
    a, b = pair
    whole, given_y = audit(a.ravel(), b.ravel()), audit(a, b)
    log_p, log_q = given_y.log_evidence, given_y.log_q_normalizer
    marginal = audit(log_p, log_q)
    size = max(given_y.error.log_evidence.max(), given_y.error.log_q_normalizer.max())
    for name, weights in (("gap", ee.posterior(log_q)), ("forward_kl", ee.posterior(log_p))):
        inner = math.fsum(weights * getattr(given_y, name))
        # A weight is off by what its logarithm is off by, twice (normalizer included), and by a few roundings.
        room = math.fsum(weights * getattr(given_y.error, name)) + inner * (4.0 * size + 10.0 * U)
        room += getattr(whole.error, name) + getattr(marginal.error, name) + perturbation(log_p, log_q, size)
        assert abs(getattr(whole, name) - getattr(marginal, name) - inner) <= 1.01 * room, name


@relation
@given(tables(), st.integers(2, 5))
def test_repeated_data_multiply_the_totals(pair: tuple[Array, Array], copies: int) -> None:
    a, b = pair
    once = audit(a, b)
    batch = audit(np.tile(a, (copies, 1)), b)
    for total in (batch.total(), audit(a[None, :], b).total(weights=[float(copies)])):
        for name in ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy"):
            value, expected = getattr(total, name), copies * float(getattr(once, name))
            room = getattr(total.error, name) + copies * float(getattr(once.error, name)) + U * abs(expected)
            assert value == expected or abs(value - expected) <= room, name


@relation
@given(tables(zeros=False))
def test_one_observation_after_the_other(pair: tuple[Array, Array]) -> None:
    """log p(x, y) = log p(x) + log sum p(z | x) p(y | z), where x and y are independent given z.

    The posterior in between is a table of doubles: each entry is off by the bound of the evidence and two roundings.
    """
    prior_and_first, second = pair
    both = ee.audit(prior_and_first + second, second, unnormalized=True)
    first = ee.audit(prior_and_first, second, unnormalized=True)
    table = ee.log_posterior(prior_and_first) + second
    after = ee.audit(table, second, unnormalized=True)
    rounding = 4.0 * U * float(np.abs(np.concatenate([prior_and_first, second, table])).max() + abs(first.log_evidence))
    room = both.error.log_evidence + 2.0 * first.error.log_evidence + after.error.log_evidence + rounding
    assert abs(both.log_evidence - (first.log_evidence + after.log_evidence)) <= room


@relation
@given(tables(zeros=False), st.integers(-(2**10), 2**10), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_divergence_is_convex(pair: tuple[Array, Array], shift: int, share: float) -> None:
    """KL(s q + (1-s) r || p) <= s KL(q || p) + (1-s) KL(r || p) (Cover & Thomas 2006, theorem 2.7.2)."""
    a, b = pair
    c = np.roll(a, 1) + np.linspace(0.0, shift * 2.0**-6, a.size)
    q, r = ee.log_posterior(b), ee.log_posterior(c)
    with np.errstate(divide="ignore"):
        mixed = np.logaddexp(q + np.log(share), r + np.log(1.0 - share))
    whole, first, second = (audit(a, table) for table in (mixed, q, r))
    size = 8.0 * U * (1.0 + float(np.abs(np.concatenate([q, r, mixed])).max()))
    average = share * first.gap + (1.0 - share) * second.gap
    room = share * first.error.gap + (1.0 - share) * second.error.gap + whole.error.gap + 3.0 * U * average
    assert whole.gap <= average + room + perturbation(a, mixed, size)


@relation
@given(tables())
def test_elbo_is_entropy_minus_cross_entropy(pair: tuple[Array, Array]) -> None:
    """The bound of the cross entropy is not public; 4 (S + 4) u sum q |a| covers weights and a plain sum."""
    a, b = pair
    result = ee.audit(a, b, unnormalized=True)
    cross = float(ee.cross_entropy(a, b, unnormalized=True))
    if math.isinf(cross):
        assert result.elbo == -math.inf
        return
    largest = float(np.abs(a[(a > -np.inf) & (b > -np.inf)]).max())
    room = result.error.elbo + result.error.entropy + (4.0 * a.size + 16.0) * U * largest
    assert abs(result.elbo - (result.entropy - cross)) <= room + U * abs(cross)


@relation
@given(tables(zeros=False))
def test_the_gradient_is_the_complex_step_of_the_definition(pair: tuple[Array, Array]) -> None:
    """The naive sum loses about S u times its largest term. The gradient sums to 0, because logits have a free constant.

    g = q (e + gap) is off by at most 24 u q (|e| + gap): the gap by 21u, the sum, the weight and the product by 12u of |g|.
    """
    a, b = pair
    gradient = ee.elbo_gradient(a, b)
    scale = float(np.abs(np.concatenate([a, b])).max()) + 1.0
    room = 40.0 * a.size * U * scale
    for z in range(a.size):
        naive = oracle.derivative(lambda row: oracle.elbo(a.tolist(), row), b.tolist(), z)
        assert abs(gradient[z] - naive) <= room, z
    sizes = ee.posterior(b) * (np.abs(ee.log_posterior(a) - ee.log_posterior(b)) + ee.gap(a, b, unnormalized=True))
    assert (
        abs(math.fsum(gradient)) <= 24.0 * U * math.fsum(sizes) + 12.0 * U * math.fsum(np.abs(gradient)) + a.size * 2.0**-1074
    )
