"""Relations between two calls, on dyadic tables whose transformed entries are exact doubles: bits, or the sum of both bounds."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st
from table_strategies import Array, U, perturbation, relation, tables

import elbo_exact as ee

LN2_ERROR = 2.0**-54  # of math.log(2) as a double
QUANTITIES = ("log_evidence", "elbo", "gap", "forward_kl", "eubo", "entropy")
DIVERGENCES = ("chi2_divergence", "total_variation", "hellinger", "jensen_shannon", "jeffreys")
OFFSETS = (64.0, 1024.0, -(2.0**20))


def audit(a: Array, b: Array) -> ee.Audit:
    return ee.audit(a, b, include=DIVERGENCES, unnormalized=True)


def assert_close(first: Any, second: Any, name: str, shift: float = 0.0, slack: float = 0.0) -> None:
    """|second - first - shift| within both bounds, in exact arithmetic; infinities must agree."""
    x, y = float(getattr(first, name)), float(getattr(second, name))
    if math.isinf(x) or math.isinf(y) or math.isnan(x):
        assert x == y or (x != x and y != y), (name, x, y)
        return
    bound = Fraction(float(getattr(first.error, name))) + Fraction(float(getattr(second.error, name))) + Fraction(slack)
    assert abs(Fraction(y) - Fraction(x) - Fraction(shift)) <= bound, (name, x, y, float(bound))


def assert_bits(first: Any, second: Any, names: tuple[str, ...]) -> None:
    for name in names:
        x, y = float(getattr(first, name)), float(getattr(second, name))
        assert x == y or (x != x and y != y), (name, x.hex(), y.hex())


@relation
@given(tables())
def test_the_order_and_the_signs(pair: tuple[Array, Array]) -> None:
    result = audit(*pair)
    assert result.elbo <= result.log_evidence <= result.eubo
    assert all(getattr(result, name) >= 0.0 for name in ("gap", "forward_kl", "entropy", *DIVERGENCES))


@relation
@given(tables())
def test_evidence_is_elbo_plus_gap_and_eubo_minus_forward(pair: tuple[Array, Array]) -> None:
    result = audit(*pair)
    evidence, error = Fraction(float(result.log_evidence)), Fraction(float(result.error.log_evidence))
    for bound_name, divergence_name, sign in (("elbo", "gap", 1), ("eubo", "forward_kl", -1)):
        if abs(getattr(result, divergence_name)) < np.inf:
            limit, kl = (Fraction(float(getattr(result, name))) for name in (bound_name, divergence_name))
            errors = [Fraction(float(getattr(result.error, name))) for name in (bound_name, divergence_name)]
            assert abs(evidence - limit - sign * kl) <= error + sum(errors)


@relation
@given(tables(), st.sampled_from(OFFSETS))
def test_a_constant_in_the_log_joint_moves_only_what_it_should(pair: tuple[Array, Array], offset: float) -> None:
    a, b = pair
    first, second = audit(a, b), audit(a + offset, b)
    assert_bits(first, second, ("gap", "forward_kl", "entropy", *DIVERGENCES))
    for name in ("log_evidence", "elbo", "eubo"):
        assert_close(first, second, name, offset)


@relation
@given(tables(), st.sampled_from(OFFSETS))
def test_a_constant_in_the_logits_of_q_changes_nothing(pair: tuple[Array, Array], offset: float) -> None:
    a, b = pair
    first, second = audit(a, b), audit(a, b + offset)
    assert_bits(first, second, (*QUANTITIES, *DIVERGENCES))
    assert_close(first, second, "log_q_normalizer", offset)


@relation
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_the_states_does_not_matter(pair: tuple[Array, Array], random: Any) -> None:
    a, b = pair
    order = list(range(a.size))
    random.shuffle(order)
    first, second = audit(a, b), audit(a[order], b[order])
    for name in (*QUANTITIES, *DIVERGENCES, "log_q_normalizer"):
        assert_close(first, second, name)


@relation
@given(tables())
def test_two_copies_of_every_state(pair: tuple[Array, Array]) -> None:
    """p and q are halved everywhere: evidence, bounds and entropy gain log 2, divergences stay."""
    a, b = pair
    first, second = audit(a, b), audit(np.tile(a, 2), np.tile(b, 2))
    for name in ("gap", "forward_kl", *DIVERGENCES):
        assert_close(first, second, name)
    for name in ("log_evidence", "elbo", "eubo", "entropy", "log_q_normalizer"):
        assert_close(first, second, name, math.log(2), LN2_ERROR)


@relation
@given(tables(zeros=False), st.integers(0, 11))
def test_splitting_a_state_in_two_halves(pair: tuple[Array, Array], state: int) -> None:
    a, b = pair
    z = state % a.size
    halves = [np.append(row, row[z] - math.log(2)) for row in pair]
    for half in halves:
        half[z] = half[-1]
    size = U * float(np.abs(np.concatenate(halves)).max()) + LN2_ERROR
    first, second = audit(a, b), audit(*halves)
    for name in ("gap", "forward_kl"):
        assert_close(first, second, name, slack=perturbation(a, b, size))
    assert_close(first, second, "log_evidence", slack=size)


@relation
@given(tables(), st.integers(1, 140))
def test_states_that_cannot_occur_change_no_bit(pair: tuple[Array, Array], count: int) -> None:
    nothing = np.full(count, -np.inf)
    first, second = audit(*pair), audit(*(np.append(row, nothing) for row in pair))
    assert_bits(first, second, (*QUANTITIES, *DIVERGENCES, "log_q_normalizer"))


@relation
@given(tables(max_size=6), tables(max_size=6))
def test_independent_problems_add(one: tuple[Array, Array], other: tuple[Array, Array]) -> None:
    product = audit(*(np.add.outer(x, y).ravel() for x, y in zip(one, other, strict=True)))
    first, second = audit(*one), audit(*other)
    for name in QUANTITIES:
        x, y, z = (float(getattr(result, name)) for result in (first, second, product))
        if not all(map(math.isfinite, (x, y, z))):
            assert x + y == z, name
            continue
        bound = sum(Fraction(float(getattr(result.error, name))) for result in (first, second, product))
        assert abs(Fraction(x) + Fraction(y) - Fraction(z)) <= bound, name


@relation
@given(tables(min_size=2))
def test_merging_two_states_never_adds_divergence(pair: tuple[Array, Array]) -> None:
    """Data processing (Kullback & Leibler 1951, theorem 4.1); logaddexp of two doubles is good to 4 u (1 + its size)."""
    merged = [np.append(row[2:], np.logaddexp(row[0], row[1])) for row in pair]
    size = 4.0 * U * (1.0 + max(abs(float(row[-1])) if row[-1] > -np.inf else 0.0 for row in merged))
    before, after = audit(*pair), audit(*merged)
    for name in ("gap", "forward_kl"):
        if getattr(before, name) < np.inf:
            room = getattr(before.error, name) + getattr(after.error, name) + perturbation(*merged, size)
            assert getattr(after, name) <= getattr(before, name) + room, name


@relation
@given(tables())
def test_exchanging_the_tables_exchanges_the_divergences(pair: tuple[Array, Array]) -> None:
    a, b = pair
    first, second = audit(a, b), audit(b, a)
    assert ee.gap(b, a, unnormalized=True) == second.gap  # the one-sided kernel
    for here, there in (("gap", "forward_kl"), ("forward_kl", "gap")):
        x, y = float(getattr(first, here)), float(getattr(second, there))
        bound = getattr(first.error, here) + getattr(second.error, there)
        assert x == y or abs(x - y) <= bound, here
    for name in ("total_variation", "hellinger", "jensen_shannon", "jeffreys"):
        assert_close(first, second, name)


@relation
@given(tables(zeros=False), st.sampled_from([0.0, 2.0, -96.0]))
def test_equal_distributions(pair: tuple[Array, Array], offset: float) -> None:
    a, _ = pair
    result = audit(a, a + offset)
    assert result.gap == 0.0 and result.forward_kl == 0.0
    assert result.elbo == result.log_evidence == result.eubo
    assert all(getattr(result, name) == 0.0 for name in DIVERGENCES)


@relation
@given(st.integers(-(2**12), 2**12), st.integers(-(2**12), 2**12), st.sampled_from([2.0**-8, 2.0**-30, 2.0**-5]))
def test_two_states_in_closed_form(i: int, j: int, grid: float) -> None:
    """KL(Bernoulli(s(y)) || Bernoulli(s(x))) = s(y) (y - x) + log(1 + exp x) - log(1 + exp y), s the logistic function."""
    x, y = i * grid, j * grid
    result = audit(np.array([0.0, x]), np.array([0.0, y]))
    ctx.prec = 600
    for name, p, q in (("gap", arb(x), arb(y)), ("forward_kl", arb(y), arb(x))):
        exact = (q - p) / (1 + (-q).exp()) + p.exp().log1p() - q.exp().log1p()
        assert abs(arb(float(getattr(result, name))) - exact) <= arb(float(getattr(result.error, name))) + arb(2) ** -550, name
    soft = arb(x).exp().log1p()
    assert abs(arb(float(result.log_evidence)) - soft) <= arb(float(result.error.log_evidence))


@relation
@given(
    st.lists(st.tuples(st.integers(-(2**11), 2**11), st.integers(-8, 8)), min_size=1, max_size=12),
)
def test_small_gaps_are_half_a_variance(entries: list[tuple[int, int]]) -> None:
    """q = p exp(eps d)/Z: gap = eps**2 Var_q(d)/2 up to the third cumulant of d, at most eps**3 Var_q(d) range(d)/6.

    The cumulant is taken at a tilted q, whose variance differs by a factor exp(2 eps range): inside the 1.01, like the
    rounding of this test's own variance.
    """
    eps = 2.0**-30
    d = np.array([float(k) for _, k in entries])
    a = np.array([k * 2.0**-8 for k, _ in entries])
    b = a + eps * d
    q = np.exp(b - b.max())
    q /= math.fsum(q)
    variance = math.fsum((0.5 * np.outer(q, q) * np.subtract.outer(d, d) ** 2).ravel())  # of pairs: nothing cancels
    result = audit(a, b)
    for name in ("gap", "forward_kl"):
        value = 0.5 * eps**2 * variance
        assert abs(getattr(result, name) - value) <= 1.01 * value * eps * float(np.ptp(d)) + getattr(result.error, name)
