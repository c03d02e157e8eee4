"""The fast form of ``renyi``: rows of ordinary log ratios in two or three passes over lanes, the others left undecided.

With e = log(p/q) around the pivot and y0 = log q - max log q, the moment sum q exp(c e) of order c <= 1/2 is

    1 + H,  H = sum q h(e),  h(e) = phi(c e) - c phi(e)        where every |e| and |c e| is at most 1
    exp(log sum exp(x) - alpha log W - (1 - alpha) log A)      elsewhere, if that is accurate enough, x = alpha b' + (1 - alpha) a'

**Errors of H.** h has the sign of c (c - 1), and |c (c-1)| e**2/(2 exp 1) <= |h|. phi(c e) and c phi(e) have opposite signs in h only for
0 < c <= 1/2, where their sum is at most 3.8 |h|; each is good to 9u, c e and e move h by 14.8u more (|e h'| <= 2 exp(2) |h|), so a
term with its weight is good to (3.1 + 1 + 34.2 + 14.8) u < 54u. With x the error of the pivot, E exp(e) = exp(x) exactly, so

    E exp(c e*) = exp(-c x) (1 + H + c expm1(x)),  off by at most 1.1 (|c x H| + |c| (1 + |c|) x**2)

and delta moves H by |c (c-1)| exp(1) E|e| delta with E|e| <= sqrt(2 exp(1) H/|c (c-1)|).

**Errors of the log sum.** a' = log p - max and b' = log q - max round once, 1 - alpha, its product and that with alpha once, x once: an
exponent is good to u (3 |alpha b'| + 4 |(1 - alpha) a'|), of which the average over the weights of x counts.

**Orders without another exp.** With the weights v = exp(a') and w = exp(b') of the two log sums, each good to 3.1u, w**alpha v**(1 - alpha) is

    sqrt(v w)      alpha = 1/2          (6.2 + 1)/2 + 1 = 4.6u
    v sqrt(v/w)    alpha = -1/2         3.1 + 7.2/2 + 2 = 8.7u     and w sqrt(w/v) for 3/2
    v (v/w)        alpha = -1           3.1 + 7.2 + 1 = 11.3u      and w (w/v) for 2

so 11.4u serves all of them. Nothing underflows where every weight is at least 2**-500: other rows go the general way.
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact.kernels._jit import FLOAT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_log_sum, scratch_of, table_row
from elbo_exact.kernels.plain import pivot_off, plain_offset
from elbo_exact.kernels.points import LARGEST, N_STATES, SIZE_E, fill_states
from elbo_exact.kernels.reduce import chunk_weights, close_log_sum, log_evidence_of, log_sum_error, sum_error
from elbo_exact.kernels.scalar import log1p, log_of_sum, phi_parts, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, ETA, INF, LANES, U, add_weight, chain_error, clear, fold, halve

__all__ = ["M_BOUND", "M_EVIDENCE", "M_NORMALIZER", "M_VALUE", "N_MOMENT", "moment_rows", "row_weights"]

M_VALUE, M_BOUND, M_EVIDENCE, M_NORMALIZER, N_MOMENT = 0, 1, 2, 4, 5  # the evidence has its bound beside it
TERM_ERROR = 54.0 * U
GOOD = 2.0**-42  # relative bound up to which a log sum will do
POWER_ERROR, POWER_GOOD, POWER_SMALLEST = 11.4 * U, 2.0**-46, 2.0**-500  # as good as ``near_moment`` within a factor of two


@kernel
def row_weights(row, top, kept):
    """exp(row - top), chunk by chunk."""
    lanes = tiles()
    for first in range(0, row.size, CHUNK):
        last = min(first + CHUNK, row.size)
        chunk_weights(row[first:last], top, True, kept[first:last], lanes)


@kernel
def near_block(lanes, e, w, c, sign, count):
    """|h| over the weights of a block."""
    for j in range(count):
        even, odd = phi_parts(e[j])
        even_c, odd_c = phi_parts(c * e[j])
        h = sign * ((even_c + odd_c) - c * (even + odd))
        add_weight(lanes, 0, j, w[j] * (h if h > 0.0 else 0.0))


@kernel
def near_moment(e, w, c, delta, off, rest, n):
    """(log(1 + H), bound) of a row without large ratios."""
    lanes = tiles()
    clear(lanes, 0, 2)
    curve = c * (c - 1.0)
    sign = 1.0 if curve > 0.0 else -1.0
    for start in range(0, e.size, LANES):
        x, y = e[start : start + LANES], w[start : start + LANES]
        if x.size == LANES:
            near_block(lanes, x, y, c, sign, LANES)
        else:
            near_block(lanes, x, y, c, sign, x.size)
    high, low = halve(lanes, 0)
    size = (high + low) / (1.0 + rest)
    bound = size * (TERM_ERROR + sum_error(n) + chain_error(n) + 3.0 * U + 1.1 * abs(c) * off)
    bound += 1.1 * abs(c) * (1.0 + abs(c)) * off * off + 2.8 * math.sqrt(5.5 * abs(curve) * size) * delta
    bound = 1.01 * bound + 8.0 * n * ETA * (1.0 + abs(c))
    moment = sign * size
    if not (moment > -0.5 and bound < 0.1):
        return np.nan, INF
    value = log1p(moment)
    return value, 1.01 * (bound / (1.0 + moment - bound) + 2.0 * U * abs(value))


@kernel
def mixed_block(lanes, a, b, top_a, top_b, alpha, beta, r, mixed, count):
    """Exponents of a block, their largest and that of |e| in the lanes; how many states only one table allows."""
    single = 0
    for j in range(count):
        possible, charged = a[j] > -INF, b[j] > -INF
        both = possible and charged
        x, y = (a[j] - top_a if both else 0.0), (b[j] - top_b if both else 0.0)
        z = alpha * y + beta * x if both else -INF
        size = abs((x - y) - r) if both else 0.0
        mixed[j] = z
        lanes[0, j] = z if z > lanes[0, j] else lanes[0, j]
        lanes[1, j] = size if size > lanes[1, j] else lanes[1, j]
        single += 1 if possible != charged else 0
    return single


@kernel
def mix(a, b, top_a, top_b, alpha, beta, r, mixed):
    """All exponents: (their largest, the largest |e|, how many states only one table allows)."""
    lanes = tiles()
    for j in range(LANES):
        lanes[0, j], lanes[1, j] = -INF, 0.0
    single = 0
    for start in range(0, a.size, LANES):
        x, y, z = a[start : start + LANES], b[start : start + LANES], mixed[start : start + LANES]
        whole = x.size == LANES
        if whole:
            single += mixed_block(lanes, x, y, top_a, top_b, alpha, beta, r, z, LANES)
        else:
            single += mixed_block(lanes, x, y, top_a, top_b, alpha, beta, r, z, x.size)
    raise_lanes(lanes, 32)
    raise_lanes(lanes, 16)
    raise_lanes(lanes, 8)
    raise_lanes(lanes, 4)
    raise_lanes(lanes, 2)
    raise_lanes(lanes, 1)
    return lanes[0, 0], lanes[1, 0], single


@kernel
def raise_lanes(lanes, width):
    """Keep the larger of lanes j and width + j of both maxima."""
    for j in range(width):
        x, y = lanes[0, width + j], lanes[1, width + j]
        lanes[0, j] = x if x > lanes[0, j] else lanes[0, j]
        lanes[1, j] = y if y > lanes[1, j] else lanes[1, j]


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
def tight_moment(p, q, top_p, rest_p, top_q, rest_q, c, e, w, known):
    """``near_moment`` from the tables; ``w`` holds the weights of q, y0 is not needed."""
    n, log_p, log_q = p.size, log1p(rest_p), log1p(rest_q)
    r = log_p - log_q
    offset, offset_low = plain_offset(top_p, top_q, r)
    y0 = np.empty(n)
    if not fill_states(p, q, top_p, top_q, offset, offset_low, e, y0, known):
        return np.nan, INF
    if known[SIZE_E] > 1.0 or abs(c) * known[SIZE_E] > 1.0:
        return np.nan, INF
    delta = 16.0 * U * U * (known[LARGEST] + abs(top_p) + abs(top_q) + abs(r))
    return near_moment(e, w, c, delta, pivot_off(rest_p, log_p, rest_q, log_q, r, n), rest_q, n)


@kernel
def loose_moment(a, b, top_a, rest_a, top_b, rest_b, alpha, mixed, top, kept):
    """(log sum q**alpha p**(1 - alpha), bound) from log sums; the bound is INF where they are not accurate enough."""
    value, bound = far_moment(a, b, top_a, top_b, alpha, 1.0 - alpha, mixed, top, kept)
    return normalized_moment(value, bound, rest_a, rest_b, alpha, a.size, GOOD)


@kernel
def normalized_moment(value, bound, rest_a, rest_b, alpha, n, good):
    """(log moment, bound) from the log sum of the mixed weights; the bound is INF where it is relatively above ``good``."""
    beta, log_a, log_b = 1.0 - alpha, log1p(rest_a), log1p(rest_b)
    x, y = alpha * log_b, beta * log_a
    moment = value - (x + y)
    bound += abs(alpha) * log_sum_error(rest_b, log_b, n) + abs(beta) * log_sum_error(rest_a, log_a, n)
    bound = 1.01 * (bound + 3.0 * U * (abs(x) + abs(y)) + U * abs(moment))
    right = moment <= 0.0 if 0.0 < alpha < 1.0 else moment >= 0.0
    return moment, (bound if bound <= good * abs(moment) and right else INF)


@kernel
def has_power(alpha):
    """Whether the mixed weights are products and roots of the others."""
    return alpha == 0.5 or alpha == -0.5 or alpha == 1.5 or alpha == -1.0 or alpha == 2.0


@kernel
def power_block(lanes, x, y, order, count):
    """x**order y**(1 - order) of a block into the lanes of sum 0; how many states have too small a weight."""
    small = 0
    for j in range(count):
        v, w = x[j], y[j]
        small += 1 if (v < POWER_SMALLEST or w < POWER_SMALLEST) else 0
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
def power_moment(weights_a, weights_b, rest_a, rest_b, alpha):
    """(log sum q**alpha p**(1 - alpha), bound) for the orders of ``has_power``; the bound is INF where ``row_moment`` has to go on."""
    lanes = tiles()
    n = weights_a.size
    x, y = (weights_a, weights_b) if alpha < 1.0 else (weights_b, weights_a)
    if alpha == 0.5:
        small = power_sum(lanes, x, y, 0.5)
    elif alpha == -0.5 or alpha == 1.5:
        small = power_sum(lanes, x, y, 1.5)
    else:
        small = power_sum(lanes, x, y, 2.0)
    if small > 0:
        return np.nan, INF
    high, low = halve(lanes, 0)
    high, low = two_sum(high, low)
    value = log_of_sum(high, low)
    bound = 1.01 * (POWER_ERROR + sum_error(n)) + 2.0 * U * abs(value)
    return normalized_moment(value, bound, rest_a, rest_b, alpha, n, POWER_GOOD)


@kernel
def row_moment(a, b, top_a, rest_a, top_b, rest_b, alpha, weights_a, weights_b, e, mixed, known):
    """(log sum q**alpha p**(1 - alpha), bound); the bound is INF where ``renyi`` has to decide."""
    if a.size <= CHUNK and has_power(alpha):
        value, bound = power_moment(weights_a, weights_b, rest_a, rest_b, alpha)
        if bound < INF:
            return value, bound
    r = log1p(rest_a) - log1p(rest_b)
    top, size, single = mix(a, b, top_a, top_b, alpha, 1.0 - alpha, r, mixed)
    direct = alpha >= 0.5
    c = 1.0 - alpha if direct else alpha
    if single == 0 and max(1.0, abs(c)) * size <= 1.0:
        p, q, w = (a, b, weights_b) if direct else (b, a, weights_a)
        top_p, rest_p, top_q, rest_q = (top_a, rest_a, top_b, rest_b) if direct else (top_b, rest_b, top_a, rest_a)
        if p.size > CHUNK:
            row_weights(q, top_q, mixed)
            w = mixed
        return tight_moment(p, q, top_p, rest_p, top_q, rest_q, c, e, w, known)
    if (single > 0 and not 0.0 < alpha < 1.0) or not -INF < top < INF:
        return np.nan, INF
    kept = weights_a  # no longer needed
    return loose_moment(a, b, top_a, rest_a, top_b, rest_b, alpha, mixed, top, kept)


@kernel(void(TABLE, TABLE, FLOAT, OUT2))
def moment_rows(log_joint, log_q, alpha, out):
    """D_alpha(q || p) with its bound, the log evidence with its bound, and log sum q of every row.

    The bound of D is INF where ``renyi`` has to decide; the evidence is NaN in rows that cannot be.
    """
    n = log_joint.shape[1]
    weights_a, partials = scratch_of(n)
    weights_b, e, mixed, known = np.empty(min(CHUNK, n)), np.empty(n), np.empty(n), np.empty(N_STATES)
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
        value, bound = row_moment(a, b, top_a, rest_a, top_b, rest_b, alpha, weights_a, weights_b, e, mixed, known)
        if bound < INF:
            value = value / (alpha - 1.0) + 0.0
            row[M_VALUE], row[M_BOUND] = value, 1.01 * bound / abs(alpha - 1.0) + 4.0 * U * abs(value) + ETA
