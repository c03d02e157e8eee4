"""The posterior of every row, as probabilities or as their logarithms."""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.reduce import BAD_TARGET, OK, ZERO_EVIDENCE, merge_log_sums, row_log_sums
from elbo_exact.kernels.scalar import log1p, two_sum, weight
from elbo_exact.kernels.tree import CHUNK, INF

__all__ = ["log_posterior_rows", "posterior_rows"]


@kernel
def row_log_sum(row, weights, partials):
    """(top, R, status) of one row."""
    row_log_sums(row, 0, partials.shape[0], True, weights, partials)
    top, rest, bad = merge_log_sums(partials)
    return top, rest, (BAD_TARGET if bad > 0.0 else (ZERO_EVIDENCE if rest < 0.0 else OK))


@kernel(void(TABLE, INT, INT, OUT2, OUT))
def posterior_rows(log_joint, first, last, out, status):
    """p(z | x) = exp(a - top) / (1 + R); NaN rows where there is none. Relative error about 7u, and at most one subnormal."""
    n = log_joint.shape[1]
    weights, partials = np.empty(min(CHUNK, n)), np.empty(((n + CHUNK - 1) // CHUNK, 5))
    for i in range(first, last):
        row, result = log_joint[i], out[i - first]
        top, rest, status[i - first] = row_log_sum(row, weights, partials)
        for j in range(n):
            result[j] = weight(row[j], top) / (1.0 + rest) if rest >= 0.0 else np.nan


@kernel(void(TABLE, INT, INT, OUT2, OUT))
def log_posterior_rows(log_joint, first, last, out, status):
    """log p(z | x) = (a - top) - log1p(R); exactly -inf for impossible states."""
    n = log_joint.shape[1]
    weights, partials = np.empty(min(CHUNK, n)), np.empty(((n + CHUNK - 1) // CHUNK, 5))
    for i in range(first, last):
        row, result = log_joint[i], out[i - first]
        top, rest, status[i - first] = row_log_sum(row, weights, partials)
        log_sum = log1p(rest)
        for j in range(n):
            t, low = two_sum(row[j], -top)
            value = (t - log_sum) + low if t > -INF else -INF
            result[j] = value if rest >= 0.0 else np.nan
