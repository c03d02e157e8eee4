"""The perturbative bound of odd order K at its best reference, as a gap of non-negative terms.

With e = log(p/q) around the pivot, u = e + c and T_k the Taylor polynomial of exp of degree k, the bound is
log p(x) - c + log E_q T_K(u). E_q exp(u) = exp(c), so with the remainder R_K = exp - T_K >= 0

    gap = c - log E_q T_{K-1}(u)                              for large gaps: T_{K-1} > 0, its degree is even
        = -log1p(-rho)            rho = exp(-c) E_q R_K(u)                for small: all terms >= 0

The best c is the root of E_q u**K = 0, where T_K and T_{K-1} have the same mean. A c that is off by x costs the gap at most
x f/E_q T_K, where f = E_q u**K / K! is itself a rounding error, so a root to a few ulps is enough.

That serves while the rounding error of f stays below E_q T_K, up to log ratios of some 1e15. Beyond, the slope of the first form
in c, E_q [u**(K-1)/(K-1)!]/E_q T_{K-1}, is at most K: where the ratio h of one state is largest, as a function of u = -x, it equals
1 + (K-1)/x, and x > 1 there because h <= exp(x) x**(K-1)/(K-1)! < K for x <= 1. So the gap is off by at most K x.

**The polynomial.** With v = u/s, s = max(1, max |u|/reach), the powers of v stay in the range. For s = 1 its coefficients are 1/k!;
for s > 1 they are those of v in (K-1)! s**(1-K) T_{K-1}, whose last is 1 (or little, if they are many). Horner's rule loses at most 2K u of sum |u|**k/k!, and u
itself is off by u (|c| + 2 |u|) + delta, which moves T_{K-1} by as many times sum_{k<K-1} |u|**k/k!. Where that is too much,
remainders take over.

**The remainder.** R_k(u) = u**(k+1)/(k+1)! M_k(u), M_k = 1F1(1; k+2; u), and M_{k-1} = 1 + u M_k/(k+1). For u > 0 the series has
positive terms. For u = -x < 0 the recurrence shrinks its errors downward while x < k+1 and upward, from M_{-1} = exp(-x), while x > k+1.
The relative error is at most (12 + 3K) u in R_K: the power K+1 rounded products, the recurrence a geometric sum of two
roundings per step, the series its own two per term. For |u| <= 1, 18 terms are enough and loops over lanes do.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.moment import row_weights
from elbo_exact.kernels.perturbative_root import LARGEST, best_reference, distance_to_root, polished
from elbo_exact.kernels.pivoted import scratch_of, table_row
from elbo_exact.kernels.points import ABSENT, DELTA, EVIDENCE, N_STATES, NORMALIZER, OFF, SINGLE, open_states
from elbo_exact.kernels.reduce import WEIGHT_ERROR, merge_log_sums, sum_error
from elbo_exact.kernels.scalar import exp, log, log1p, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, ETA, INF, LANES, U, add, add_weight, chain_error, clear, fold, halve

__all__ = ["N_PERTURBATIVE", "P_EVIDENCE", "P_GAP", "P_NORMALIZER", "P_SINGLE", "perturbative_rows", "remainder_factor"]

P_GAP, P_EVIDENCE, P_NORMALIZER, P_SINGLE, N_PERTURBATIVE = 0, 2, 4, 5, 6  # columns of a row's results; a value, then its bound

MANY_COEFFICIENTS = 500  # those of more, relative to the last, reach exp(850)
MOST_COEFFICIENTS = 171  # 1/170! is the last normal inverse of a factorial
GOOD = 2.0**-42  # relative bound on the gap up to which the polynomial will do
SERIES_TERMS = 18


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
def even_block(lanes, carried, e, w, c, inverse, delta, coefficients, count):
    """w T(u) of a block, and the sizes that bound its error, by Horner's rule; ``coefficients`` are those of powers of v."""
    last = coefficients.size - 1
    for j in range(count):
        v = (e[j] + c) * inverse
        carried[0, j], carried[1, j], carried[2, j], carried[3, j] = v, abs(v), coefficients[last], 0.0
        carried[4, j] = coefficients[last]
    for i in range(last - 1, -1, -1):
        x = coefficients[i]
        for j in range(count):
            size = carried[1, j]
            carried[3, j] = carried[3, j] * size + carried[4, j]  # the derivative of the sizes
            carried[2, j] = carried[2, j] * carried[0, j] + x
            carried[4, j] = carried[4, j] * size + x
    spread = U * abs(c) * inverse + delta * inverse
    for j in range(count):
        add(lanes, 0, j, w[j] * carried[2, j])
        lanes[2, j] += w[j] * carried[4, j]
        lanes[3, j] += w[j] * (carried[3, j] * (spread + 4.0 * U * carried[1, j]))


