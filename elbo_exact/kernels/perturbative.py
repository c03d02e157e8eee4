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

This file takes rows whose weights are doubles, for orders that products serve: ``perturbative_logs`` has all others, and those where
neither form has enough digits.

**The polynomial.** With v = u/s, s = max(1, max |u|/reach), the powers of v stay in the range. For s = 1 its coefficients are 1/k!;
for s > 1 they are those of v in (K-1)! s**(1-K) T_{K-1}, whose last is 1 (or little, if they are many). Horner's rule loses at most 2K u of sum |u|**k/k!, and u
itself is off by u (|c| + 2 |u|) + delta, which moves T_{K-1} by as many times sum_{k<K-1} |u|**k/k!.

**The remainder**, where no |u| is above 8: R_K(u) = u**(K+1)/(K+1)! M_K(u), with so many terms of the series of M as matter, 18 up to
|u| = 1, which loops over lanes take.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.moment import row_weights
from elbo_exact.kernels.perturbative_logs import gap_in_logs
from elbo_exact.kernels.perturbative_root import best_reference, polished
from elbo_exact.kernels.pivoted import scratch_of, table_row
from elbo_exact.kernels.points import ABSENT, DELTA, EVIDENCE, N_STATES, NORMALIZER, OFF, SINGLE, open_states
from elbo_exact.kernels.reduce import WEIGHT_ERROR, merge_log_sums, sum_error
from elbo_exact.kernels.scalar import exp, log, log1p, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, ETA, INF, LANES, U, add, add_weight, chain_error, clear, fold, halve

__all__ = ["N_PERTURBATIVE", "P_EVIDENCE", "P_GAP", "P_NORMALIZER", "P_SINGLE", "perturbative_rows"]

P_GAP, P_EVIDENCE, P_NORMALIZER, P_SINGLE, N_PERTURBATIVE = 0, 2, 4, 5, 6  # columns of a row's results; a value, then its bound

MOST_PRODUCTS = 999  # coefficients of higher orders leave the doubles
FAINT = -690.0  # smallest log weight whose products keep their digits
MANY_COEFFICIENTS = 500  # those of more, relative to the last, reach exp(850)
MOST_COEFFICIENTS = 171  # 1/170! is the last normal inverse of a factorial
GOOD = 2.0**-42  # relative bound on the gap up to which the polynomial will do
SMALL = 8.0  # |u| up to which the series of the remainder of order 3 cancels at most six bits
SERIES_END = 2.0**-58


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
def series_of(k, largest):
    """How many terms of M_k(u) matter up to |u| = largest, the error of the sum relative to M_k in u, and 1 + sum |u| M_k/(k+1).

    Horner's rule loses three roundings of term i in each step, so that sum (3i + 2) term_i bounds it, and M_k(-x) >= (k+1)/(k+1+x), because
    1 - x M_k(-x)/(k+1) = M_{k-1}(-x) <= M_k(-x).
    """
    count, term, total, weighted = 0, 1.0, 1.0, 2.0
    while term > SERIES_END:
        count += 1
        term *= largest / (k + 1.0 + count)
        total += term
        weighted += (3.0 * count + 2.0) * term
    share = largest / (k + 1.0)
    return count, (weighted + 1.0) * (1.0 + share), 1.0 + share * total


