"""The perturbative bound of odd order K at its best reference, as a gap of non-negative terms.

With e = log(p/q) around the pivot, u = e + c and T_k the Taylor polynomial of exp of degree k, the bound is
log p(x) - c + log E_q T_K(u). E_q exp(u) = exp(c), so with the remainder R_K = exp - T_K >= 0

    gap = -log1p(-rho)            rho = exp(-c) E_q R_K(u)                for small rho: all terms >= 0
        = c - log E_q T_{K-1}(u)                                          for large: T_{K-1} > 0, its degree is even

The best c is the root of E_q u**K = 0, where T_K and T_{K-1} have the same mean. A c that is off by x costs the gap at most
x f/E_q T_K, where f = E_q u**K / K! is itself a rounding error, so a root to a few ulps is enough.

**The remainder.** R_k(u) = u**(k+1)/(k+1)! M_k(u), M_k = 1F1(1; k+2; u), and M_{k-1} = 1 + u M_k/(k+1). For u > 0 the series has
positive terms. For u = -x < 0 the recurrence shrinks its errors downward while x < k+1 and upward, from M_{-1} = exp(-x), while x > k+1.
The relative error is at most (12 + 3K) u in R_K: the power K+1 rounded products, the recurrence a geometric sum of two
roundings per step, the series its own two per term.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_log_sum, row_pivot, scratch_of, state_ratio, table_row
from elbo_exact.kernels.reduce import WEIGHT_ERROR, sum_error
from elbo_exact.kernels.scalar import exp, log, log1p, two_sum, weight
from elbo_exact.kernels.tree import ETA, INF, U, chain_error

__all__ = ["perturbative_rows", "remainder_factor"]

LARGEST = 600.0  # of |u|: beyond, powers and exponentials leave the range together


@kernel
def remainder_factor(k, u):
    """M_k(u) = 1F1(1; k + 2; u), so that exp(u) - T_k(u) = u**(k+1)/(k+1)! M_k(u)."""
    if u >= 0.0:
        total, term, j = 1.0, 1.0, k + 2
        while term > 2.0**-56 * total:
            term *= u / j
            total += term
            j += 1
        return total
    if -u < k + 2.0:
        last, size = k + 2, 1.0
        while size > 2.0**-56:
            size *= -u / last
            last += 1
        value = 1.0
        for j in range(last, k, -1):  # M_{j-1} from M_j; the error of the start is ``size``
            value = 1.0 + u / (j + 1.0) * value
        return value
    value = exp(u)
    for j in range(k + 1):
        value = (1.0 - value) * ((j + 1.0) / -u)
    return value


@kernel
def power_term(u, k):
    """u**k / k!."""
    term = 1.0
    for j in range(1, k + 1):
        term *= u / j
    return term


@kernel
def mean_power(e, w, c, k, scale):
    """(sum w ((e + c)/scale)**k, the same of absolute values)."""
    total, size = 0.0, 0.0
    for j in range(e.size):
        x = (e[j] + c) / scale
        term, square = w[j] * x, x * x
        for _ in range(k // 2):
            term *= square
        total += term
        size += abs(term)
    return total, size


@kernel
def best_reference(e, w, k):
    """The c with sum w (e + c)**k = 0, to a few ulps of the largest |e|, by secants with bisection."""
    low, high = INF, -INF
    for j in range(e.size):
        low, high = min(low, -e[j]), max(high, -e[j])
    scale = max(high - low, 1e-300)
    below, above, side = mean_power(e, w, low, k, scale)[0], mean_power(e, w, high, k, scale)[0], 0
    for step in range(200):
        if high - low <= 4.0 * U * max(abs(low), abs(high)):
            break
        c = 0.5 * (low + high)
        if step % 3 != 2 and above > below:  # regula falsi with halved ends, and every third step a bisection
            c = min(max(low - below * ((high - low) / (above - below)), low), high)
        value = mean_power(e, w, c, k, scale)[0]
        if value == 0.0:
            return c
        if value < 0.0:
            above = 0.5 * above if side < 0 else above
            low, below, side = c, value, -1
        else:
            below = 0.5 * below if side > 0 else below
            high, above, side = c, value, 1
    return 0.5 * (low + high)


@kernel
def near_sums(e, w, c, k, errors):
    """(E_q R_k(u), bound) without the normalizer; terms are non-negative."""
    total, low, bound = 0.0, 0.0, 0.0
    for j in range(e.size):
        u = e[j] + c
        term = abs(w[j] * power_term(u, k + 1)) * remainder_factor(k, u)
        total, error = two_sum(total, term)
        low += error
        slope = abs(w[j] * power_term(u, k)) * remainder_factor(k - 1, u)  # |dR_k/du| = |R_{k-1}|
        bound += term * (WEIGHT_ERROR + (12.0 + 3.0 * k) * U) + 1.01 * slope * (errors[j] + U * abs(u)) + ETA
    return total + low, bound


@kernel
def even_sums(e, w, c, k, errors):
    """(E_q T_{k-1}(u), bound) without the normalizer, k odd: positive terms."""
    total, low, bound = 0.0, 0.0, 0.0
    for j in range(e.size):
        u = e[j] + c
        if u >= 0.0:
            value, term = 1.0, 1.0
            for i in range(1, k):
                term *= u / i
                value += term
        else:
            value = exp(u) - power_term(u, k) * remainder_factor(k - 1, u)
        x = w[j] * value
        total, error = two_sum(total, x)
        low += error
        # |T_{k-2}| <= T_{k-1} + |u|**(k-1)/(k-1)! bounds the slope
        slope = w[j] * (value + abs(power_term(u, k - 1)))
        bound += x * (WEIGHT_ERROR + (12.0 + 3.0 * k) * U) + 1.01 * slope * (errors[j] + U * abs(u)) + ETA
    return total + low, bound


@kernel
def row_gap(e, w, errors, off, total_w, k, n):
    """(gap, bound) of a row from its log ratios and weights."""
    c = best_reference(e, w, k)
    largest = 0.0
    for j in range(e.size):
        largest = max(largest, abs(e[j] + c))
    if not largest < LARGEST:
        return np.nan, INF
    relative = sum_error(n) + chain_error(e.size) + 4.0 * U
    factor = 1.0
    for j in range(2, k + 1):
        factor /= j
    value, own = mean_power(e, w, c, k, 1.0)
    slope = k * mean_power(e, w, c, k - 1, 1.0)[1]
    # E u**K at c, at most; then c is off by at most x with 2 (x/2)**K <= residual, since (u + x)**K - u**K >= 2 (x/2)**K
    residual = 1.01 * (abs(value) + own * (6.0 + 2.0 * k) * U + slope * 2.0 * U * (largest + abs(c))) / total_w
    reach = 2.02 * exp(log(0.5 * residual) / k) if residual > 0.0 else 0.0
    rho, bound = near_sums(e, w, c, k, errors)
    outside = exp(-c) / total_w
    rho, bound = rho * outside, bound * outside
    bound += rho * (relative + 4.0 * U + 2.0 * U * abs(c) + 1.01 * off) + n * ETA
    bound += exp(-c) * factor * residual * reach
    if rho < 0.5:
        value = -log1p(-rho)
        bound = 1.01 * bound / (1.0 - rho - bound) + 2.0 * U * value
        return value, bound
    mean, bound = even_sums(e, w, c, k, errors)
    mean, bound = mean / total_w, bound / total_w
    # T_K - T_{K-1} = u**K/K!, whose mean the best reference makes vanish
    bound += mean * relative + factor * residual
    value = c - log(mean)
    return value, 1.01 * (bound / max(mean - bound, 0.5 * mean) + off + U * (abs(c) + 2.0 * abs(log(mean)) + abs(value)))


@kernel(void(TABLE, TABLE, INT, OUT2))
def perturbative_rows(log_joint, log_q, order, out):
    """(gap, bound) of every row at one odd order, over the common support; NaN where that is empty or |e| is beyond 600."""
    n = log_joint.shape[1]
    weights, partials = scratch_of(n)
    e, w, errors = np.empty(n), np.empty(n), np.empty(n)
    for i in range(out.shape[0]):
        a, b = table_row(log_joint, i), table_row(log_q, i)
        out[i, 0], out[i, 1] = np.nan, INF
        top_a, rest_a = row_log_sum(a, weights, partials)
        top_b, rest_b = row_log_sum(b, weights, partials)
        if rest_a < 0.0 or rest_b < 0.0:
            continue
        r, t, off = row_pivot(a, b, top_a, rest_a, top_b, rest_b)
        count, known = 0, off < INF
        for z in range(n):
            if a[z] > -INF and b[z] > -INF:
                e[count], _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
                w[count], errors[count] = weight(b[z], top_b), U * abs(e[count]) + delta
                known = known and abs(e[count]) < INF
                count += 1
        if known and count > 0:
            value, bound = row_gap(e[:count], w[:count], errors[:count], off, 1.0 + rest_b, order, n)
            if bound < INF:
                out[i, 0], out[i, 1] = max(0.0, value), bound
