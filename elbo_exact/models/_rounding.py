"""Rounding of models made of log probabilities: what a parameter change adds to tables and priors, and what a M-step loses.

A change is computed from parameter differences, so its error is relative to the change. Every bound ends with a factor 1.01 for
second-order terms and for its own rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from elbo_exact._validate import FloatArray
from elbo_exact.families._simplex import LIBM, U, normalized, simplex_change

__all__ = ["PriorTable", "log_prior", "log_prior_change", "rounding_loss", "summed_change"]

PriorTable = tuple[FloatArray, FloatArray]  # log probabilities, and pseudo-counts of the same shape


def summed_change(
    terms: Iterable[tuple[FloatArray, FloatArray]], old: FloatArray, new: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Sum of (change, error) terms into the change of a log table and its error; ``old`` and ``new`` say what is possible.

    D additions round partial sums that never exceed the sum of the sizes. A state lost is -inf, a state won +inf, impossible in
    both 0.
    """
    change, error, size, n_terms = np.zeros(old.shape), np.zeros(old.shape), np.zeros(old.shape), 0
    with np.errstate(invalid="ignore"):
        for term, term_error in terms:
            change, error, size, n_terms = change + term, error + term_error, size + np.abs(term), n_terms + 1
        error = 1.01 * (error + n_terms * U * size)
    was, is_now = old > -np.inf, new > -np.inf
    lost_or_won = np.where(was, -np.inf, np.where(is_now, np.inf, 0.0))
    return np.where(was & is_now, change, lost_or_won), np.where(was & is_now, error, 0.0)


def log_prior(tables: Iterable[PriorTable]) -> tuple[float, float]:
    """Sum of pseudo-counts times log probabilities, and its error bound; structural zeros have no prior."""
    values, bounds = [0.0], [0.0]
    for table, counts in tables:
        used = (counts > 0.0) & (table > -np.inf)
        logs, errors = normalized(table)
        values += (counts[used] * logs[used]).tolist()
        bounds += (counts[used] * (errors[used] + U * np.abs(logs[used]))).tolist()
    value = math.fsum(values)
    return value, 1.01 * (math.fsum(bounds) + U * abs(value))


def log_prior_change(tables: Iterable[PriorTable], new: Iterable[FloatArray]) -> tuple[float, float]:
    """`log_prior` after minus before, from parameter differences, and its error bound: one rounding per product."""
    values, bounds = [0.0], [0.0]
    for (table, counts), moved in zip(tables, new, strict=True):
        used = (counts > 0.0) & (table > -np.inf)
        change, error = simplex_change(table, moved)
        products = counts[used] * change[used]
        values += products.tolist()
        bounds += (counts[used] * error[used] + U * np.abs(products)).tolist()
    value = math.fsum(values)
    return value, 1.01 * (math.fsum(bounds) + U * abs(value))


def rounding_loss(counts: Iterable[FloatArray], relative_error: float) -> float:
    """Largest loss of sum counts * log p, in nats, at probabilities re-estimated from rounded counts.

    Stored logarithms off by e_c, renormalized, lose total * KL(p || tilted p) = total (log E exp(e) - E e), at most
    0.51 sum counts e**2 for |e| <= 0.01. e: the counts and their sum (``relative_error`` and C u), the division u, and the
    logarithm LIBM |log p|. The loss is of second order because the M-step is a maximum.
    """
    total = 0.0
    for table in counts:
        sums = table.sum(axis=-1, keepdims=True)
        used = table > 0.0
        share = np.where(used, table, 1.0) / np.where(used, sums, 1.0)
        error = 2.0 * relative_error + (table.shape[-1] + 2) * U + LIBM * np.abs(np.log(share))
        total += float(np.sum(np.where(used, table * error**2, 0.0)))
    return 0.52 * total
