"""Categorical: densities and their changes against ball arithmetic, statistics against loops, the M-step against its rivals."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from arb_oracle import exact_sum, verdict
from family_laws import assert_pullback
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from elbo_exact.errors import LogTableError
from elbo_exact.families import Categorical

ARB_BITS = 1400  # resolves 1 + exp(-900)

NINF = -math.inf
SEEDS = st.integers(0, 2**32 - 1)


def exact_log_probability(row: Any, category: int) -> Any:
    """The stored row renormalized, as a ball."""
    if row[category] == NINF:
        return NINF
    return arb(row[category]) - exact_sum(arb(x).exp() for x in row if x > NINF).log()


def exact_change(old: Any, new: Any, category: int) -> Any:
    """log of the ratio of the renormalized rows, as a ball."""
    return exact_log_probability(new, category) - exact_log_probability(old, category)


@st.composite
def families(draw: Any) -> Categorical:
    """Up to 3 states and 5 categories, probabilities down to e**-300, some structural zeros."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(SEEDS))
    logits = rng.uniform(-draw(st.sampled_from([1e-9, 1.0, 300.0])), 0.0, shape)
    logits[rng.random(shape) < draw(st.sampled_from([0.0, 0.4]))] = NINF
    logits[:, rng.integers(shape[1])] = 0.0
    return Categorical(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


@given(families())
def test_log_density_is_within_its_bound(family: Categorical) -> None:
    values, errors = family.log_density_and_error(np.arange(family.n_categories))
    for c in range(family.n_categories):
        for k, row in enumerate(family.log_probabilities.tolist()):
            assert verdict(values[c, k], errors[c, k], exact_log_probability(row, c)) == "inside"


def test_log_density_renormalizes_what_is_stored() -> None:
    skewed = math.log(0.5) + 2e-7  # each 0.5 e^(2e-7): stored mass 1 + 2e-7
    family = Categorical([[skewed, skewed]])
    values, errors = family.log_density_and_error([0])
    assert abs(values[0, 0] + math.log(2)) <= errors[0, 0] + 2.0**-54  # math.log rounds to half an ulp of 0.69


@given(families(), st.sampled_from([1e-14, 1e-9, 1e-3, 3.0]), SEEDS)
def test_log_density_change_is_within_its_bound(family: Categorical, size: float, seed: int) -> None:
    moved = family.log_probabilities + np.random.default_rng(seed).uniform(-size, size, family.log_probabilities.shape)
    other = Categorical(moved - np.log(np.exp(moved).sum(axis=1, keepdims=True)))
    changes, errors = family.log_density_change(other, np.arange(family.n_categories))
    for c in range(family.n_categories):
        for k in range(family.n_states):
            old, new = family.log_probabilities[k].tolist(), other.log_probabilities[k].tolist()
            if old[c] == NINF:
                assert math.isnan(changes[c, k]) and errors[c, k] == 0.0
            else:
                assert verdict(changes[c, k], errors[c, k], exact_change(old, new, c)) == "inside"
                # relative to the largest change, not to the logarithms: 2 (3 * 8 u + (2 C + 6) u) and the final roundings, C <= 5
                largest = max(abs(n - o) for o, n in zip(old, new, strict=True) if o > NINF)
                assert errors[c, k] <= 100 * 2.0**-53 * math.exp(2 * min(largest, 10.0)) * max(largest, 2.0**-52)


def test_log_density_change_at_lost_and_won_categories() -> None:
    old, new = Categorical([[math.log(0.5), math.log(0.5), NINF]]), Categorical([[0.0, NINF, NINF]])
    lost, _ = old.log_density_change(new, [0, 1, 2])
    won, _ = new.log_density_change(old, [0, 1, 2])
    assert lost[1, 0] == NINF and won[1, 0] == math.inf and math.isnan(lost[2, 0])
    assert lost[0, 0] == -won[0, 0] == math.log(2)


@given(SEEDS, st.integers(0, 30), st.integers(1, 3), st.integers(1, 4))
def test_statistics_are_the_weighted_counts(seed: int, n: int, n_states: int, n_categories: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights = rng.integers(n_categories, size=n), rng.integers(0, 2**20, (n, n_states)) / 2.0**10  # dyadic: sums are exact
    family = Categorical.random(n_states, n_categories, rng=rng)
    expected = [[math.fsum(weights[x == c, k]) for c in range(n_categories)] for k in range(n_states)]
    found = family.statistics(x, weights)
    assert found.tolist() == expected
    half = n // 2
    assert np.array_equal(family.statistics(x[:half], weights[:half]) + family.statistics(x[half:], weights[half:]), found)


@given(families(), SEEDS)
def test_maximize_beats_every_rival(family: Categorical, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.exponential(size=family.log_probabilities.shape) * (family.log_probabilities > NINF)
    best, rival = family.maximize(counts), family.randomize(rng)
    categories = np.arange(family.n_categories)
    (mine, mine_error), (theirs, theirs_error) = (f.log_density_and_error(categories) for f in (best, rival))
    for k in range(family.n_states):
        used = counts[k] > 0.0
        difference = math.fsum(counts[k][used] * (mine[used, k] - theirs[used, k]))
        # bounds of both densities, and for each product and difference one rounding
        slack = math.fsum(counts[k][used] * (mine_error[used, k] + theirs_error[used, k] + 2.0**-51 * np.abs(theirs[used, k])))
        assert difference >= -slack


def test_maximize_closed_form_and_zeros() -> None:
    family = Categorical(np.log([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))
    fitted = np.exp(family.maximize([[3.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).log_probabilities)
    assert fitted[0].tolist() == [np.exp(np.log(0.75)), 0.0, np.exp(np.log(0.25))]
    assert fitted[1].tolist() == np.exp(family.log_probabilities[1]).tolist()  # no counts: the row stays


def test_maximize_keeps_structural_zeros_under_a_prior() -> None:
    family = Categorical([[math.log(0.5), math.log(0.5), NINF]])
    fitted = family.maximize([[3.0, 0.0, 0.0]], pseudo_counts=1.0).log_probabilities[0]
    assert fitted[2] == NINF
    assert fitted[:2].tolist() == np.log([0.8, 0.2]).tolist()


@given(families(), SEEDS)
def test_pseudo_counts_are_imaginary_observations(family: Categorical, seed: int) -> None:
    counts, extra = np.random.default_rng(seed).exponential(size=(2, *family.log_probabilities.shape))
    with_prior, together = family.maximize(counts, pseudo_counts=extra), family.maximize(counts + extra)
    assert np.array_equal(with_prior.log_probabilities, together.log_probabilities)


@given(families(), SEEDS)
def test_randomize_keeps_shape_and_zeros(family: Categorical, seed: int) -> None:
    other = family.randomize(np.random.default_rng(seed))
    assert np.array_equal(other.log_probabilities > NINF, family.log_probabilities > NINF)


def test_sample_frequencies_and_zeros() -> None:
    family = Categorical([[math.log(0.75), NINF, math.log(0.25)], [NINF, 0.0, NINF]])
    draws = family.sample([0] * 40_000 + [1] * 100, rng=7)
    seen = Counter(draws[:40_000].tolist())
    # six standard deviations of a binomial count: sqrt(n p (1 - p)) = 87; a fixed seed makes the verdict permanent
    assert seen[1] == 0 and abs(seen[0] - 30_000) < 6 * math.sqrt(40_000 * 0.75 * 0.25)
    assert set(draws[40_000:].tolist()) == {1}
    assert np.array_equal(draws, family.sample([0] * 40_000 + [1] * 100, rng=7))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([0.0], "log_probabilities must have 2 axes without a length of 0; got shape (1,)."),
        ([[0.0, 0.0]], "log_probabilities sums to 2 at index (0,); expected 1 (within 1e-6)"),
        ([[0.0], [NINF]], "log_probabilities sums to 0 at index (1,); expected 1"),
        ([[math.nan, 0.0]], "log_probabilities contains NaN at index (0, 0)."),
        ([[math.inf, 0.0]], "log_probabilities contains +inf at index (0, 0)"),
    ],
)
def test_refused_parameters(table: Any, message: str) -> None:
    with pytest.raises(LogTableError) as caught:
        Categorical(table)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([0, 2], LogTableError, "x must be in 0 ... 1; got 2 at index (1,); number the categories from 0."),
        ([0, -1], LogTableError, "x must be in 0 ... 1; got a missing value (-1) at index (1,); drop the observation."),
        ([0.5], TypeError, "x must hold whole numbers 0 ... 1; got dtype float64."),
        (["a"], TypeError, "x must hold whole numbers 0 ... 1; got dtype str"),
        ([True], TypeError, "x must hold whole numbers 0 ... 1; got dtype bool."),
        ([[0]], LogTableError, "x must have one axis, the observations; got shape (1, 1)."),
    ],
)
def test_refused_observations(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Categorical(np.log([[0.5, 0.5]])).log_density(x)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.statistics([0, 1], [[1.0]]), "weights must have shape (2, 1); got (1, 1)."),
        (lambda f: f.maximize([[-1.0, 2.0]]), "statistics must be finite and >= 0; smallest is -1."),
        (lambda f: f.maximize([[1.0, 2.0, 3.0]]), "statistics must broadcast to shape (1, 2); got (1, 3)."),
        (lambda f: f.maximize([[1.0, 2.0]], pseudo_counts=-1.0), "pseudo_counts must be finite and >= 0; smallest is -1."),
    ],
)
def test_refused_statistics(call: Any, message: str) -> None:
    with pytest.raises(LogTableError) as caught:
        call(Categorical(np.log([[0.5, 0.5]])))
    assert str(caught.value) == message


