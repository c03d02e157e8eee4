"""The fast form of ``renyi``: rows in two to four passes over lanes, few of them left undecided.

The moment sum q exp(c e) of order c <= 1/2, e = log(p/q), is the first of these that is accurate enough:

    products and roots of the weights of p and q                            for orders that are such
    1 + H of ``moment_terms``                                               where H is likely to be small
    exp(log sum exp(x) - alpha log W - (1 - alpha) log A)                   x = alpha b' + (1 - alpha) a'

**Errors of the log sum.** a' = log p - max and b' = log q - max round once, 1 - alpha, its product and that with alpha once, x once: an
exponent is good to u (3 |alpha b'| + 4 |(1 - alpha) a'|), of which the average over the weights of x counts.

**Orders without another exp.** With the weights v = exp(a') and w = exp(b') of the two log sums, each good to 3.1u, w**alpha v**(1 - alpha) is

    sqrt(v w)      alpha = 1/2          (6.2 + 1)/2 + 1 = 4.6u
    v sqrt(v/w)    alpha = -1/2         3.1 + 7.2/2 + 2 = 8.7u     and w sqrt(w/v) for 3/2
    v (v/w)        alpha = -1           3.1 + 7.2 + 1 = 11.3u      and w (w/v) for 2

so 11.4u serves all of them. Nothing underflows where every weight is at least 2**-500; other rows go the general way, but for states
that are impossible in both tables.
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact.kernels._jit import FLOAT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.moment_terms import moment_of_terms
from elbo_exact.kernels.pivoted import row_log_sum, scratch_of, table_row
from elbo_exact.kernels.reduce import chunk_weights, close_log_sum, log_evidence_of, log_sum_error, sum_error, top_of
from elbo_exact.kernels.scalar import log1p, log_of_sum, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, ETA, INF, LANES, U, add_weight, chain_error, clear, fold, halve

__all__ = ["M_BOUND", "M_EVIDENCE", "M_NORMALIZER", "M_VALUE", "N_MOMENT", "moment_rows", "row_weights"]

M_VALUE, M_BOUND, M_EVIDENCE, M_NORMALIZER, N_MOMENT = 0, 1, 2, 4, 5  # the evidence has its bound beside it
GOOD = 2.0**-42  # relative bound up to which a sum will do
SMALL = 0.02  # likely |log(1 + H)| up to which H is tried first: a log sum is rarely good to 1/100 GOOD
POWER_ERROR, POWER_SMALLEST = 11.4 * U, 2.0**-500


@kernel
def row_weights(row, top, kept):
    """exp(row - top), chunk by chunk."""
    lanes = tiles()
    for first in range(0, row.size, CHUNK):
        last = min(first + CHUNK, row.size)
        chunk_weights(row[first:last], top, True, kept[first:last], lanes)


@kernel
def mixed_block(lanes, a, b, top_a, top_b, alpha, beta, mixed, count):
    """Exponents of a block and their largest in lanes 0; how many states only q allows, and only p."""
    charged, missed = 0, 0
    for j in range(count):
        in_a, in_b = a[j] > -INF, b[j] > -INF
        z = alpha * (b[j] - top_b) + beta * (a[j] - top_a) if in_a and in_b else -INF
        mixed[j] = z
        lanes[0, j] = z if z > lanes[0, j] else lanes[0, j]
        charged += 1 if in_b and not in_a else 0
        missed += 1 if in_a and not in_b else 0
    return charged, missed


@kernel
def mix(a, b, top_a, top_b, alpha, beta, mixed):
    """All exponents: their largest; +inf where a state that only one table allows makes the moment infinite."""
    lanes = tiles()
    for j in range(LANES):
        lanes[0, j] = -INF
    charged, missed = 0, 0
    for start in range(0, a.size, LANES):
        x, y, z = a[start : start + LANES], b[start : start + LANES], mixed[start : start + LANES]
        if x.size == LANES:
            more = mixed_block(lanes, x, y, top_a, top_b, alpha, beta, z, LANES)
        else:
            more = mixed_block(lanes, x, y, top_a, top_b, alpha, beta, z, x.size)
        charged, missed = charged + more[0], missed + more[1]
    return INF if (beta < 0.0 and charged > 0) or (alpha < 0.0 and missed > 0) else top_of(lanes, 0)


@kernel
def add_errors(lanes, a, b, top_a, top_b, alpha, beta, w, count):
    """The sizes that bound the errors of a block's exponents, over its weights."""
    for j in range(count):
        size = abs(alpha * (b[j] - top_b)) + abs(beta * (a[j] - top_a))
        lanes[0, j] += w[j] * size if w[j] > 0.0 else 0.0


