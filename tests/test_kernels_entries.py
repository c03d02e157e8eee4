"""Log probabilities of categorical columns from their logits, and the way back, against sums by math.fsum.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from elbo_exact.kernels.entries import IMPOSSIBLE, entries_pullback, normalized_entries, number_entries, number_pullback
from elbo_exact.kernels.tiles import ROWS

U = 2.0**-53
CATEGORIES = [2, 1, 5]
FIRST = [0, 2, 4]  # one entry beside the second column is not its own


@pytest.fixture(autouse=True)
def _as_compiled() -> Any:
    """The interpreter warns where compiled code does not."""
    with np.errstate(all="ignore"):
        yield


def layout(n_states: int) -> tuple[Any, Any]:
    """Columns as two families hold them, (K, 2 of one and two categories) and (K, 5), and of every logit its column, state and entry."""
    width = sum(CATEGORIES[:2])
    columns = np.array([[0, 2, n_states * width], [width, width, CATEGORIES[2]], CATEGORIES, FIRST])
    places = [
        (columns[0, d] + k * columns[1, d] + c, d, k, FIRST[d] + c)
        for d, n_categories in enumerate(CATEGORIES)
        for k in range(n_states)
        for c in range(n_categories)
    ]
    assert sorted(where for where, *_ in places) == list(range(n_states * sum(CATEGORIES)))
    return columns, places


@pytest.mark.parametrize("n_states", [1, ROWS - 1, ROWS, 2 * ROWS + 3])
def test_entries_are_log_softmax_and_the_way_back_is_its_transpose(n_states: int) -> None:
    rng, (columns, places) = np.random.default_rng(n_states), layout(n_states)
    logits = rng.normal(size=n_states * sum(CATEGORIES)) * rng.choice([1.0, 30.0, 700.0], n_states * sum(CATEGORIES))
    logits[[where for where, _, k, entry in places if entry == 5 and k % 3 == 0]] = -np.inf
    entries, cotangent, gradient = np.full((9, n_states), 7.0), rng.normal(size=(9, n_states)), np.empty(logits.size)
    normalized_entries(logits, columns, entries)
    assert (entries[3] == 7.0).all()
    entries_pullback(logits, columns, entries, cotangent, gradient)
    for d, n_categories in enumerate(CATEGORIES):
        for k in range(n_states):
            where = [place for place, column, state, _ in places if (column, state) == (d, k)]
            own, table = logits[where], slice(FIRST[d], FIRST[d] + n_categories)
            top = own.max()
            total = math.log(math.fsum(np.exp(own - top).tolist()))
            # C additions and weights of 2u, ours and NumPy's; two logs, each below the other terms; three differences
            error = (n_categories + 8) * U + 4.0 * U * (np.abs(own) + abs(top) + total)
            exact = (own - top) - total
            assert (np.abs(entries[table, k] - np.maximum(exact, IMPOSSIBLE))[own > -np.inf] <= error[own > -np.inf]).all()
            assert (entries[table, k][own == -np.inf] == IMPOSSIBLE).all()
            c = cotangent[table, k]
            slope = c - np.exp(entries[table, k]) * math.fsum(c.tolist())
            slack = (np.abs(c) + (n_categories + 12) * math.fsum(np.abs(c).tolist())) * 2.0 * U
            assert (np.abs(gradient[where] - np.where(own > -np.inf, slope, 0.0)) <= slack).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_column_is_nan_and_no_other(bad: float) -> None:
    columns, _ = layout(3)
    logits, entries = np.zeros(3 * sum(CATEGORIES)), np.zeros((9, 3))
    logits[3] = bad  # of the first column and second state
    normalized_entries(logits, columns, entries)
    expected = np.zeros((9, 3), bool)
    expected[:2, 1] = True
    assert np.array_equal(np.isnan(entries), expected)


def test_numbers_times_weights_and_the_transpose() -> None:
    rng, sizes = np.random.default_rng(0), np.array([2, 1, 4])
    weights, entries, back = rng.integers(-9, 9, (3, 5)).astype(float), np.empty((7, 5)), np.empty((3, 5))
    number_entries(sizes, weights, entries)
    expected = [value * weights[d] for d, size in enumerate(sizes) for value in range(size)]
    assert np.array_equal(entries, expected)
    cotangent = rng.integers(-9, 9, (7, 5)).astype(float)
    number_pullback(sizes, cotangent, back)
    assert (entries * cotangent).sum() == (weights * back).sum()