def test_missing_values_contribute_nothing() -> None:
    family, x = Categorical.random(2, 3, rng=4), [1.0, math.nan, 2.0]
    values, errors = family.log_density_and_error(x)
    assert values[1].tolist() == errors[1].tolist() == [0.0, 0.0]
    assert np.array_equal(values[[0, 2]], family.log_density([1, 2]))
    change, change_error = family.log_density_change(Categorical.random(2, 3, rng=5), x)
    assert change[1].tolist() == change_error[1].tolist() == [0.0, 0.0] and (change[0] != 0.0).all()
    assert np.array_equal(family.statistics(x, np.ones((3, 2))), family.statistics([1, 2], np.ones((2, 2))))


def test_pullback_is_the_complex_step() -> None:
    rng = np.random.default_rng(3)
    family, x, cotangent = Categorical.random(2, 3, rng=rng), [0.0, 2.0, math.nan, 1.0], rng.normal(size=(4, 2))

    def value(flat: Any) -> complex:
        table, total = flat.reshape(2, 3), 0j
        for n, k in ((0, 0), (0, 1), (1, 0), (1, 1), (3, 0), (3, 1)):
            total += cotangent[n, k] * (table[k, int(x[n])] - np.log(np.exp(table[k]).sum()))
        return total

    assert_pullback(family.pullback(x, cotangent), family.log_probabilities.ravel(), value, np.abs(cotangent).sum())


def test_parameters_are_copied_and_read_only() -> None:
    given_table = np.log([[0.5, 0.5]])
    family = Categorical(given_table)
    given_table[0, 0] = 7.0
    assert family.log_probabilities[0, 0] == math.log(0.5)
    with pytest.raises(ValueError, match="read-only"):
        family.log_probabilities[0, 0] = 0.0


def test_maximize_keeps_counts_whose_share_underflows() -> None:
    fitted = Categorical(np.log([[0.5, 0.5]])).maximize([[2.0**-1060, 2.0**100]]).log_probabilities
    # two logarithms of at most 735 nats and their difference, each within 2 u of its size
    assert abs(fitted[0, 0] + 1160.0 * math.log(2.0)) <= 4 * 2 * 1160 * 2.0**-53
    assert fitted[0, 1] == 0.0