@kernel
def far_moment(a, b, top_a, top_b, alpha, beta, mixed, top, kept):
    """(log sum of the mixed weights, bound)."""
    n = a.size
    lanes, errors = tiles(), tiles()
    clear(errors, 0, 1)
    ties, total, low = 0.0, 0.0, 0.0
    for first in range(0, n, CHUNK):
        last = min(first + CHUNK, n)
        ties += chunk_weights(mixed[first:last], top, True, kept[: last - first], lanes)
        high, high_low = halve(lanes, 0)
        total, error = two_sum(total, high)
        low += high_low + error
        for start in range(first, last, LANES):
            stop = min(start + LANES, last)
            x, y, z = a[start:stop], b[start:stop], kept[start - first : stop - first]
            if x.size == LANES:
                add_errors(errors, x, y, top_a, top_b, alpha, beta, z, LANES)
            else:
                add_errors(errors, x, y, top_a, top_b, alpha, beta, z, x.size)
    rest = close_log_sum(ties, total, low)
    spread = log1p(rest)
    value = top + spread
    bound = 4.0 * U * fold(errors, 0) / (1.0 + rest) + log_sum_error(rest, spread, n) + U * abs(value) + chain_error(n)
    return value, 1.01 * bound


@kernel
def loose_moment(a, b, top_a, rest_a, top_b, rest_b, alpha, mixed, kept):
    """(log sum q**alpha p**(1 - alpha), bound) from log sums; the bound is INF where they are not accurate enough."""
    top = mix(a, b, top_a, top_b, alpha, 1.0 - alpha, mixed)
    if not -INF < top < INF:
        return np.nan, INF
    value, bound = far_moment(a, b, top_a, top_b, alpha, 1.0 - alpha, mixed, top, kept)
    return normalized_moment(value, bound, rest_a, rest_b, alpha, a.size)


@kernel
def normalized_moment(value, bound, rest_a, rest_b, alpha, n):
    """(log moment, bound) from the log sum of the mixed weights; the bound is INF where it is relatively above ``GOOD``."""
    beta, log_a, log_b = 1.0 - alpha, log1p(rest_a), log1p(rest_b)
    x, y = alpha * log_b, beta * log_a
    moment = value - (x + y)
    bound += abs(alpha) * log_sum_error(rest_b, log_b, n) + abs(beta) * log_sum_error(rest_a, log_a, n)
    bound = 1.01 * (bound + 3.0 * U * (abs(x) + abs(y)) + U * abs(moment))
    right = moment <= 0.0 if 0.0 <= alpha <= 1.0 else moment >= 0.0
    return moment, (bound if bound <= GOOD * abs(moment) and right else INF)


@kernel
def has_power(alpha):
    """Whether the mixed weights are products and roots of the others."""
    return alpha == 0.5 or alpha == -0.5 or alpha == 1.5 or alpha == -1.0 or alpha == 2.0


@kernel
def power_block(lanes, x, y, order, count):
    """x**order y**(1 - order) of a block into the lanes of sum 0; how many states have too small a weight."""
    small = 0
    for j in range(count):
        is_small = x[j] < POWER_SMALLEST or y[j] < POWER_SMALLEST
        v, w = (0.0 if is_small else x[j]), (1.0 if is_small else y[j])
        small += 1 if is_small else 0
        if order == 0.5:
            z = math.sqrt(v * w)
        elif order == 1.5:
            z = v * math.sqrt(v / w)
        else:
            z = v * (v / w)
        add_weight(lanes, 0, j, z)
    return small


@kernel
def power_sum(lanes, x, y, order):
    """The sum of all terms in the lanes of sum 0; how many states have too small a weight. ``order`` is a constant in each call."""
    clear(lanes, 0, 2)
    small = 0
    for start in range(0, x.size, LANES):
        v, w = x[start : start + LANES], y[start : start + LANES]
        small += power_block(lanes, v, w, order, LANES) if v.size == LANES else power_block(lanes, v, w, order, v.size)
    return small


@kernel
def impossible(a, b):
    """How many states neither table allows."""
    count = 0
    for j in range(a.size):
        count += 1 if (a[j] == -INF and b[j] == -INF) else 0
    return count


