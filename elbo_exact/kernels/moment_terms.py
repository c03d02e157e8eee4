"""The moment sum q exp(c e) of order c <= 1/2 as 1 + H, H = sum q h of one sign, over lanes: what ``moment`` needs near H = 0.

With w, v the weights of q and p, s = exp(-pivot), y = c e and m = w exp(y), a state's h = expm1(y) - c expm1(e) comes from

    near    sum over k >= 2 of d_k e**k, d_k = (c**k - c)/k!        |e| <= 1 and |y| <= 1
    far     A - c (v s - w), divided by w                           elsewhere
            A = m - w, but w (y + phi(y)) for orders below 1/8 with |y| <= 1

A state that only one of p and q allows is far with m = 0, which is the limit of either; for c < 0 a charged one makes H infinite.

**Errors.** e is good to u |e| + delta, the pivot to x. h has the sign of c (c - 1), and |c (c-1)| e**2/(2 exp 1) <= |h| if near. There

    sum |d_k e**k| <= phi(|y|) + |c| phi(|e|) <= 3.8 |h|

(phi(c e) and c phi(e) have opposite signs in h for 0 < c <= 1/2 only). d_k is good to (k + 2) u of (|c|**k + |c|)/k!, and Horner's rule in
e**2 loses k + 2 more, 9u in the mean of such terms; the first dropped one, of degree 22, is below 2**-66. y and e move h by 14.8u more
(|e h'| <= 2 exp(2) |h|), so a term with its weight is good to (3.1 + 1 + 34.2 + 14.8) u < 54u. If far, in units of u,

    A           m (3.1 + |y0| + 2 |y| + |y0 + y|) + 4.1 w        as y0 = log q - max rounds, c e twice, their sum, and exp by 2u
                19.4 w |y|    (2.72 for y itself and as much for e, 1.72 * 5.1 + 0.72 * 7 for the weight, the series and their sum)
    v s - w     8.1 v s + 5.1 w, with its product

and the difference rounds; delta moves A by at most |c| delta (m + 2.72 w). It moves near terms by |c (c-1)| exp(1) E|e| delta with
E|e| <= sqrt(2 exp(1) H/|c (c-1)|). With x the error of the pivot, E exp(e) = exp(x) exactly, so

    E exp(c e*) = exp(-c x) (1 + H + c expm1(x)),  off by at most 1.1 (|c x H| + |c| (1 + |c|) x**2)
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.plain import one_sided, pivot_off, plain_offset, plain_state
from elbo_exact.kernels.points import ABSENT
from elbo_exact.kernels.reduce import chunk_weights, sum_error
from elbo_exact.kernels.scalar import FACTORIAL, UNDERFLOW, exp, exp_fraction, log1p, phi_parts, raised, reduced
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import CHUNK, ETA, INF, LANES, U, add_weight, chain_error, clear, fold, halve

__all__ = ["moment_of_terms"]

TERM_ERROR = 54.0 * U
SUM, SIZES, MOVED, REACH = (
    0,
    2,
    3,
    4,
)  # lanes: the sum and its rounding errors, sizes that bound the errors, the largest |a| + |b|
RATIO, POWER, REDUCED, REDUCED_LOW, DEPTH, ORDER = range(5, 11)  # lanes that carry a block from loop to loop
GOOD = 2.0**-42  # share of H up to which the errors of far terms will do
DEGREE = 21
SMALL_ORDER = 0.125
HIGHEST = 600.0  # of an exponent; H is far from 0 with a larger one


@kernel
def ratio_block(lanes, a, b, top_a, top_b, offset, offset_low, c, count):
    """Log ratios and depths of a block into the lanes; (how many states are far, how many not in both tables)."""
    far, zeros = 0, 0
    for j in range(count):
        e, depth, zero = plain_state(a[j], b[j], top_a, top_b, offset, offset_low)
        alone = zero > 0
        y, reach = (2.0 if alone else c * e), (0.0 if alone else abs(a[j]) + abs(b[j]))
        lanes[RATIO, j], lanes[ORDER, j], lanes[DEPTH, j] = e, y, (ABSENT if alone else -depth)
        lanes[REACH, j] = reach if reach > lanes[REACH, j] else lanes[REACH, j]
        far += 0 if (abs(e) <= 1.0 and abs(y) <= 1.0) else 1
        zeros += zero
    return far, zeros


@kernel
def set_coefficients(coefficients, c):
    """d_k for k up to ``DEGREE``."""
    power = c
    for k in range(2, DEGREE + 1):
        power *= c
        coefficients[0, k] = (power - c) / FACTORIAL[k]


@kernel
def near_term(d, e):
    """sum d_k e**k."""
    x = e * e
    even, odd = d[0, 20], d[0, 21]
    even, odd = d[0, 18] + x * even, d[0, 19] + x * odd
    even, odd = d[0, 16] + x * even, d[0, 17] + x * odd
    even, odd = d[0, 14] + x * even, d[0, 15] + x * odd
    even, odd = d[0, 12] + x * even, d[0, 13] + x * odd
    even, odd = d[0, 10] + x * even, d[0, 11] + x * odd
    even, odd = d[0, 8] + x * even, d[0, 9] + x * odd
    even, odd = d[0, 6] + x * even, d[0, 7] + x * odd
    even, odd = d[0, 4] + x * even, d[0, 5] + x * odd
    even, odd = d[0, 2] + x * even, d[0, 3] + x * odd
    return x * (even + e * odd)


@kernel
def near_block(lanes, d, w, sign, count):
    """w |h| of a block of near states."""
    for j in range(count):
        h = sign * near_term(d, lanes[RATIO, j])
        add_weight(lanes, SUM, j, w[j] * (h if h > 0.0 else 0.0))


@kernel
def mixed_block(lanes, d, v, w, s, c, sign, small, count):
    """w |h| of a block of any states, and the sizes of what it is made of; ``small``, a constant, says that |c| is."""
    for j in range(count):
        x = lanes[DEPTH, j] + lanes[ORDER, j]
        x = x if x > UNDERFLOW else UNDERFLOW
        lanes[POWER, j], lanes[REDUCED, j], lanes[REDUCED_LOW, j] = reduced(x if x < HIGHEST else HIGHEST)
    for j in range(count):
        lanes[REDUCED, j] = exp_fraction(lanes[REDUCED, j], lanes[REDUCED_LOW, j])
    for j in range(count):
        e, y, depth, q, outer = lanes[RATIO, j], lanes[ORDER, j], lanes[DEPTH, j], w[j], v[j] * s
        m = raised(lanes[REDUCED, j], lanes[POWER, j])
        is_near = abs(e) <= 1.0 and abs(y) <= 1.0
        power, size = m - q, m * (3.1 + abs(depth) + 2.0 * abs(y) + abs(depth + y)) + 4.1 * q
        if small:
            even, odd = phi_parts(y)
            power, size = (q * (y + (even + odd)), 19.4 * q * abs(y)) if abs(y) <= 1.0 else (power, size)
        term = sign * (q * near_term(d, e) if is_near else power - c * (outer - q))
        add_weight(lanes, SUM, j, term if term > 0.0 else 0.0)
        lanes[SIZES, j] += 0.0 if is_near else size + abs(c) * (8.1 * outer + 5.1 * q) + abs(term)
        lanes[MOVED, j] += 0.0 if is_near else m + 2.72 * q


@kernel
def any_block(lanes, d, a, b, v, w, top_a, top_b, offset, offset_low, s, c, sign, count):
    """The terms of a block, by the cheaper loop if all its states are near; how many states are not in both tables."""
    far, zeros = ratio_block(lanes, a, b, top_a, top_b, offset, offset_low, c, count)
    if far == 0:
        near_block(lanes, d, w, sign, count)
    elif abs(c) < SMALL_ORDER:
        mixed_block(lanes, d, v, w, s, c, sign, True, count)
    else:
        mixed_block(lanes, d, v, w, s, c, sign, False, count)
    return zeros


@kernel
def all_blocks(lanes, d, a, b, v, w, top_a, top_b, offset, offset_low, s, c, sign):
    """The terms of a chunk; how many states are not in both tables."""
    zeros = 0
    for start in range(0, a.size, LANES):
        x, y, p, q = a[start : start + LANES], b[start : start + LANES], v[start : start + LANES], w[start : start + LANES]
        if x.size == LANES:
            zeros += any_block(lanes, d, x, y, p, q, top_a, top_b, offset, offset_low, s, c, sign, LANES)
        else:
            zeros += any_block(lanes, d, x, y, p, q, top_a, top_b, offset, offset_low, s, c, sign, x.size)
    return zeros


@kernel
def close_terms(lanes, c, top_a, top_b, r, off, rest, n):
    """(log(1 + H), bound) from the lanes; the bound is INF unless H is between -1/2 and 1, and its far terms accurate enough."""
    high, low = halve(lanes, SUM)
    size, reach, curve = (high + low) / (1.0 + rest), 0.0, c * (c - 1.0)
    for j in range(LANES):
        reach = lanes[REACH, j] if lanes[REACH, j] > reach else reach
    delta = 16.0 * U * U * (reach + abs(top_a) + abs(top_b) + abs(r))
    bound = size * (TERM_ERROR + sum_error(n) + chain_error(n) + 3.0 * U + 1.1 * abs(c) * off)
    far = (U * fold(lanes, SIZES) + abs(c) * delta * fold(lanes, MOVED)) / (1.0 + rest)
    bound += far
    bound += 1.1 * abs(c) * (1.0 + abs(c)) * off * off + 2.8 * math.sqrt(5.5 * abs(curve) * size) * delta
    bound = 1.01 * bound + 8.0 * n * ETA * (1.0 + abs(c)) * (1.0 + exp(-r))
    moment = size if curve > 0.0 else -size
    if not (-0.5 < moment < 1.0 and bound < 0.1 and far <= GOOD * size):
        return np.nan, INF
    value = log1p(moment)
    return value, 1.01 * (bound / (1.0 + moment - bound) + 2.0 * U * abs(value))


@kernel
def moment_of_terms(a, b, v, w, top_a, rest_a, top_b, rest_b, c):
    """(log sum q**(1 - c) p**c, bound) of a row, p in a and q in b; ``v`` and ``w`` hold their weights, of a long row scratch for a chunk."""
    n, log_a, log_b = a.size, log1p(rest_a), log1p(rest_b)
    r = log_a - log_b
    offset, offset_low = plain_offset(top_a, top_b, r)
    s, sign, zeros, lanes, spare, coefficients = exp(-r), (1.0 if c * (c - 1.0) > 0.0 else -1.0), 0, tiles(), tiles(), tiles()
    clear(lanes, 0, REACH + 1)
    set_coefficients(coefficients, c)
    for first in range(0, n, CHUNK):
        last = min(first + CHUNK, n)
        x, y, p, q = a[first:last], b[first:last], v[: last - first], w[: last - first]
        if n > CHUNK:
            chunk_weights(x, top_a, True, p, spare)
            chunk_weights(y, top_b, True, q, spare)
        zeros += all_blocks(lanes, coefficients, x, y, p, q, top_a, top_b, offset, offset_low, s, c, sign)
    if c < 0.0 and zeros > 0 and one_sided(a, b)[0] > 0:
        return INF, 0.0
    return close_terms(lanes, c, top_a, top_b, r, pivot_off(rest_a, log_a, rest_b, log_b, r, n), rest_b, n)
