"""Log evidence and posterior: accuracy against ball arithmetic, laws, ties, impossible rows, and the law of the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import oracle
import pytest
from arb_oracle import Reference, verdict
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from table_families import FAMILIES
from table_strategies import relation, tables

import elbo_exact as ee
from elbo_exact.errors import ZeroEvidence

Array = npt.NDArray[np.float64]
U, ETA, INF = 2.0**-53, 2.0**-1074, math.inf
BITS = 5200  # resolves exp(-1500)
SMALL = [name for name in FAMILIES if name != "many_states"]
SPACE = ee.LatentSpace((2, 3, 4))


def rows_of(family: str, count: int = 4) -> list[Array]:
    """Log joints of a family."""
    rng = np.random.default_rng([7, len(family)])
    return [FAMILIES[family](rng)[0] for _ in range(count)]


def exact_logs(row: Array) -> list[arb | float]:
    """log p(z | x) as balls; -inf stays a float. Runs under the caller's precision."""
    top = arb(float(row.max()))
    total = sum(((arb(float(x)) - top).exp() for x in row if x > -INF), arb(0))
    return [arb(float(x)) - top - total.log() if x > -INF else -INF for x in row]


@pytest.mark.parametrize("family", SMALL)
def test_log_evidence_has_the_bits_and_the_bound_of_the_audit(family: str) -> None:
    for a in rows_of(family):
        value, audited = float(ee.log_evidence(a)), ee.audit(a, np.zeros(a.size), unnormalized=True)
        assert value == audited.log_evidence
        assert Reference(a, np.zeros(a.size)).verdict("log_evidence", value, audited.error.log_evidence) == "inside"


@pytest.mark.parametrize("family", SMALL)
def test_posterior_is_within_eight_roundings(family: str) -> None:
    """The weight 3.1u, the sum 1 + R 5.1u + 2 kappa at most and usually half of it, the quotient u; the documentation says 8u.

    A weight or a quotient below 2**-1022 is rounded to a multiple of ETA instead: one ETA each.
    """
    for a in rows_of(family):
        result = ee.posterior(a)
        ctx.prec = BITS
        try:
            balls = [x.exp() if isinstance(x, arb) else arb(0) for x in exact_logs(a)]
        finally:
            ctx.prec = 53
        for p, ball in zip(result, balls, strict=True):
            assert verdict(p, 8.0 * U * float(p) + 2.0 * ETA, ball) == "inside", (a, p, ball)


@pytest.mark.parametrize("family", SMALL)
def test_log_posterior_is_within_its_roundings(family: str) -> None:
    """(a - top) - log A' + low: the difference is exact as t + low; log A' carries 2u log A' + 5u R/(1+R); two sums round,
    each by u times its result, which is at most |t| + log A'; every weight and R are multiples of ETA: n + 1 roundings to one."""
    for a in rows_of(family):
        result = ee.log_posterior(a)
        ctx.prec = BITS
        try:
            balls = exact_logs(a)
        finally:
            ctx.prec = 53
        with np.errstate(over="ignore"):
            depths = float(a.max()) - a
        for value, ball, depth in zip(result, balls, depths, strict=True):
            log_sum = float(ee.log_evidence(a - a.max()))
            if depth == INF and isinstance(ball, arb):
                assert value == -INF  # the difference is beyond the range of doubles
                continue
            bound = 1.01 * (2.0 * U * (depth + log_sum) + 2.0 * U * log_sum + 5.0 * U * -math.expm1(-log_sum))
            bound += (a.size + 1.0) * ETA
            assert verdict(value, bound if depth < INF else 0.0, ball) == "inside", (a, value, ball)


@given(tables())
@relation
def test_posterior_agrees_with_the_definition(pair: tuple[Array, Array]) -> None:
    """Both sides are sums of non-negative terms: ours within 8u, the loop with libm below 1 ulp (2u) for exp, u for a - top
    amplified by |a - top| <= 2**13 (dyadic rows: the difference is exact), the sum and the quotient u each."""
    a = pair[0]
    for p, q in zip(ee.posterior(a), oracle.posterior(a.tolist()), strict=True):
        assert abs(p - q) <= (8.0 + 6.0) * U * q + 3.0 * ETA


@given(tables())
@relation
def test_posterior_does_not_depend_on_a_constant(pair: tuple[Array, Array]) -> None:
    a = pair[0]
    np.testing.assert_array_equal(ee.posterior(a + 1024.0), ee.posterior(a))
    np.testing.assert_array_equal(ee.log_posterior(a + 1024.0), ee.log_posterior(a))


@given(tables())
@relation
def test_posterior_sums_to_one(pair: tuple[Array, Array]) -> None:
    """Each entry is off by at most 8u of itself, so their exact sum is off by 8u, and by one ETA for each."""
    p = ee.posterior(pair[0])
    assert abs(math.fsum([*p.tolist(), -1.0])) <= 8.0 * U + p.size * ETA
    assert ((p >= 0.0) & (p <= 1.0)).all()


