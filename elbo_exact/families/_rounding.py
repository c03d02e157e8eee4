"""Rounding of models made of log probabilities: what a parameter change adds to tables and priors, and what a M-step loses.

A change is computed from parameter differences, so its error is relative to the change. Every bound ends with a factor 1.01 for
second-order terms and for its own rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LogSimplex, U, simplex_change
from elbo_exact.kernels.simplex import squared_errors

__all__ = ["PriorTable", "log_prior", "log_prior_change", "rounding_loss", "summed_change"]

PriorTable = tuple[LogSimplex, FloatArray]  # log probabilities, and pseudo-counts of the same shape


def summed_change(terms: Iterable[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Sum of (change, error) terms: the change of a log table and its error bound.

    D additions round partial sums that never exceed the sum of the sizes. A state lost is -inf, a state won +inf; NaN comes from a
    state impossible in both models (directly, or lost by one term and won by another) and becomes 0.
    """
    changes, errors = (np.stack(part) for part in zip(*terms, strict=True))
    with np.errstate(invalid="ignore"):
        change = changes.sum(axis=0)
        error = 1.01 * (errors.sum(axis=0) + len(changes) * U * np.abs(changes).sum(axis=0))
    return np.where(np.isnan(change), 0.0, change), np.where(np.isfinite(change), error, 0.0)


def log_prior(tables: Iterable[PriorTable]) -> tuple[float, float]:
    """Sum of pseudo-counts times log probabilities, and its error bound; structural zeros have no prior."""
    values, bounds = [0.0], [0.0]
    for table, counts in tables:
        logs, errors = table.normalized, table.error
        used = (counts > 0.0) & (logs > -np.inf)
        values += (counts[used] * logs[used]).tolist()
        bounds += (counts[used] * (errors[used] + U * np.abs(logs[used]))).tolist()
    value = math.fsum(values)
    return value, 1.01 * (math.fsum(bounds) + U * abs(value))


def log_prior_change(tables: Iterable[PriorTable], new: Iterable[LogSimplex]) -> tuple[float, float]:
    """`log_prior` after minus before, from parameter differences, and its error bound: one rounding per product."""
    values, bounds = [0.0], [0.0]
    for (table, counts), moved in zip(tables, new, strict=True):
        used = (counts > 0.0) & (table.given > -np.inf)
        change, error = simplex_change(table.given, moved.given)
        products = counts[used] * change[used]
        values += products.tolist()
        bounds += (counts[used] * error[used] + U * np.abs(products)).tolist()
    value = math.fsum(values)
    return value, 1.01 * (math.fsum(bounds) + U * abs(value))


def rounding_loss(counts: Iterable[FloatArray], relative_error: float) -> float:
    """Largest loss of sum counts * log p, in nats, at probabilities re-estimated from rounded counts.

    Stored logarithms off by e_c, renormalized, lose total * KL(p || tilted p) = total (log E exp(e) - E e), at most
    0.51 sum counts e**2 for |e| <= 0.01. e: the counts and their sum (``relative_error`` and C u), the division u, and the
    logarithm LIBM |log p|, or LIBM of both logarithms where p is subnormal. The loss is of second order because the M-step is a
    maximum.
    """
    total, out = 0.0, np.empty(1)
    with np.errstate(all="ignore"):
        for table in counts:
            rows = np.ascontiguousarray(table, np.float64).reshape(-1, table.shape[-1])
            squared_errors(rows, 2.0 * relative_error + (table.shape[-1] + 2) * U, out)
            total += float(out[0])
    return 0.52 * total
