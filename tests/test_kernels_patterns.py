"""Sums over groups of columns against sums over columns, in whole numbers, which no order of additions changes.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from elbo_exact.families import Bernoulli, Categorical, Poisson
from elbo_exact.kernels.mixture import responsibilities, row_posteriors
from elbo_exact.kernels.patterns import collapsed, expanded, pattern_sums, pattern_totals
from elbo_exact.kernels.tiles import ROWS
from elbo_exact.models._patterns import MOST, patterns

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
    assert coded is not None and max(coded.n_lines) <= max(7, min(MOST, n_rows // 4))
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


def test_lines_are_joint_values_in_the_order_of_the_states_of_a_space() -> None:
    sizes, ends = np.array([2, 3, 4, 5]), np.array([1, 3, 4])
    entries = np.random.default_rng(0).integers(-50, 50, (14, 2)).astype(float)
    starts, lines = np.array([0, 2, 5, 9]), []
    for first, last in itertools.pairwise([0, *ends.tolist()]):
        for values in itertools.product(*(range(size) for size in sizes[first:last])):
            lines.append(sum(entries[starts[first + d] + value] for d, value in enumerate(values)))
    out = np.empty((len(lines), 2))
    expanded(sizes, ends, entries, out)
    assert np.array_equal(out, np.array(lines))
    cotangent, back = np.random.default_rng(1).integers(-9, 9, out.shape).astype(float), np.empty_like(entries)
    product = (out * cotangent).sum()
    collapsed(sizes, ends, cotangent, back)
    assert product == (entries * back).sum()


@pytest.mark.parametrize("n_rows", [1, ROWS - 1, ROWS, ROWS + 1, 100])
def test_posteriors_of_rows_have_the_bits_of_those_of_columns(n_rows: int) -> None:
    joint = np.random.default_rng(n_rows).normal(size=(n_rows, N_STATES)) * 5.0
    counts, errors = np.arange(1.0, n_rows + 1.0), np.full((2, N_STATES), 2.0**-50)
    table, known = joint.copy(), np.empty((n_rows, 4))
    row_posteriors(errors, counts, table, known)
    width = -n_rows % ROWS + n_rows
    columns, other, padded = np.zeros((N_STATES, width)), np.empty((4, width)), np.zeros(width)
    columns[:, :n_rows], padded[:n_rows] = joint.T, counts
    responsibilities(errors, padded, columns, other)
    assert np.array_equal(table, columns[:, :n_rows].T)
    assert np.array_equal(known, other[:, :n_rows].T)


def test_other_families_have_no_codes() -> None:
    assert patterns((Poisson(np.zeros((2, 1))),), np.zeros((3, 1))) is None