@given(tables())
@relation
def test_log_posterior_is_never_positive_and_orders_the_states_alike(pair: tuple[Array, Array]) -> None:
    a = pair[0]
    log_p, order = ee.log_posterior(a), np.argsort(a, kind="stable")
    assert (log_p <= 0.0).all()
    assert (log_p[order[:-1]] <= log_p[order[1:]]).all()
    np.testing.assert_array_equal(log_p == -INF, a == -INF)


@given(tables(), tables())
@relation
def test_evidence_of_two_sets_of_states(one: tuple[Array, Array], other: tuple[Array, Array]) -> None:
    """log(A + B) from log A and log B: the outer sum moves by no more than the larger error of its entries."""
    parts = [ee.audit(a, np.zeros(a.size), unnormalized=True) for a in (one[0], other[0])]
    joined = np.concatenate([one[0], other[0]])
    whole = ee.audit(joined, np.zeros(joined.size), unnormalized=True)
    outer = ee.audit([float(p.log_evidence) for p in parts], [0.0, 0.0], unnormalized=True)
    slack = max(p.error.log_evidence for p in parts)
    assert abs(whole.log_evidence - outer.log_evidence) <= whole.error.log_evidence + outer.error.log_evidence + slack


@pytest.mark.parametrize("n", [1, 2, 3, 64, 100, 4097])
def test_equal_states_share_the_mass(n: int) -> None:
    """log n to the bound; every probability is 1/n rounded, because R = n - 1 is exact."""
    audited = ee.audit(np.full(n, 3.0), np.full(n, 3.0), unnormalized=True)
    ctx.prec = BITS
    try:
        exact = arb(3) + arb(n).log()
    finally:
        ctx.prec = 53
    assert verdict(audited.log_evidence, audited.error.log_evidence, exact) == "inside"
    np.testing.assert_array_equal(ee.posterior(np.full(n, 3.0)), np.full(n, 1.0 / n))


