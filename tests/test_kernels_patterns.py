"""Sums over groups of columns against sums over columns, in whole numbers, which no order of additions changes.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from elbo_exact.families import Bernoulli, Categorical, Poisson
from elbo_exact.kernels.mixture import responsibilities, row_posteriors
from elbo_exact.kernels.patterns import collapsed, expanded, pattern_sums, pattern_totals
from elbo_exact.kernels.tiles import ROWS
from elbo_exact.models._patterns import MOST, SHARE, WIDEST, patterns

N_STATES = 3


def data(n_rows: int, missing: bool) -> tuple[tuple[Any, ...], Any]:
    """Ten binary columns, one of five values, one of seven; in some rows nothing but the last is known."""
    rng = np.random.default_rng(n_rows)
    x = np.column_stack([rng.integers(0, 2, (n_rows, 10)), rng.integers(0, 5, n_rows), rng.integers(0, 7, n_rows)]).astype(
        float
    )
    if missing:
        x[::3, :-1] = math.nan
        x[1::4, 3] = math.nan
    sizes = [Categorical.random(N_STATES, size, rng=1) for size in (5, 7)]
    return (Bernoulli.random(N_STATES, 10, rng=0), *sizes), x


def whole_tables(components: tuple[Any, ...]) -> list[Any]:
    rng = np.random.default_rng(5)
    return [rng.integers(-99, 100, family.log_probabilities.shape).astype(float) for family in components]


def each_column(components: tuple[Any, ...], tables: list[Any]) -> list[Any]:
    """(K, C) of every column."""
    parts = (table.reshape(N_STATES, family.n_columns, -1) for family, table in zip(components, tables, strict=True))
    return [part[:, d] for part in parts for d in range(part.shape[1])]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("n_rows", [1, 7, 40, 300, 1500])
def test_sums_over_groups_are_sums_over_columns(n_rows: int, missing: bool) -> None:
    components, x = data(n_rows, missing)
    coded = patterns(components, x)
    assert coded is not None and max(coded.n_lines) <= max(7, min(MOST, n_rows // SHARE))
    tables, start = whole_tables(components), np.arange(3.0)
    out = np.empty((n_rows, N_STATES))
    pattern_totals(coded.codes, coded.lines(tables), start, out)
    columns = each_column(components, tables)
    for row, total in zip(x, out, strict=True):
        seen = [table[:, int(value)] for table, value in zip(columns, row, strict=True) if not math.isnan(value)]
        assert np.array_equal(total, start + sum(seen, np.zeros(N_STATES)))

    weights = np.random.default_rng(6).integers(-9, 10, out.shape).astype(float)
    sums = np.zeros((sum(coded.n_lines), N_STATES))
    pattern_sums(coded.codes, weights, sums)
    assert np.array_equal(sums[: coded.n_lines[0]].sum(axis=0), weights.sum(axis=0))
    counted = each_column(components, list(coded.counts(sums)))
    for column, table in zip(x.T, counted, strict=True):
        for value in range(table.shape[1]):
            assert np.array_equal(table[:, value], weights[column == value].sum(axis=0))


def test_lines_are_the_joint_values_of_a_tree() -> None:
    """Two groups: of two columns with three of their six pairs, and of one column."""
    entries = np.random.default_rng(0).integers(-50, 50, (9, 2)).astype(float)
    steps, tree = (
        np.array([[2, 0], [3, 0], [4, 3]]),
        np.array([[0, 0], [0, 1], [0, 2], [0, 4], [1, 3], [0, 5], [0, 6], [0, 7], [0, 8]]),
    )
    expected = [entries[0] + entries[2], entries[0] + entries[4], entries[1] + entries[3], *entries[5:]]
    out = np.full((7, 2), np.nan)
    expanded(steps, tree, entries, out)
    assert np.array_equal(out, np.array(expected))
    cotangent, back = np.random.default_rng(1).integers(-9, 9, out.shape).astype(float), np.full(entries.shape, np.nan)
    product, totals = (out * cotangent).sum(), (cotangent[:3].sum(axis=0), cotangent[3:].sum(axis=0))
    collapsed(steps, tree, cotangent, back)
    assert product == (entries * back).sum()
    assert np.array_equal(cotangent[0], totals[0]) and np.array_equal(cotangent[3], totals[1])


def test_only_joint_values_that_occur_have_lines() -> None:
    """Copies of a column and constants cost nothing; a column too wide for a table of its values is sorted."""
    rng = np.random.default_rng(2)
    one, wide = rng.integers(0, 3, 600), rng.integers(0, 7, 600) * (WIDEST // 4)
    components = (Categorical.random(2, 3, rng=0),) * 5, (Categorical(np.full((2, 2 * WIDEST), -np.log(2 * WIDEST))),)
    coded = patterns(components[0], np.column_stack([one, one, np.ones(600), one, one]))
    assert coded is not None and coded.n_lines == (3,)
    coded = patterns((*components[0][:1], *components[1]), np.column_stack([one, wide]))
    assert coded is not None and coded.n_lines == (21,)
    pairs = np.unique(np.column_stack([one, wide]), axis=0, return_inverse=True)[1]
    assert np.array_equal(coded.codes[:, 0], pairs)


@pytest.mark.parametrize("n_rows", [1, ROWS - 1, ROWS, ROWS + 1, 100])
def test_posteriors_of_rows_have_the_bits_of_those_of_columns(n_rows: int) -> None:
    joint = np.random.default_rng(n_rows).normal(size=(n_rows, N_STATES)) * 5.0
    counts, errors = np.arange(1.0, n_rows + 1.0), np.full((2, N_STATES), 2.0**-50)
    table, known = joint.copy(), np.empty((4, n_rows))
    row_posteriors(errors, counts, table, known)
    width = -n_rows % ROWS + n_rows
    columns, other, padded = np.zeros((N_STATES, width)), np.empty((4, width)), np.zeros(width)
    columns[:, :n_rows], padded[:n_rows] = joint.T, counts
    responsibilities(errors, padded, columns, other)
    assert np.array_equal(table, columns[:, :n_rows].T)
    assert np.array_equal(known, other[:, :n_rows])


def test_other_families_have_no_codes() -> None:
    assert patterns((Poisson(np.zeros((2, 1))),), np.zeros((3, 1))) is None
