"""Rows of log probabilities as an M-step re-estimates them: normalized, maximized, and what its rounding loses, each in one pass."""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import FLOAT, OUT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.scalar import log
from elbo_exact.kernels.tree import INF, U

__all__ = ["maximized_rows", "normalized_rows", "squared_errors"]

NORMAL = 2.0**-1022
LN2 = 0.6931471805599454  # rounded up
LOG_ERROR = 8.0 * U  # of a logarithm, relative: what the callers assume of NumPy's


@kernel(void(TABLE, TABLE, OUT2, OUT2, OUT))
def normalized_rows(table, known, value, error, worst):
    """value = table - known[:, 0], its log sums; error is theirs, known[:, 1], and one rounding, worst the largest of a row. -inf is exact."""
    for i in range(table.shape[0]):
        log_sum, bound, largest = known[i, 0], known[i, 1], 0.0
        for c in range(table.shape[1]):
            x = table[i, c] - log_sum
            value[i, c] = x
            own = 1.01 * (bound + U * abs(x)) if x > -INF else 0.0
            error[i, c] = own
            largest = max(largest, own)
        worst[i] = largest


@kernel(void(TABLE, TABLE, OUT2))
def maximized_rows(old, counts, out):
    """log of counts over their sum where ``old`` is possible, else -inf; rows without any count as in ``old``.

    A share below the normal doubles has lost digits: there the logarithms are subtracted.
    """
    for i in range(old.shape[0]):
        total = 0.0
        for c in range(old.shape[1]):
            total += counts[i, c] if old[i, c] > -INF else 0.0
        for c in range(old.shape[1]):
            count = counts[i, c] if old[i, c] > -INF else 0.0
            share = count / total
            if not total > 0.0:
                out[i, c] = old[i, c]
            elif count == 0.0:
                out[i, c] = -INF
            else:
                out[i, c] = log(share) if share >= NORMAL else log(count) - log(total)


@kernel(void(TABLE, FLOAT, OUT))
def squared_errors(counts, relative, out):
    """out[0] = sum of count e**2, e = relative + a logarithm's error of the share's log; 2000 is more than any two logarithms.

    A share 2**k m with 1 <= m < 2 has a logarithm of at most -k ln2: its bits say enough.
    """
    total = 0.0
    for i in range(counts.shape[0]):
        whole = 0.0
        for c in range(counts.shape[1]):
            whole += counts[i, c]
        for c in range(counts.shape[1]):
            share = counts[i, c] / whole
            exponent = np.float64(share).view(np.int64) >> np.int64(52)
            size = (1023.0 - exponent) * LN2 if share > 1e-304 else 2000.0
            error = relative + LOG_ERROR * size
            total += counts[i, c] * error * error if counts[i, c] > 0.0 else 0.0
    out[0] = total