def test_marginals_sum_the_posterior_over_the_other_variables() -> None:
    """S = 24 states: entries within 8u, a sum of at most 12 positive terms in any order adds 11u."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(5, SPACE.size)) * 3.0
    marginals = ee.posterior_marginals(table, SPACE)
    assert [m.shape for m in marginals] == [(5, 2), (5, 3), (5, 4)]
    states = SPACE.states()
    for i, row in enumerate(table):
        exact = oracle.posterior(row.tolist())
        for k, size in enumerate(SPACE.sizes):
            for value in range(size):
                expected = math.fsum(p for p, state in zip(exact, states, strict=True) if state[k] == value)
                assert abs(marginals[k][i, value] - expected) <= (8.0 + 11.0 + 6.0) * U * expected


def test_marginals_of_an_independent_joint_are_its_factors() -> None:
    """Quarters and eighths: every product, sum and quotient is exact but for exp(log) of the table, 8u + 2u, and 11 sums."""
    left, right = np.array([0.25, 0.75]), np.array([0.5, 0.125, 0.375])
    joint = np.log(left)[:, None] + np.log(right)[None, :]
    first, second = ee.posterior_marginals(joint.ravel(), ee.LatentSpace((2, 3)))
    spread = 8.0 + 11.0 + 4.0 * float(-joint.min())  # log and its sum: u each, relative to |log p|
    assert (np.abs(first - left) <= spread * U * left).all()
    assert (np.abs(second - right) <= spread * U * right).all()


def test_marginals_refuse_a_table_of_another_size() -> None:
    with pytest.raises(ee.LogTableError, match=r"log_joint must have the 24 states of space along axis=-1; got 5\."):
        ee.posterior_marginals(np.zeros(5), SPACE)


@pytest.mark.parametrize(
    ("row", "first"),
    [([1.0, 3.0, 3.0], 1), ([-INF, -INF, -7.0], 2), ([0.0, -0.0], 0), ([-1e308, 1e308, 1e308], 1), ([5.0], 0)],
)
def test_the_first_of_equal_states_is_the_map_state(row: list[float], first: int) -> None:
    assert ee.map_state(row) == first
    assert ee.top_states(row, 1).states.tolist() == [first]


def test_map_state_in_the_variables_of_a_space() -> None:
    table = np.zeros((2, SPACE.size))
    table[0, 23], table[1, 5] = 1.0, 1.0
    np.testing.assert_array_equal(ee.map_state(table, SPACE), [[1, 2, 3], [0, 1, 1]])
    np.testing.assert_array_equal(ee.map_state(table), [23, 5])


def test_equal_states_keep_their_order() -> None:
    table = np.array([[0.0, 1.0, -INF, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    result = ee.top_states(table, 5)
    np.testing.assert_array_equal(result.states, [[1, 3, 0, 4, 2], [0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(result.probabilities, np.take_along_axis(ee.posterior(table), result.states, -1))


@given(tables(), st.data())
@relation
def test_no_other_state_beats_the_top_states(pair: tuple[Array, Array], data: st.DataObject) -> None:
    a = pair[0]
    k = data.draw(st.integers(1, a.size))
    states, probabilities = ee.top_states(a, k)
    assert len(set(states.tolist())) == k
    assert (np.diff(probabilities) <= 0.0).all()
    rest = np.delete(a, states)
    assert rest.size == 0 or rest.max() <= a[states].min()
    assert states[0] == ee.map_state(a)


def test_top_states_in_the_variables_of_a_space() -> None:
    table = np.arange(24.0)
    np.testing.assert_array_equal(ee.top_states(table, 2, SPACE).states, [[1, 2, 3], [1, 2, 2]])


@pytest.mark.parametrize(
    ("k", "message"),
    [(0, "k must be an integer >= 1"), (4, "k must be at most the number of states 3; got 4"), (1.0, "k must be")],
)
def test_top_states_refuse_impossible_counts(k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ee.top_states([0.0, 1.0, 2.0], k)


@pytest.mark.parametrize("name", ["posterior", "log_posterior", "map_state", "top_states", "sample_posterior"])
def test_the_first_impossible_row_is_named(name: str) -> None:
    table = np.zeros((2, 3, 4))
    table[1, 0], table[1, 2] = -INF, -INF
    with pytest.raises(ZeroEvidence, match=r"at index \(1, 0\)") as caught:
        getattr(ee, name)(table, *([1] if name in ("top_states", "sample_posterior") else []))
    assert caught.value.index == (1, 0)


def test_an_impossible_row_has_evidence_zero() -> None:
    np.testing.assert_array_equal(ee.log_evidence([[-INF, -INF], [0.0, -INF]]), [-INF, 0.0])


SAMPLED = {
    "uniform": [0.0] * 6,
    "zeros": [-INF, 0.0, -INF, 1.0, 2.0, -INF],
    "skewed": [0.0, -1.0, -2.0, -3.0, -4.0, -5.0],
    "offset": [1e6, 1e6 + 1.0, 1e6 - 1.0],
    "two": [0.0, math.log(3.0)],
}


def chi_square(counts: Array, probabilities: Sequence[float]) -> tuple[float, int]:
    """Pearson's statistic over the possible states, and its degrees of freedom."""
    possible = np.array(probabilities) > 0.0
    expected = np.array(probabilities)[possible] * counts.sum()
    return float(((counts[possible] - expected) ** 2 / expected).sum()), int(possible.sum()) - 1


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_follow_the_posterior(name: str) -> None:
    """Ten seeds: the largest of ten statistics stays below the quantile at 1 - 1e-4/10 (union bound): a correct sampler fails
    one choice of seeds in 10,000. The smallest expected count, 1e5 e**-5/1.6 = 426, makes the chi-square law accurate."""
    row, size, seeds = SAMPLED[name], 100_000, 10
    exact = oracle.posterior(row)
    for seed in range(seeds):
        draws = ee.sample_posterior(row, size, rng=seed)
        counts = np.bincount(draws, minlength=len(row)).astype(float)
        assert counts[np.array(exact) == 0.0].sum() == 0.0
        statistic, freedom = chi_square(counts, exact)
        assert statistic <= chi2.isf(1e-4 / seeds, freedom), (seed, statistic)


def test_rows_are_sampled_independently_of_each_other() -> None:
    """The joint counts of two uniform rows of 4 states fit 16 equal cells; same threshold rule, one seed."""
    first, second = ee.sample_posterior(np.zeros((2, 4)), 100_000, rng=3)
    statistic, freedom = chi_square(np.bincount(4 * first + second, minlength=16).astype(float), [1.0 / 16.0] * 16)
    assert statistic <= chi2.isf(1e-4, freedom)


def test_samples_have_shapes_seeds_and_variables() -> None:
    table = np.random.default_rng(2).normal(size=(2, 3, SPACE.size))
    draws = ee.sample_posterior(table, 7, rng=5)
    assert draws.shape == (2, 3, 7)
    assert draws.dtype == np.int64
    np.testing.assert_array_equal(draws, ee.sample_posterior(table, 7, rng=np.random.default_rng(5)))
    assert (draws != ee.sample_posterior(table, 7, rng=6)).any()
    values = ee.sample_posterior(table, 7, SPACE, rng=5)
    np.testing.assert_array_equal(SPACE.index(values.reshape(-1, 3)), draws.ravel())
    assert ee.sample_posterior(table, 0).shape == (2, 3, 0)


def test_no_sample_lies_beyond_the_last_possible_state() -> None:
    """The cumulative sums end in a flat tail of impossible states; the largest uniform must not step onto it."""

    class AlmostOne(np.random.Generator):
        def random(self, size=None, *args, **kwargs):
            return np.full(size, 1.0 - U)

    row = np.append(np.zeros(49), [-INF, -INF])
    draws = ee.sample_posterior(row, 5, rng=AlmostOne(np.random.PCG64(0)))
    assert draws.max() <= 48