@kernel
def even_mean(e, w, c, scale, delta, coefficients, total_w, n):
    """(E_q T_{k-1}(u) / scale**(k-1), bound)."""
    lanes, carried = tiles(), tiles()
    clear(lanes, 0, 4)
    inverse = 1.0 / scale
    for start in range(0, e.size, LANES):
        x, y = e[start : start + LANES], w[start : start + LANES]
        if x.size == LANES:
            even_block(lanes, carried, x, y, c, inverse, delta, coefficients, LANES)
        else:
            even_block(lanes, carried, x, y, c, inverse, delta, coefficients, x.size)
    high, low = halve(lanes, 0)
    mean, size, moved = (high + low) / total_w, fold(lanes, 2) / total_w, fold(lanes, 3) / total_w
    relative = WEIGHT_ERROR + sum_error(n) + 2.0 * chain_error(n) + (2.0 * coefficients.size + 6.0) * U
    return mean, 1.01 * (size * relative + moved) + 4.0 * n * ETA


@kernel
def small_block(lanes, carried, e, w, c, delta, k, inverses, count):
    """w R_k(u) of a block with every |u| <= 1, and w |u|**k/k!."""
    for j in range(count):
        carried[0, j], carried[1, j], carried[2, j] = e[j] + c, 1.0, w[j]
    for i in range(SERIES_TERMS, 0, -1):
        x = inverses[k + 1 + i]
        for j in range(count):
            carried[1, j] = 1.0 + carried[0, j] * x * carried[1, j]
    for i in range(1, k + 1):
        x = inverses[i]
        for j in range(count):
            carried[2, j] *= abs(carried[0, j]) * x
    last = inverses[k + 1]
    for j in range(count):
        add_weight(lanes, 0, j, (carried[2, j] * (abs(carried[0, j]) * last)) * carried[1, j])
        lanes[2, j] += carried[2, j]


@kernel
def small_sums(e, w, c, k, delta):
    """(sum w R_k(u), bound) where every |u| <= 1: (12 + 3k) u, and |R_{k-1}| <= exp(1) |u|**k/k! times what u is off."""
    lanes, carried = tiles(), tiles()
    clear(lanes, 0, 3)
    inverses = 1.0 / np.arange(0.0, k + 2.0 + SERIES_TERMS)
    for start in range(0, e.size, LANES):
        x, y = e[start : start + LANES], w[start : start + LANES]
        if x.size == LANES:
            small_block(lanes, carried, x, y, c, delta, k, inverses, LANES)
        else:
            small_block(lanes, carried, x, y, c, delta, k, inverses, x.size)
    high, low = halve(lanes, 0)
    total, slope = high + low, fold(lanes, 2)
    # u R_{k-1} <= 3.5 (k+1) R_k there
    bound = total * (WEIGHT_ERROR + (12.0 + 4.0 * k + 7.0 * (k + 1.0)) * U) + 2.8 * slope * (U * abs(c) + delta)
    return total, bound + 4.0 * e.size * ETA


@kernel
def careful_sums(e, w, c, k, delta):
    """(sum w R_k(u), bound) for any u, state by state."""
    total, low, bound = 0.0, 0.0, 0.0
    for j in range(e.size):
        u = e[j] + c
        term = abs(w[j] * power_term(u, k + 1)) * remainder_factor(k, u)
        total, error = two_sum(total, term)
        low += error
        slope = abs(w[j] * power_term(u, k)) * remainder_factor(k - 1, u)  # |dR_k/du| = |R_{k-1}|
        bound += term * (WEIGHT_ERROR + (12.0 + 3.0 * k) * U) + 1.01 * slope * (U * abs(e[j]) + delta + U * abs(u)) + ETA
    return total + low, bound


@kernel
def careful_even_mean(e, w, c, k, delta, total_w, n):
    """``even_mean`` state by state: below zero, T_{k-1} = exp - R_{k-1} of positive terms."""
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
        bound += x * (WEIGHT_ERROR + (12.0 + 3.0 * k) * U) + 1.01 * slope * (U * abs(e[j]) + delta + U * abs(u)) + ETA
    mean = (total + low) / total_w
    return mean, 1.01 * (bound / total_w + mean * (sum_error(n) + chain_error(n) + 4.0 * U))


@kernel
def set_coefficients(coefficients, scale):
    """Fill in the coefficients of v**j; (log of what divides the polynomial, bound on its error)."""
    k = coefficients.size
    if scale == 1.0:
        coefficients[0] = 1.0
        for j in range(1, k):
            coefficients[j] = coefficients[j - 1] / j
        return 0.0, 0.0
    coefficients[k - 1] = 1.0 if k <= MANY_COEFFICIENTS else 2.0**-400
    power, low = -log(coefficients[k - 1]), 0.0
    size = abs(power)
    for j in range(k - 1, 0, -1):
        coefficients[j - 1] = coefficients[j] * (j / scale)
        term = log(scale / j)
        power, error = two_sum(power, term)
        low += error
        size += abs(term) + 1.0
    return power + low, 3.0 * U * size


