"""The fast form of ``renyi``: rows of ordinary log ratios in two or three passes over lanes, the others left undecided.

With e = log(p/q) around the pivot and y0 = log q - max log q, the moment sum q exp(c e) of order c <= 1/2 is

    1 + H,  H = sum q h(e),  h(e) = phi(c e) - c phi(e)        where every |e| and |c e| is at most 1
    exp(log sum exp(y0 + c e) - log W)                         elsewhere, if that is accurate enough

**Errors of H.** h has the sign of c (c - 1), and |c (c-1)| e**2/(2 exp 1) <= |h|. phi(c e) and c phi(e) have opposite signs in h only for
0 < c <= 1/2, where their sum is at most 3.8 |h|; each is good to 9u, c e and e move h by 14.8u more (|e h'| <= 2 exp(2) |h|), so a
term with its weight is good to (3.1 + 1 + 34.2 + 14.8) u < 54u. With x the error of the pivot, E exp(e) = exp(x) exactly, so

    E exp(c e*) = exp(-c x) (1 + H + c expm1(x)),  off by at most 1.1 (|c x H| + |c| (1 + |c|) x**2)

and delta moves H by |c (c-1)| exp(1) E|e| delta with E|e| <= sqrt(2 exp(1) H/|c (c-1)|).

**Errors of the log sum.** y0 and e round once, c e and the sum once each: an exponent is good to u (|y0| + 2 |c e| + |x|) <=
u (2 |x| + 3 |c e|), averaged over its weights, and |c| (delta + x).
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact.kernels._jit import FLOAT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_log_sum, table_row
from elbo_exact.kernels.plain import pivot_off, plain_offset
from elbo_exact.kernels.points import ABSENT, LARGEST, N_STATES, SINGLE, SIZE_E, fill_states
from elbo_exact.kernels.reduce import chunk_weights, close_log_sum, log_evidence_of, log_sum_error, sum_error
from elbo_exact.kernels.scalar import log1p, phi_parts, two_sum
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, ETA, INF, LANES, U, add_weight, chain_error, clear, fold, halve

__all__ = ["M_BOUND", "M_EVIDENCE", "M_NORMALIZER", "M_VALUE", "N_MOMENT", "moment_rows", "row_weights"]

M_VALUE, M_BOUND, M_EVIDENCE, M_NORMALIZER, N_MOMENT = 0, 1, 2, 4, 5  # the evidence has its bound beside it
TERM_ERROR = 54.0 * U
GOOD = 2.0**-42  # relative bound up to which a log sum will do


@kernel
def row_weights(row, top, kept):
    """exp(row - top), chunk by chunk."""
    lanes = tiles()
    for first in range(0, row.size, CHUNK):
        last = min(first + CHUNK, row.size)
        chunk_weights(row[first:last], top, kept[first:last], lanes)


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
def mixed_block(lanes, e, y0, c, mixed, count):
    """Exponents of a block, and the largest in each lane."""
    for j in range(count):
        x = y0[j] + c * e[j] if y0[j] > ABSENT else -INF
        mixed[j] = x
        lanes[0, j] = x if x > lanes[0, j] else lanes[0, j]


@kernel
def mixed_top(e, y0, c, mixed):
    """All exponents, and their largest."""
    lanes = tiles()
    for j in range(LANES):
        lanes[0, j] = -INF
    for start in range(0, e.size, LANES):
        x, y, z = e[start : start + LANES], y0[start : start + LANES], mixed[start : start + LANES]
        if x.size == LANES:
            mixed_block(lanes, x, y, c, z, LANES)
        else:
            mixed_block(lanes, x, y, c, z, x.size)
    top = -INF
    for j in range(LANES):
        top = lanes[0, j] if lanes[0, j] > top else top
    return top


@kernel
def add_errors(lanes, e, mixed, w, c, count):
    """The errors of a block's exponents over its weights."""
    for j in range(count):
        x = abs(mixed[j]) if mixed[j] > -INF else 0.0
        lanes[0, j] += w[j] * (2.0 * x + 3.0 * abs(c * e[j]))