@kernel
def small_block(lanes, carried, e, w, c, delta, k, terms, inverses, count):
    """w R_k(u) of a block by the series of M_k, and w |u|**k/k!."""
    for j in range(count):
        carried[0, j], carried[1, j], carried[2, j] = e[j] + c, 1.0, w[j]
    for i in range(terms, 0, -1):
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
def small_sums(e, w, c, k, delta, largest):
    """(sum w R_k(u), bound): a power's 12 + 4k roundings, the series, and u off by u |u|, where |u R_{k-1}| <= (k + 1 + |u|) R_k.

    What c and delta put u off by moves R_k by that times |R_{k-1}| <= M_{k-1}(|u|) |u|**k/k!.
    """
    lanes, carried = tiles(), tiles()
    clear(lanes, 0, 3)
    terms, series, steep = series_of(k, largest)
    inverses = 1.0 / np.arange(0.0, k + 2.0 + terms)
    for start in range(0, e.size, LANES):
        x, y = e[start : start + LANES], w[start : start + LANES]
        if x.size == LANES:
            small_block(lanes, carried, x, y, c, delta, k, terms, inverses, LANES)
        else:
            small_block(lanes, carried, x, y, c, delta, k, terms, inverses, x.size)
    high, low = halve(lanes, 0)
    total, slope = high + low, fold(lanes, 2)
    bound = total * (WEIGHT_ERROR + (12.0 + 4.0 * k + series + 2.0 * (k + 1.0 + largest)) * U)
    return total, bound + 1.01 * steep * slope * (U * abs(c) + delta) + 4.0 * e.size * ETA


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
def small_gap(e, w, c, k, total_w, known, residual, largest):
    """(gap, bound) from E_q R_K where no |u| is above ``SMALL``; the bound is INF where the gap is not small."""
    n = e.size
    rho, bound = small_sums(e, w, c, k, known[DELTA], largest)
    outside = exp(-c) / total_w
    rho, bound = rho * outside, bound * outside
    bound += rho * (sum_error(n) + chain_error(n) + 8.0 * U + 2.0 * U * abs(c) + 1.01 * known[OFF]) + n * ETA
    # c is off by at most x with 2 (x/2)**K <= residual, since (v + x)**K - v**K >= 2 (x/2)**K
    distance = 2.02 * exp(log(0.5 * residual) / k) if residual > 0.0 else 0.0
    bound = 1.01 * (bound + exp(-c) * (residual * power_term(1.0, k)) * distance)
    if not rho + bound < 0.9:
        return np.nan, INF
    value = -log1p(-rho)
    return value, 1.01 * bound / (1.0 - rho - bound) + 2.0 * U * value


@kernel
def row_gap(e, w, known, total_w, start, low, high, k, coefficients):
    """(gap, bound, best reference) of a row by products; the gap is NaN where they have too few digits."""
    n, delta, off = e.size, known[DELTA], known[OFF]
    c, scale, value, error = polished(e, w, best_reference(e, w, k, start, low, high), k, low, high, delta)
    largest = max(abs(c - low), abs(c - high))
    residual = 1.01 * (abs(value) + error) / total_w
    if scale > 1.0 or k <= MOST_COEFFICIENTS:
        power, power_error = set_coefficients(coefficients, scale)
        mean, own = even_mean(e, w, c, scale, delta, coefficients, total_w, n)
        # T_K - T_{K-1} = u**K/K!, whose mean the best reference makes vanish
        last = residual * (scale / k if scale > 1.0 else power_term(1.0, k))
        value, bound = even_gap(c, mean, own + last, power, off + power_error)
        if bound <= GOOD * value:
            return value, bound, c
    if largest <= SMALL and scale == 1.0:
        value, bound = small_gap(e, w, c, k, total_w, known, residual, largest)
        return value, bound, c
    return np.nan, INF, c


@kernel
def bracket(e, y0, w):
    """(sum w e, min -e, max -e, smallest log weight) of the states that p and q share; the others lose their weight and take a shared ratio."""
    mean, low, high, shared, faintest = 0.0, INF, -INF, 0.0, 0.0
    for j in range(e.size):
        if y0[j] > ABSENT:
            mean += w[j] * e[j]
            low, high, shared, faintest = min(low, -e[j]), max(high, -e[j]), e[j], min(faintest, y0[j])
    for j in range(e.size):
        if y0[j] <= ABSENT:
            e[j], w[j] = shared, 0.0
    return mean, low, high, faintest


@kernel(void(TABLE, TABLE, INT, OUT2))
def perturbative_rows(log_joint, log_q, order, out):
    """Gap at one odd order over the common support, log evidence, each with its bound, log sum q, states in one table only.

    The gap is NaN, its bound INF, where there is no common support or a difference overflows; all is NaN where nothing is known.
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
            top_b, rest_b, _ = merge_log_sums(partials)  # of b, which came last
            if n > CHUNK:
                row_weights(b, top_b, w)
            mean, low, high, faintest = bracket(e, y0, w)
            total_w = 1.0 + rest_b
            value, bound, c, products = np.nan, INF, 0.0, order <= MOST_PRODUCTS and faintest > FAINT
            if products:
                value, bound, c = row_gap(e, w, known, total_w, -mean / total_w, low, high, order, coefficients)
            if not bound < INF:
                value, bound = gap_in_logs(e, y0, known, total_w, c, products, low, high, float(order))
            if bound < INF:
                row[P_GAP], row[P_GAP + 1] = max(0.0, value), bound