@kernel
def even_gap(c, mean, bound, power, off):
    """(gap, bound) of c - log E T_{k-1}(u), of which mean is exp(-power) times; NaN where it is not known to half of itself."""
    if not (bound < 0.5 * mean and mean < INF):
        return np.nan, INF
    spread = log(mean)
    value = c - (spread + power)
    rounding = U * (abs(c) + 4.0 * abs(spread) + 2.0 * abs(power) + 2.0 * abs(value))
    return value, 1.01 * (bound / (mean - bound) + off + rounding)


@kernel
def row_gap(e, w, known, total_w, start, low, high, k, coefficients):
    """(gap, bound) of a row from its log ratios and weights."""
    n, delta, off = e.size, known[DELTA], known[OFF]
    c, scale, value, error = polished(e, w, best_reference(e, w, k, start, low, high), k, low, high, delta)
    largest = max(abs(c - low), abs(c - high))  # low = min -e, high = max -e
    residual, mean, own, power, power_error = 1.01 * (abs(value) + error) / total_w, 0.0, INF, 0.0, 0.0
    if scale > 1.0 or k <= MOST_COEFFICIENTS:
        power, power_error = set_coefficients(coefficients, scale)
        mean, own = even_mean(e, w, c, scale, delta, coefficients, total_w, n)
        # T_K - T_{K-1} = u**K/K!, whose mean the best reference makes vanish
        last = residual * (scale / k if scale > 1.0 else power_term(1.0, k))
        value, bound = even_gap(c, mean, own + last, power, off + power_error)
        if bound <= GOOD * value:
            return value, bound
    distance = distance_to_root(e, w, c, k, scale, low, high, delta) if largest > 1.0 else INF
    if largest > LARGEST:
        return even_gap(c, mean, own, power, off + power_error + k * distance)
    rho, bound = small_sums(e, w, c, k, delta) if largest <= 1.0 else careful_sums(e, w, c, k, delta)
    outside = exp(-c) / total_w
    rho, bound = rho * outside, bound * outside
    bound += rho * (sum_error(n) + chain_error(n) + 8.0 * U + 2.0 * U * abs(c) + 1.01 * off) + n * ETA
    last = residual * power_term(scale, k)
    # c is off by at most x with 2 (x/2)**K <= residual, since (v + x)**K - v**K >= 2 (x/2)**K
    distance = min(distance, 2.02 * exp(log(0.5 * residual) / k) * scale) if residual > 0.0 else 0.0
    bound = 1.01 * (bound + exp(-c) * last * distance)
    if rho < 0.5 and bound < 0.25:
        value = -log1p(-rho)
        return value, 1.01 * bound / (1.0 - rho - bound) + 2.0 * U * value
    mean, bound = careful_even_mean(e, w, c, k, delta, total_w, n)
    return even_gap(c, mean, bound + last, 0.0, off)


@kernel
def bracket(e, y0, w):
    """(sum w e, min -e, max -e) over the states that p and q share; the others lose their weight and take a shared ratio."""
    mean, low, high, shared = 0.0, INF, -INF, 0.0
    for j in range(e.size):
        if y0[j] > ABSENT:
            mean += w[j] * e[j]
            low, high, shared = min(low, -e[j]), max(high, -e[j]), e[j]
    for j in range(e.size):
        if y0[j] <= ABSENT:
            e[j], w[j] = shared, 0.0
    return mean, low, high


@kernel(void(TABLE, TABLE, INT, OUT2))
def perturbative_rows(log_joint, log_q, order, out):
    """Gap at one odd order over the common support, log evidence, each with its bound, log sum q, states in one table only.

    The gap is NaN, its bound INF, where there is no common support or a difference overflows; all is NaN where nothing is known.
    """
    n = log_joint.shape[1]
    weights, partials = scratch_of(n)
    e, y0, known, coefficients = np.empty(n), np.empty(n), np.empty(N_STATES), np.empty(order)
    w = weights if n <= CHUNK else np.empty(n)
    for i in range(out.shape[0]):
        a, b, row = table_row(log_joint, i), table_row(log_q, i), out[i]
        row[:] = np.nan
        row[P_GAP + 1], row[P_EVIDENCE + 1] = INF, INF
        if open_states(a, b, weights, partials, e, y0, known):
            row[P_EVIDENCE], row[P_EVIDENCE + 1] = known[EVIDENCE], known[EVIDENCE + 1]
            row[P_NORMALIZER], row[P_SINGLE] = known[NORMALIZER], known[SINGLE]
            top_b, rest_b, _ = merge_log_sums(partials)  # of b, which came last
            if n > CHUNK:
                row_weights(b, top_b, w)
            mean, low, high = bracket(e, y0, w)
            total_w = 1.0 + rest_b
            value, bound = row_gap(e, w, known, total_w, -mean / total_w, low, high, order, coefficients)
            if bound < INF:
                row[P_GAP], row[P_GAP + 1] = max(0.0, value), bound
