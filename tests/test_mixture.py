"""Mixture: tables against plain products, changes and bounds against ball arithmetic, the M-step against its rivals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from arb_oracle import verdict
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st
from test_categorical import NINF, SEEDS, exact_log_probability

from elbo_exact.errors import LogTableError
from elbo_exact.evidence import log_evidence, posterior
from elbo_exact.families import Categorical
from elbo_exact.models import Mixture, MixtureStatistics


@pytest.fixture(autouse=True, scope="module")
def _bits() -> Iterator[None]:
    before, ctx.prec = ctx.prec, 420
    yield
    ctx.prec = before


def exact_log_joint(model: Mixture, pattern: Any, k: int) -> Any:
    """log weight + sum of log probabilities of the stored rows renormalized, as a ball or -inf."""
    terms = [exact_log_probability(model.log_weights.tolist(), k)]
    terms += [exact_log_probability(f.log_probabilities[k].tolist(), c) for f, c in zip(model.components, pattern, strict=True)]
    return NINF if NINF in [t for t in terms if isinstance(t, float)] else sum(terms, arb(0))


def all_patterns(model: Mixture) -> list[tuple[int, ...]]:
    """Every combination of categories."""
    return list(itertools.product(*(range(family.n_categories) for family in model.components)))


@st.composite
def mixtures(draw: Any) -> Mixture:
    """Up to 3 classes, 3 columns, 3 categories; some structural zeros."""
    rng = np.random.default_rng(draw(SEEDS))
    n_components, sizes = draw(st.integers(1, 3)), draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    model = Mixture.random(n_components, sizes, rng=rng)
    if not draw(st.booleans()):
        return model
    zeros = []
    for family in model.components:
        table = np.array(family.log_probabilities)
        table[:, 1:][rng.random((n_components, family.n_categories - 1)) < 0.4] = NINF
        zeros.append(Categorical(table - np.log(np.exp(table).sum(axis=1, keepdims=True))))
    return Mixture(model.log_weights, tuple(zeros))


@given(mixtures())
def test_log_joint_is_within_its_bound(model: Mixture) -> None:
    patterns = all_patterns(model)
    values, errors = model.log_joint_and_error(patterns)
    for n, pattern in enumerate(patterns):
        for k in range(model.n_components):
            assert verdict(values[n, k], errors[n, k], exact_log_joint(model, pattern, k)) == "inside"


@given(mixtures())
def test_all_patterns_together_have_probability_one(model: Mixture) -> None:
    values, errors = model.log_joint_and_error(all_patterns(model))
    # each entry is off by a factor within its bound; log_evidence adds 4 u and 2 u log of the number of entries, below 64 u
    assert abs(log_evidence(values.ravel())) <= errors.max() + 64 * 2.0**-53


@given(mixtures(), st.integers(0, 2), st.integers(1, 3))
def test_blocks_of_states_are_columns(model: Mixture, first: int, length: int) -> None:
    patterns, stop = all_patterns(model), min(first + length, model.n_components)
    if first < stop:
        assert np.array_equal(model.log_joint(patterns, slice(first, stop)), model.log_joint(patterns)[:, first:stop])


@given(mixtures(), SEEDS, st.sampled_from([1e-15, 1e-9, 1e-2, None]))
def test_log_joint_change_is_within_its_bound(model: Mixture, seed: int, size: float | None) -> None:
    rng = np.random.default_rng((seed, 1))  # not the stream that drew the model
    other = model.randomize(rng) if size is None else moved(model, size, rng)
    patterns = all_patterns(model)
    changes, errors = model.log_joint_change_and_error(other, patterns)
    for n, pattern in enumerate(patterns):
        for k in range(model.n_components):
            new, old = exact_log_joint(other, pattern, k), exact_log_joint(model, pattern, k)
            # where no parameter of a state changed, change and bound are 0, which a ball can only not contradict
            wanted = {"inside", "undecided"} if changes[n, k] == errors[n, k] == 0.0 else {"inside"}
            assert verdict(changes[n, k], errors[n, k], arb(0) if isinstance(old, float) else new - old) in wanted
            assert isinstance(old, float) or size is None or errors[n, k] <= 2.0**-40 * max(size, 2.0**-50)
    assert np.array_equal(model.log_joint_change(other, patterns), changes)


def moved(model: Mixture, size: float, rng: np.random.Generator) -> Mixture:
    """The model with every log parameter moved by at most ``size``."""

    def shift(table: Any) -> Any:
        raw = table + rng.uniform(-size, size, table.shape)
        return raw - np.log(np.exp(raw).sum(axis=-1, keepdims=True))

    return Mixture(shift(model.log_weights), tuple(Categorical(shift(f.log_probabilities)) for f in model.components))


def test_log_joint_change_of_lost_and_won_states() -> None:
    def model(first: float, second: float) -> Mixture:
        return Mixture([0.0], tuple(Categorical([[p, NINF if p == 0.0 else math.log(0.5)]]) for p in (first, second)))

    half, one = math.log(0.5), 0.0
    lost = model(half, half).log_joint_change(model(one, half), [[1, 1]])
    won = model(one, half).log_joint_change(model(half, half), [[1, 1]])
    swapped = model(one, half).log_joint_change(model(half, one), [[1, 1]])  # impossible in both, for different reasons
    never = model(one, half).log_joint_change(model(one, half), [[1, 1]])
    assert [table.item() for table in (lost, won, swapped, never)] == [NINF, math.inf, 0.0, 0.0]


@given(mixtures(), SEEDS)
def test_statistics_add_and_sum_to_the_weights(model: Mixture, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patterns = np.array(all_patterns(model))
    weights = rng.integers(0, 2**20, (len(patterns), model.n_components)) / 2.0**10  # dyadic: sums are exact
    whole = model.statistics(patterns, weights)
    half = len(patterns) // 2
    parts = model.statistics(patterns[:half], weights[:half]) + model.statistics(patterns[half:], weights[half:])
    assert np.array_equal(whole.weights, parts.weights)
    assert all(np.array_equal(a, b) for a, b in zip(whole.components, parts.components, strict=True))
    assert whole.weights.tolist() == [math.fsum(column) for column in weights.T]
    assert all(np.array_equal(table.sum(axis=1), whole.weights) for table in whole.components)


@given(mixtures(), SEEDS, st.sampled_from([None, 0.5]))
def test_maximize_beats_every_rival(model: Mixture, seed: int, prior: float | None) -> None:
    rng = np.random.default_rng(seed)
    patterns = all_patterns(model)
    possible = log_evidence(model.log_joint(patterns)) > NINF
    patterns = [pattern for pattern, fine in zip(patterns, possible, strict=True) if fine]
    weights = posterior(model.log_joint(patterns)) * rng.exponential(size=(len(patterns), 1))
    best, rival = model.maximize(model.statistics(patterns, weights), prior), model.randomize(rng)

    def objective(candidate: Mixture) -> tuple[float, float]:
        values, errors = candidate.log_joint_and_error(patterns)
        used = weights > 0.0
        prior_value, prior_error = candidate.log_prior(prior)
        spread = math.fsum(weights[used] * (errors[used] + 2.0**-53 * np.abs(values[used])))
        total = math.fsum([*(weights[used] * values[used]).tolist(), prior_value])
        return total, prior_error + spread + 2.0**-53 * abs(total)

    (mine, mine_error), (theirs, theirs_error) = objective(best), objective(rival)
    assert mine - theirs >= -(mine_error + theirs_error) * 1.01


@given(mixtures(), st.sampled_from([0.5, 2.0]), SEEDS, st.sampled_from([1e-9, 1e-2]))
def test_log_prior_change_is_the_difference(model: Mixture, prior: float, seed: int, size: float) -> None:
    other = moved(model, size, np.random.default_rng(seed))
    (old, old_error), (new, new_error) = model.log_prior(prior), other.log_prior(prior)
    change, error = model.log_prior_change(other, prior)
    assert abs((new - old) - change) <= 1.01 * (old_error + new_error + error + 2.0**-53 * abs(new - old))


def test_empty_class_is_frozen() -> None:
    model = Mixture.random(2, [2, 3], rng=3)
    fitted = model.maximize(model.statistics([[0, 1], [1, 2]], [[1.0, 0.0], [1.0, 0.0]]))
    assert fitted.log_weights.tolist() == [0.0, NINF]
    for before, after in zip(model.components, fitted.components, strict=True):
        assert np.array_equal(before.log_probabilities[1], after.log_probabilities[1])
    assert posterior(fitted.log_joint([[0, 1]])).tolist() == [[1.0, 0.0]]


def test_prior_as_statistics_of_imaginary_observations() -> None:
    model = Mixture.random(2, [2], rng=3)
    seen = model.statistics([[0], [1]], [[1.0, 0.0], [0.5, 0.5]])
    imaginary = MixtureStatistics(np.array([0.0, 4.0]), (np.array([[1.0, 0.0], [0.0, 3.0]]),))
    with_prior, together = model.maximize(seen, imaginary), model.maximize(seen + imaginary)
    assert np.array_equal(with_prior.log_weights, together.log_weights)
    assert np.array_equal(with_prior.components[0].log_probabilities, together.components[0].log_probabilities)


@given(mixtures(), SEEDS)
def test_samples_are_possible(model: Mixture, seed: int) -> None:
    x, z = model.sample(20, rng=seed)
    assert (np.take_along_axis(model.log_joint(x), z[:, None], axis=1) > NINF).all()


def test_sample_frequencies() -> None:
    model = Mixture(np.log([0.3, 0.7]), (Categorical(np.log([[0.9, 0.1], [0.2, 0.8]])),))
    x, z = model.sample(40_000, rng=5)
    joint = np.exp(model.log_joint([[0], [1]])).T
    for k, c in itertools.product(range(2), range(2)):
        p, count = joint[k, c], np.sum((z == k) & (x[:, 0] == c))
        assert abs(count - 40_000 * p) < 6 * math.sqrt(40_000 * p * (1 - p))  # six standard deviations, fixed seed


def test_initialize_counts_the_categories() -> None:
    model = Mixture.initialize([[0, 4], [2, 0]], 3, rng=0)
    assert [family.n_categories for family in Mixture.initialize([[2.0], [math.nan]], 2).components] == [3]
    assert model.space.sizes == (3,) and [family.n_categories for family in model.components] == [3, 5]
    assert model.to_dict()["log_weights"] == Mixture.initialize([[0, 4], [2, 0]], 3, rng=0).log_weights.tolist()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Mixture([0.0], ()),
            ValueError,
            "components must hold at least one family, one per observed column; got none.",
        ),
        (
            lambda: Mixture(np.log([0.5, 0.5]), (Categorical([[0.0]]),)),
            ValueError,
            "components[0] must have 2 rows, one per log weight; got 1.",
        ),
        (lambda: Mixture([0.5], (Categorical([[0.0]]),)), LogTableError, "log_weights sums to 1.65; expected 1"),
        (lambda: MODEL.log_joint([[0, 0, 0]]), LogTableError, "x must have shape (N, 2), one column per family; got (1, 3)."),
        (lambda: MODEL.log_joint([[0, 3]]), LogTableError, "x must be in 0 ... 1; got 3 at index (0,)"),
        (lambda: MODEL.statistics([[0, 0]], [[1.0]]), LogTableError, "weights must have shape (1, 2); got (1, 1)."),
        (lambda: MODEL.maximize(MODEL.statistics([[0, 0]], [[1.0, 0.0]]), prior=-1.0), LogTableError, "prior must be finite"),
        (
            lambda: Mixture.initialize(np.zeros((0, 2), int), 2),
            LogTableError,
            "x must have shape (N, D) with N >= 1; got (0, 2).",
        ),
        (
            lambda: Mixture.initialize([1, 2], 2),
            LogTableError,
            "x must have shape (N, D) with N >= 1; got (2,).",
        ),
        (lambda: Mixture.random(0, [2]), ValueError, "n_components must be an integer >= 1; got 0."),
    ],
)
def test_refused_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


MODEL = Mixture.random(2, [2, 2], rng=0)
