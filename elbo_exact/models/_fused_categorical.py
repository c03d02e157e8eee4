"""Categorical columns for the fused E-step: matrix products with zeros and ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families import Categorical
from elbo_exact.families._simplex import LogSimplex, U
from elbo_exact.models import _mixture_statistics
from elbo_exact.models._scratch import scratch

__all__ = ["parts", "stacked"]

MOST = 8  # categories; each is a copy of its column
IMPOSSIBLE = -1e8  # in place of -inf, which times 0 is NaN: the weight of such a state is exactly 0 beside a possible one


def parts(shares: LogSimplex, components: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What ``_fused.Plan`` holds.

    Error of a log joint: that of the share, the largest of each column, and D additions, whose partial sums do not exceed the total
    because all terms have one sign (up to their own errors); products with 0 and 1 are exact.
    """
    simplexes = [family._simplex for family in components]
    n_categories = max(simplex.given.shape[-1] for simplex in simplexes)
    if n_categories > MOST:
        return None
    n_states, n_columns = shares.given.size, sum(family.n_columns for family in components)
    logs = stacked(components, [simplex.normalized for simplex in simplexes])
    logs[logs == -np.inf] = IMPOSSIBLE
    fixed = shares.error + sum(simplex.error.max(axis=-1).reshape(n_states, -1).sum(axis=1) for simplex in simplexes)
    errors = np.stack([1.01 * fixed, np.full(n_states, 1.01 * (n_columns + 1) * U)])
    constants = logs, shares.normalized[:, None], n_categories

    def finish(sums: list[FloatArray], relative: float) -> tuple[Any, float]:
        table, counted, first = sums[1].reshape(n_states, n_categories, n_columns), [], 0
        for family, simplex in zip(components, simplexes, strict=True):
            size, last = simplex.given.shape[-1], first + family.n_columns
            own = np.ascontiguousarray(table[:, :size, first:last].swapaxes(1, 2))
            counted.append(own[:, 0] if isinstance(family, Categorical) else own)
            first = last
        return _mixture_statistics.MixtureStatistics(sums[0], tuple(counted)), relative

    return _block, constants, errors, ((n_states,), (n_states, n_categories * n_columns)), finish


def stacked(components: tuple[Any, ...], tables: list[FloatArray]) -> FloatArray:
    """Tables of every family side by side, (K, categories * columns) with the columns last; 0 where a family has no such category."""
    n_states, n_categories = tables[0].shape[0], max(table.shape[-1] for table in tables)
    out, first = np.zeros((n_states, n_categories, sum(family.n_columns for family in components))), 0
    for family, table in zip(components, tables, strict=True):
        size, last = table.shape[-1], first + family.n_columns
        out[:, :size, first:last] = table.reshape(n_states, -1, size).swapaxes(1, 2)
        first = last
    return out.reshape(n_states, -1)


def _block(columns: FloatArray, constants: Any) -> tuple[Any, Any]:
    logs, shares, n_categories = constants
    n_columns, n_rows = columns.shape
    seen = scratch("seen", (n_categories, n_columns, n_rows))
    for category, table in enumerate(seen):
        np.equal(columns, float(category), out=table)  # no missing value equals a category
    seen = seen.reshape(-1, n_rows)

    def densities(out: FloatArray) -> None:
        np.matmul(logs, seen, out=out)
        out += shares

    def add(weights: FloatArray, sums: list[FloatArray]) -> None:
        sums[0] += weights.sum(axis=1)
        sums[1] += weights @ seen.T

    return densities, add
