"""Sums of counts times log probabilities: what binomial and multinomial densities have in common.

Counts come as (N, G, C): N observations, G groups of C categories each; a missing group is all 0.
"""

from __future__ import annotations

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._columns import weight_table, weighted_sums
from elbo_exact.families._factorials import log_factorial
from elbo_exact.families._rounding import summed_change
from elbo_exact.families._simplex import LogSimplex, U

__all__ = ["counted_change", "counted_density", "counted_sums"]


def counted_density(counts: FloatArray, simplex: LogSimplex) -> tuple[FloatArray, FloatArray]:
    """log coefficient + sum counts * log p, and its error bound, (N, K).

    Each product rounds once and carries its logarithm's error; G (2 C + 1) additions each round by u times the sum of the sizes.
    """
    n_groups, n_categories = counts.shape[1:]
    whole, whole_error = log_factorial(counts.sum(axis=2))
    parts, part_errors = log_factorial(counts)
    table = (whole - parts.sum(axis=2)).sum(axis=1)[:, None]
    error = (whole_error + part_errors.sum(axis=2)).sum(axis=1)[:, None]
    size = (whole + parts.sum(axis=2)).sum(axis=1)[:, None]
    for g in range(n_groups):
        for c in range(n_categories):
            n = counts[:, g, c][:, None]
            product, product_error = _times(n, simplex.normalized[:, g, c], simplex.error[:, g, c])
            table, error, size = table + product, error + product_error, size + np.abs(product)
    bound = 1.01 * (error + n_groups * (2 * n_categories + 1) * U * size)
    return table, np.where(table > -np.inf, bound, 0.0)


def counted_change(counts: FloatArray, change: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    """sum counts * change of log p, and its error bound, (N, K)."""
    groups = ((g, c) for g in range(counts.shape[1]) for c in range(counts.shape[2]))
    return summed_change(_times(counts[:, g, c][:, None], change[:, g, c], error[:, g, c]) for g, c in groups)


def counted_sums(counts: FloatArray, weights: FloatArray, n_states: int) -> FloatArray:
    """sum over n of weights[n, k] * counts[n], (K, G, C)."""
    table = weight_table(weights, len(counts), n_states)
    return weighted_sums(table, counts.reshape(len(counts), -1)).reshape(n_states, *counts.shape[1:])


def _times(n: FloatArray, logs: FloatArray, errors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """n * log and its error, where 0 times an infinity or NaN is 0."""
    with np.errstate(invalid="ignore"):
        product = np.where(n > 0.0, n * logs, 0.0)
        error = np.where(n > 0.0, n * errors + U * np.abs(product), 0.0)
    return product, np.where(np.isfinite(product), error, 0.0)
