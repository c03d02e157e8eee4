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

This file takes orders that products serve; the second form is in ``perturbative_remainder``. ``perturbative_logs`` has all other orders,
and the rows where neither form has enough digits.

**The polynomial.** With v = u/s, s = max(1, max |u|/reach), the powers of v stay in the range. For s = 1 its coefficients are 1/k!;
for s > 1 they are those of v in (K-1)! s**(1-K) T_{K-1}, whose last is 1 (or little, if they are many). Horner's rule loses at most 2K u of sum |u|**k/k!, and u
itself is off by u (|c| + 2 |u|) + delta, which moves T_{K-1} by as many times sum_{k<K-1} |u|**k/k!.

**Faint states.** A weight below exp(-690) is taken as zero, because products of subnormals are slow (140 instead of 40 ns per state, 2026); every
sum charges that ``lost`` times its largest term. An error of the gap below ``UNFELT`` is none for what follows.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.moment import row_weights
from elbo_exact.kernels.perturbative_logs import gap_in_logs
from elbo_exact.kernels.perturbative_remainder import MOST_FACTORIALS, power_term, small_gap, small_reach
from elbo_exact.kernels.perturbative_root import best_reference, polished
from elbo_exact.kernels.pivoted import scratch_of, table_row
from elbo_exact.kernels.points import ABSENT, DELTA, EVIDENCE, N_STATES, NORMALIZER, OFF, SINGLE, open_states
from elbo_exact.kernels.reduce import WEIGHT_ERROR, merge_log_sums, sum_error
from elbo_exact.kernels.scalar import log, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, ETA, INF, LANES, U, add, chain_error, clear, fold, halve

__all__ = ["N_PERTURBATIVE", "P_EVIDENCE", "P_GAP", "P_NORMALIZER", "P_SINGLE", "perturbative_rows"]

P_GAP, P_EVIDENCE, P_NORMALIZER, P_SINGLE, N_PERTURBATIVE = 0, 2, 4, 5, 6  # columns of a row's results; a value, then its bound

MOST_PRODUCTS = 999  # coefficients of higher orders leave the doubles
FAINT, LOST = -690.0, 2.0**-995  # smallest log weight that is one, and a bound on others
UNFELT = U * U
MANY_COEFFICIENTS = 500  # those of more, relative to the last, reach exp(850)
GOOD = 2.0**-42  # relative bound on the gap up to which products will do


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
def even_mean(e, w, c, scale, delta, coefficients, total_w, largest, lost):
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
    n, most = e.size, 0.0
    for i in range(coefficients.size - 1, -1, -1):
        most = most * (largest * inverse) + coefficients[i]
    relative = WEIGHT_ERROR + sum_error(n) + 2.0 * chain_error(n) + (2.0 * coefficients.size + 6.0) * U
    return mean, 1.01 * (size * relative + moved) + n * (4.0 * ETA + lost * most)


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
def row_gap(e, w, known, total_w, start, low, high, k, coefficients, lost):
    """(gap, bound, best reference) of a row by products; the gap is NaN where they have too few digits."""
    delta, off = known[DELTA], known[OFF]
    c, scale, value, error = polished(e, w, best_reference(e, w, k, start, low, high, total_w), k, low, high, delta, lost)
    largest = max(abs(c - low), abs(c - high))
    residual = 1.01 * (abs(value) + error) / total_w
    if scale > 1.0 or k <= MOST_FACTORIALS + 1:
        power, power_error = set_coefficients(coefficients, scale)
        mean, own = even_mean(e, w, c, scale, delta, coefficients, total_w, largest, lost)
        # T_K - T_{K-1} = u**K/K!, whose mean the best reference makes vanish
        last = residual * (scale / k if scale > 1.0 else power_term(1.0, k))
        value, bound = even_gap(c, mean, own + last, power, off + power_error)
        if bound <= GOOD * value:
            return value, bound, c
    if scale == 1.0 and (k <= MOST_FACTORIALS or largest <= small_reach(k)):
        value, bound = small_gap(e, w, c, k, total_w, known, residual, largest, lost)
        if bound <= max(GOOD * value, UNFELT) or largest <= small_reach(k):
            return value, bound, c
    return np.nan, INF, c


@kernel
def bracket(e, y0, w):
    """(sum w e, min -e, max -e, ``lost``) of the states that p and q share; others take a shared ratio, and they and the faint no weight."""
    mean, low, high, shared, faint = 0.0, INF, -INF, 0.0, 0
    for j in range(e.size):
        is_shared, x = y0[j] > ABSENT, -e[j]
        mean -= w[j] * x if is_shared else 0.0
        low, high = (x if is_shared and x < low else low), (x if is_shared and x > high else high)
        shared = e[j] if is_shared else shared
    for j in range(e.size):
        is_shared, is_faint = y0[j] > ABSENT, y0[j] < FAINT
        faint += 1 if is_shared and is_faint else 0
        e[j], w[j] = (e[j] if is_shared else shared), (0.0 if is_faint else w[j])
    lost = LOST if faint > 0 else 0.0
    return mean, low, high, lost


@kernel(void(TABLE, TABLE, INT, OUT2))
def perturbative_rows(log_joint, log_q, order, out):
    """Gap at one odd order, log evidence, each with its bound, log sum q, states in one table only.

    The gap is NaN, its bound INF, where there are such states or a difference overflows; all is NaN where nothing is known.
    """
    n = log_joint.shape[1]
    weights, partials = scratch_of(n)
    e, y0, known, coefficients = np.empty(n), np.empty(n), np.empty(N_STATES), np.empty(min(order, MOST_PRODUCTS))
    w = weights if n <= CHUNK else np.empty(n)
    for i in range(out.shape[0]):
        a, b, row = table_row(log_joint, i), table_row(log_q, i), out[i]
        row[:] = np.nan
        row[P_GAP + 1], row[P_EVIDENCE + 1] = INF, INF
        if open_states(a, b, weights, partials, e, y0, known):
            row[P_EVIDENCE], row[P_EVIDENCE + 1] = known[EVIDENCE], known[EVIDENCE + 1]
            row[P_NORMALIZER], row[P_SINGLE] = known[NORMALIZER], known[SINGLE]
            if known[SINGLE] > 0.0:
                continue
            top_b, rest_b, _ = merge_log_sums(partials)  # of b, which came last
            if n > CHUNK:
                row_weights(b, top_b, w)
            mean, low, high, lost = bracket(e, y0, w)
            total_w = 1.0 + rest_b
            value, bound, c = np.nan, INF, 0.0
            if order <= MOST_PRODUCTS:
                value, bound, c = row_gap(e, w, known, total_w, -mean / total_w, low, high, order, coefficients, lost)
            if not bound < INF:
                is_near = order <= MOST_PRODUCTS and lost == 0.0
                value, bound = gap_in_logs(e, y0, known, total_w, c, is_near, low, high, float(order))
            if bound < INF:
                row[P_GAP], row[P_GAP + 1] = max(0.0, value), bound