@kernel
def power_moment(a, b, weights_a, weights_b, rest_a, rest_b, alpha):
    """(log sum q**alpha p**(1 - alpha), bound) for the orders of ``has_power``; NaN and INF where the weights do not serve."""
    lanes = tiles()
    n = weights_a.size
    x, y = (weights_a, weights_b) if alpha < 1.0 else (weights_b, weights_a)
    if alpha == 0.5:
        small = power_sum(lanes, x, y, 0.5)
    elif alpha == -0.5 or alpha == 1.5:
        small = power_sum(lanes, x, y, 1.5)
    else:
        small = power_sum(lanes, x, y, 2.0)
    if small > 0 and small > impossible(a, b):
        return np.nan, INF
    high, low = halve(lanes, 0)
    high, low = two_sum(high, low)
    value = log_of_sum(high, low)
    bound = 1.01 * (POWER_ERROR + sum_error(n)) + 2.0 * U * abs(value)
    return normalized_moment(value, bound, rest_a, rest_b, alpha, n)


@kernel
def likely_size(v, w, rest_a, rest_b, curve):
    """About what |log(1 + H)| is at least: |c (c-1)| E e**2/2 with E |e| as twice the total variation."""
    s, total = (1.0 + rest_b) / (1.0 + rest_a), 0.0
    lanes = tiles()
    clear(lanes, 0, 1)
    for start in range(0, v.size, LANES):
        x, y = v[start : start + LANES], w[start : start + LANES]
        for j in range(x.size):
            lanes[0, j] += abs(x[j] * s - y[j])
    total = fold(lanes, 0) / (1.0 + rest_b)
    return abs(curve) * 0.5 * total * total


@kernel
def row_moment(a, b, top_a, rest_a, top_b, rest_b, alpha, weights_a, weights_b, kept, mixed):
    """(log sum q**alpha p**(1 - alpha), bound); the bound is INF where ``renyi`` has to decide."""
    direct, likely = alpha >= 0.5, INF
    c = 1.0 - alpha if direct else alpha
    if a.size <= CHUNK:
        likely = np.nan
        if has_power(alpha):
            value, bound = power_moment(a, b, weights_a, weights_b, rest_a, rest_b, alpha)
            if bound < INF:
                return value, bound
            likely = abs(value)
        if not likely >= 0.0:
            likely = likely_size(weights_a, weights_b, rest_a, rest_b, c * (c - 1.0))
    for turn in range(2):
        if (turn == 0) == (likely < SMALL):
            p, q, v, w = (a, b, weights_a, weights_b) if direct else (b, a, weights_b, weights_a)
            top_p, rest_p, top_q, rest_q = (top_a, rest_a, top_b, rest_b) if direct else (top_b, rest_b, top_a, rest_a)
            value, bound = moment_of_terms(p, q, v, w, top_p, rest_p, top_q, rest_q, c)
        else:
            value, bound = loose_moment(a, b, top_a, rest_a, top_b, rest_b, alpha, mixed, kept)
        if bound < INF:
            break
    return value, bound


@kernel(void(TABLE, TABLE, FLOAT, OUT2))
def moment_rows(log_joint, log_q, alpha, out):
    """D_alpha(q || p) with its bound, the log evidence with its bound, and log sum q of every row.

    The bound of D is INF where ``renyi`` has to decide; the evidence is NaN in rows that cannot be.
    """
    n = log_joint.shape[1]
    weights_a, partials = scratch_of(n)
    weights_b, kept, mixed = np.empty(min(CHUNK, n)), np.empty(min(CHUNK, n)), np.empty(n)
    for i in range(out.shape[0]):
        a, b, row = table_row(log_joint, i), table_row(log_q, i), out[i]
        row[:] = np.nan
        row[M_BOUND], row[M_EVIDENCE + 1] = INF, INF
        top_a, rest_a = row_log_sum(a, weights_a, partials)
        top_b, rest_b = row_log_sum(b, weights_b, partials)
        if rest_a < 0.0 or rest_b < 0.0:
            continue
        row[M_EVIDENCE], row[M_EVIDENCE + 1] = log_evidence_of(top_a, rest_a, log1p(rest_a), n)
        row[M_NORMALIZER] = log_evidence_of(top_b, rest_b, log1p(rest_b), n)[0]
        value, bound = row_moment(a, b, top_a, rest_a, top_b, rest_b, alpha, weights_a, weights_b, kept, mixed)
        if bound < INF:
            value = value / (alpha - 1.0) + 0.0
            row[M_VALUE], row[M_BOUND] = value, 0.0
            if abs(value) < INF:
                row[M_BOUND] = 1.01 * bound / abs(alpha - 1.0) + 4.0 * U * abs(value) + ETA