@kernel
def far_moment(e, mixed, w, c, top, delta, off, rest, log_w, n):
    """(log sum of the mixed weights - log W, bound)."""
    lanes, errors = tiles(), tiles()
    clear(errors, 0, 1)
    ties, total, low = 0.0, 0.0, 0.0
    for first in range(0, n, CHUNK):
        last = min(first + CHUNK, n)
        ties += chunk_weights(mixed[first:last], top, w[first:last], lanes)
        high, high_low = halve(lanes, 0)
        total, error = two_sum(total, high)
        low += high_low + error
        for start in range(first, last, LANES):
            stop = min(start + LANES, last)
            x, y, z = e[start:stop], mixed[start:stop], w[start:stop]
            if x.size == LANES:
                add_errors(errors, x, y, z, c, LANES)
            else:
                add_errors(errors, x, y, z, c, x.size)
    mixed_rest = close_log_sum(ties, total, low)
    spread = log1p(mixed_rest)
    value = (top + spread) - log_w
    bound = U * fold(errors, 0) / (1.0 + mixed_rest) + abs(c) * (delta + off) + log_sum_error(rest, log_w, n)
    bound += log_sum_error(mixed_rest, spread, n) + 2.0 * U * (abs(top) + spread + abs(value)) + chain_error(n)
    return value, 1.02 * bound


@kernel
def log_moment(p, q, top_p, rest_p, top_q, rest_q, c, e, y0, w, mixed, known):
    """(log sum q**(1-c) p**c, bound) for c <= 1/2; the bound is INF where the row needs ``renyi``."""
    n = p.size
    log_p, log_q = log1p(rest_p), log1p(rest_q)
    r = log_p - log_q
    offset, offset_low = plain_offset(top_p, top_q, r)
    if not fill_states(p, q, top_p, top_q, offset, offset_low, e, y0, known):
        return np.nan, INF
    delta = 16.0 * U * U * (known[LARGEST] + abs(top_p) + abs(top_q) + abs(r))
    off, size = pivot_off(rest_p, log_p, rest_q, log_q, r, n), known[SIZE_E]
    if known[SINGLE] == 0.0 and size <= 1.0 and abs(c) * size <= 1.0:
        row_weights(q, top_q, w)
        return near_moment(e, w, c, delta, off, rest_q, n)
    if known[SINGLE] > 0.0 and c < 0.0:
        return np.nan, INF
    top = mixed_top(e, y0, c, mixed)
    value, bound = far_moment(e, mixed, w, c, top, delta, off, rest_q, log_q, n)
    right = value <= 0.0 if c > 0.0 else value >= 0.0
    return value, (bound if bound <= GOOD * abs(value) and right else INF)


@kernel(void(TABLE, TABLE, FLOAT, OUT2))
def moment_rows(log_joint, log_q, alpha, out):
    """D_alpha(q || p) with its bound, the log evidence with its bound, and log sum q of every row.

    The bound of D is INF where ``renyi`` has to decide; the evidence is NaN in rows that cannot be.
    """
    n = log_joint.shape[1]
    weights, partials = np.empty(min(CHUNK, n)), np.empty(((n + CHUNK - 1) // CHUNK, 5))
    e, y0, w, mixed, known = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(N_STATES)
    direct = alpha >= 0.5
    c = 1.0 - alpha if direct else alpha
    for i in range(out.shape[0]):
        a, b, row = table_row(log_joint, i), table_row(log_q, i), out[i]
        row[:] = np.nan
        row[M_BOUND], row[M_EVIDENCE + 1] = INF, INF
        top_a, rest_a = row_log_sum(a, weights, partials)
        top_b, rest_b = row_log_sum(b, weights, partials)
        if rest_a < 0.0 or rest_b < 0.0:
            continue
        row[M_EVIDENCE], row[M_EVIDENCE + 1] = log_evidence_of(top_a, rest_a, log1p(rest_a), n)
        row[M_NORMALIZER] = log_evidence_of(top_b, rest_b, log1p(rest_b), n)[0]
        p, q = (a, b) if direct else (b, a)
        top_p, rest_p, top_q, rest_q = (top_a, rest_a, top_b, rest_b) if direct else (top_b, rest_b, top_a, rest_a)
        value, bound = log_moment(p, q, top_p, rest_p, top_q, rest_q, c, e, y0, w, mixed, known)
        if bound < INF:
            value = value / (alpha - 1.0) + 0.0
            row[M_VALUE], row[M_BOUND] = value, 1.01 * bound / abs(alpha - 1.0) + 4.0 * U * abs(value) + ETA
