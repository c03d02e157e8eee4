"""Rows of log probabilities against ball arithmetic and exact fractions.

With NUMBA_DISABLE_JIT=1 the same tests run in the interpreter.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from flint import arb, ctx

from elbo_exact.kernels.simplex import LOG_ERROR, maximized_rows, normalized_rows, squared_errors

U, NINF = 2.0**-53, -math.inf


@pytest.fixture(autouse=True)
def _as_compiled() -> Any:
    """The interpreter warns where compiled code does not."""
    with np.errstate(all="ignore"):
        yield


def maximized(old: Any, counts: Any) -> Any:
    out = np.empty(np.shape(old))
    maximized_rows(np.array(old, np.float64), np.array(counts, np.float64), out)
    return out


def test_maximized_shares_are_within_their_roundings() -> None:
    """The sum of C counts, the division, and the logarithm."""
    rng = np.random.default_rng(0)
    counts = 10.0 ** rng.uniform(-320.0, 300.0, (200, 4))
    counts[:100] = 10.0 ** rng.uniform(-2.0, 2.0, (100, 4))
    ctx.prec = 2000
    for row, logs in zip(counts, maximized(np.zeros(counts.shape), counts), strict=True):
        total = sum(map(Fraction, row.tolist()))
        for count, value in zip(row.tolist(), logs.tolist(), strict=True):
            share = Fraction(count) / total
            exact = arb(share.numerator).log() - arb(share.denominator).log()
            two_logs = 2.0 * abs(math.log(count)) + abs(exact)  # where the share is below the normal doubles
            size = abs(exact) if share >= 2.0**-1022 else two_logs
            assert abs(arb(value) - exact) <= (len(row) + 2) * 1.01 * U + LOG_ERROR * size


def test_structural_zeros_unseen_categories_and_rows_without_counts() -> None:
    old = [[math.log(0.5), math.log(0.5), NINF], [math.log(0.25), math.log(0.75), NINF]]
    assert maximized(old, [[0.0, 8.0, 4.0], [0.0, 0.0, 3.0]]).tolist() == [[NINF, 0.0, NINF], old[1]]


def test_normalized_rows_bound_their_rounding() -> None:
    rng = np.random.default_rng(1)
    table, known = rng.normal(size=(50, 3)), np.column_stack([rng.normal(size=50), np.full(50, 2.0**-40), np.zeros(50)])
    table[::7, 1] = NINF
    value, error, worst = np.empty_like(table), np.empty_like(table), np.empty(50)
    normalized_rows(table, known, value, error, worst)
    assert np.array_equal(worst, error.max(axis=1))
    for i, c in np.ndindex(table.shape):
        if table[i, c] == NINF:
            assert value[i, c] == NINF and error[i, c] == 0.0
        else:
            rounding = abs(Fraction(table[i, c]) - Fraction(known[i, 0]) - Fraction(value[i, c]))
            assert 2.0**-40 + rounding <= error[i, c] <= 1.02 * (2.0**-40 + U * abs(value[i, c]))


def test_squared_errors_are_at_least_those_of_the_formula() -> None:
    """At most a binary digit more in every logarithm."""
    rng = np.random.default_rng(2)
    counts, relative, out = rng.random((40, 3)) * 100.0, 2.0**-30, np.empty(1)
    counts[3] = 0.0
    counts[4] = [0.0, 1.0, 0.0]
    counts[5] = [1e-320, 1.0, 1.0]  # its logarithm is far below any size that is looked at
    squared_errors(counts, relative, out)
    terms: tuple[list[float], list[float]] = [], []
    for row in counts.tolist():
        for count in row:
            if count > 0.0:
                share = count / math.fsum(row)
                size = -math.log(share) if share > 1e-304 else 2000.0
                for more, bound in zip((0.0, math.log(2.0)), terms, strict=True):
                    bound.append(count * (relative + LOG_ERROR * (size + more)) ** 2)
    least, most = map(math.fsum, terms)
    slack = (counts.size + 8) * U
    assert least * (1.0 - slack) <= out[0] <= most * (1.0 + slack)
