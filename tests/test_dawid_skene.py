"""Raters: tables against plain products and balls, counts against loops, the loop against a plain EM of its own."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arb_oracle import verdict
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from test_categorical import NINF, SEEDS, exact_log_probability

from elbo_exact.errors import LogTableError
from elbo_exact.evidence import log_evidence, posterior
from elbo_exact.fit import Outcome, fit_em
from elbo_exact.models import DawidSkene, RatingCounts

ARB_BITS = 420

U = 2.0**-53


@st.composite
def models(draw: Any) -> DawidSkene:
    """Up to 3 classes, 2 answers, 2 raters with up to 2 columns; some structural zeros."""
    rng = np.random.default_rng(draw(SEEDS))
    k, c, r = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pattern = np.where(rng.random((r, k, c)) < draw(st.sampled_from([0.0, 0.3])), NINF, 0.0)
    pattern[:, :, 0] = 0.0
    raters = draw(st.lists(st.integers(0, r - 1), min_size=1, max_size=2))
    flat = pattern - np.log(np.exp(pattern).sum(axis=-1, keepdims=True))
    return DawidSkene(np.full(k, -math.log(k)), flat, raters).randomize(rng)


def all_ratings(model: DawidSkene) -> list[tuple[float, ...]]:
    """Every combination of answers, and of missing ones."""
    answers = [*map(float, range(model.log_confusion.shape[2])), math.nan]
    assert model.raters is not None
    return list(itertools.product(answers, repeat=len(model.raters)))


def exact(model: DawidSkene, ratings: tuple[float, ...], k: int) -> Any:
    """The log joint of the stored rows renormalized, as a ball or -inf."""
    assert model.raters is not None
    terms = [exact_log_probability(model.log_weights.tolist(), k)]
    for rater, answer in zip(model.raters, ratings, strict=True):
        if not math.isnan(answer):
            terms.append(exact_log_probability(model.log_confusion[rater, k].tolist(), int(answer)))
    return NINF if NINF in [t for t in terms if isinstance(t, float)] else sum(terms, arb(0))


@given(models(), SEEDS)
def test_tables_and_changes_are_within_their_bounds(model: DawidSkene, seed: int) -> None:
    ratings, other = all_ratings(model), model.randomize(np.random.default_rng((seed, 1)))
    values, errors = model.log_joint_and_error(ratings)
    changes, change_errors = model.log_joint_change_and_error(other, ratings)
    for n, k in itertools.product(range(len(ratings)), range(model.n_components)):
        here = exact(model, ratings[n], k)
        assert verdict(values[n, k], errors[n, k], here) == "inside"
        if not isinstance(here, float):
            assert verdict(changes[n, k], change_errors[n, k], exact(other, ratings[n], k) - here) == "inside"
        else:
            assert changes[n, k] == 0.0  # the same zeros in both


@given(models())
def test_all_answers_together_have_probability_one(model: DawidSkene) -> None:
    ratings = [row for row in all_ratings(model) if not any(map(math.isnan, row))]
    values, errors = model.log_joint_and_error(ratings)
    assert abs(log_evidence(values.ravel())) <= errors.max() + 64 * U  # as in test_mixture.py


def test_statistics_count_every_rating() -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 3, (20, 4)).astype(float)
    x[rng.random(x.shape) < 0.3] = math.nan
    raters, weights = (0, 2, 2, 1), rng.integers(0, 9, (20, 2)).astype(float)  # whole weights: sums are exact
    flat = np.full((3, 2, 3), -math.log(3.0))
    found = DawidSkene(np.log([0.5, 0.5]), flat, raters).statistics(x, weights)
    counts = np.zeros((3, 2, 3))
    for n, d in itertools.product(range(20), range(4)):
        if not math.isnan(x[n, d]):
            counts[raters[d], :, int(x[n, d])] += weights[n]
    assert np.array_equal(found.confusion, counts) and np.array_equal(found.weights, weights.sum(axis=0))


@pytest.mark.parametrize("votes", ["shares", "majority"])
def test_the_start_counts_votes(votes: str) -> None:
    x = [[0, 0, 1], [1, 1, 1], [0, 1, math.nan], [math.nan] * 3]
    model = DawidSkene.from_votes(x, [0, 0, 1], votes=votes)
    p = {"shares": [2 / 3, 0.0, 0.5, 0.5], "majority": [1.0, 0.0, 0.5, 0.5]}[votes]
    weights = np.array([[a, 1 - a] for a in p])
    # four additions of shares, a division and a logarithm of numbers within a factor of 4: a few u
    assert np.abs(np.exp(model.log_weights) - weights.mean(axis=0)).max() <= 16 * U
    first = np.array([2 * weights[0] + weights[2], 2 * weights[1] + weights[2]]).T
    assert np.abs(np.exp(model.log_confusion[0]) - first / first.sum(axis=1, keepdims=True)).max() <= 16 * U


@given(models(), SEEDS)
def test_em_never_loses_and_keeps_zeros(model: DawidSkene, seed: int) -> None:
    x, _ = model.sample(12, rng=seed)
    start = model.randomize(np.random.default_rng((seed, 2)))
    fit = fit_em(start, x, max_iter=30)
    assert fit.outcome is not Outcome.NOT_MONOTONE and (fit.gains >= -fit.gain_errors).all()
    assert (fit.model.log_confusion[model.log_confusion == NINF] == NINF).all()


def test_steps_are_those_of_a_plain_em() -> None:
    truth = DawidSkene(np.log([0.6, 0.4]), np.log([[[0.8, 0.2], [0.3, 0.7]], [[0.9, 0.1], [0.2, 0.8]]]), (0, 0, 1))
    x, _ = truth.sample(50, rng=1)
    model = fit_em(truth, x, max_iter=3, tolerance=0.0).model
    share, table = np.array([0.6, 0.4]), np.exp(truth.log_confusion)
    for _ in range(3):
        joint = share * table[0][:, x[:, 0]].T * table[0][:, x[:, 1]].T * table[1][:, x[:, 2]].T
        p = joint / joint.sum(axis=1, keepdims=True)
        counts = np.zeros((2, 2, 2))
        for n, (rater, d) in itertools.product(range(50), ((0, 0), (0, 1), (1, 2))):
            counts[rater, :, x[n, d]] += p[n]
        share, table = p.mean(axis=0), counts / counts.sum(axis=-1, keepdims=True)
    # relative rounding of each of three steps: 50 additions of at most 2 columns, a dozen operations; EM contracts it afterwards
    assert np.abs(np.exp(model.log_weights) - share).max() <= 3 * 2 * 112 * U
    assert np.abs(np.exp(model.log_confusion) - table).max() <= 3 * 2 * 112 * U


def test_pseudo_counts_enter_the_objective_and_the_step() -> None:
    model = DawidSkene.from_votes([[0, 1], [1, 1], [0, 0]], prior=1.0)
    fit = fit_em(model, [[0, 1], [1, 1], [0, 0]], prior=RatingCounts(1.0, 0.5))  # type: ignore[arg-type]
    assert fit.outcome is Outcome.CONVERGED and np.isfinite(fit.model.log_confusion).all()
    assert (fit.gains >= -fit.gain_errors).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], [[[0.0]], [[0.0]]], [0, 2]), "raters[1] must be an integer from 0 to 1; got 2."),
        (([0.0], [[[0.0]]], []), "raters must name the rater of at least one column; got none."),
        (([0.0], np.log(np.full((1, 2, 2), 0.5))), "log_confusion must have shape (R, 1, C), a row for each log weight"),
    ],
)
def test_models_that_do_not_fit_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises((ValueError, LogTableError)) as caught:
        DawidSkene(*arguments)
    assert message in str(caught.value)


def test_the_posterior_of_an_unrated_item_is_the_share() -> None:
    model = DawidSkene(np.log([0.25, 0.75]), np.log([[[0.9, 0.1], [0.2, 0.8]]]))
    assert np.abs(posterior(model.log_joint([[math.nan]])) - [0.25, 0.75]).max() <= 16 * U


def test_the_anesthetists_of_the_paper() -> None:
    """45 patients, five raters, the first three times: every estimate of table 2 of Dawid & Skene (1979), to its two digits."""
    fields = json.loads(Path(__file__).with_name("anesthetists.json").read_text(encoding="utf-8"))
    model = DawidSkene.from_votes(fields["patterns"], fields["raters"])
    fit = fit_em(model, fields["patterns"])
    share, confusion = np.exp(fit.model.log_weights), np.exp(fit.model.log_confusion)
    for answer in fields["answers"]:
        if answer["quantity"] == "log_likelihood":
            # EM stops when a step gains less than the spacing of doubles; what is left is a few of those
            assert abs(fit.objective - float(answer["value"])) <= 0.5e-12 + fit.error
            continue
        k = answer["component"]
        found = share[k] if answer["quantity"] == "share" else confusion[answer["rater"], k, answer["rating"]]
        assert abs(found - float(answer["value"])) <= 0.005, answer
