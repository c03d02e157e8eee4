"""The Rényi divergence D_alpha(q || p) of any order: a logarithm of sum q**(1-c) p**c = 1 + sum q h.

With x = expm1(e) and e known to d (see ``pivoted``),

    h(e) = expm1(c e) - c x = phi(c e) - c phi(e)          h' = c (exp(c e) - exp(e))

because sum q x = 0 exactly; h has one sign, so log1p of the sum keeps full relative precision for nearly equal distributions.
Orders alpha >= 1/2 take c = 1 - alpha, which is exact in floating point; orders below exchange p and q, where the same sum has
c = alpha, exact again (1 - (1 - alpha) is not).
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.pivoted import row_log_sum, row_pivot, state_ratio
from elbo_exact.kernels.reduce import WEIGHT_ERROR, sum_error
from elbo_exact.kernels.scalar import exp, exp_parts, expm1, log1p, phi, scale, two_sum, weight
from elbo_exact.kernels.terms import guarded_weight, scaled_product
from elbo_exact.kernels.tree import ETA, INF, U, chain_error

__all__ = ["row_renyi"]


@kernel
def scaled_exp(mantissa, exponent, y):
    """w exp(y) where exp(y) alone may leave the range; +inf, for want of a better answer, beyond y = 1400."""
    if not y < 1400.0:
        return INF
    factor, power = exp_parts(y)
    return scale(mantissa * factor, exponent + power)


@kernel
def moment_term(c, e, d, off, depth, outer, w, mantissa, exponent):
    """(w h(e), bound); h has the sign of c (c - 1). ``outer`` = v s = w exp(e) serves e > 1, where exp(e) may overflow.

    ``depth`` = b - top: where w exp(c e) lies below exp(-800) beyond any rounding of its exponent, it is nothing.
    """
    y = c * e
    if e > 1.0 and depth + y < -800.0 - 1e-3 * abs(depth) and w == 0.0:
        return -c * outer, abs(c) * outer * (WEIGHT_ERROR + 10.0 * U + 1.01 * off) + ETA
    if not abs(c) * d < 1e-3 or (y > 690.0 and w == 0.0):
        return INF, INF
    if e <= 1.0 and y <= 690.0:
        near = abs(e) <= 1.0 and abs(y) <= 1.0
        h = phi(y) - c * phi(e) if near else expm1(y) - c * expm1(e)
        size = phi(y) + abs(c) * phi(e) if near else abs(expm1(y)) + abs(c) * abs(expm1(e))
        slope = abs(c) * abs(expm1(y) - expm1(e)) + abs(c) * (1.0 + abs(c)) * (exp(y) + exp(e)) * d
        rounded = abs(y) * U * exp(max(y, 0.0))  # of y itself
        term = scaled_product(mantissa, exponent, w, h)
        spread = scaled_product(mantissa, exponent, w, size * 12.0 * U + slope * d + rounded)
        return term, abs(term) * (WEIGHT_ERROR + 2.0 * U) + spread
    raised = scaled_exp(mantissa, exponent, y)
    term = (scaled_product(mantissa, exponent, w, expm1(y)) if y <= 690.0 else raised - w) - c * (outer - w)
    relative = WEIGHT_ERROR + 10.0 * U
    return term, (
        (raised + w) * relative
        + 1.01 * raised * (abs(c) * d + U * abs(y))
        + abs(c) * (outer * (relative + 1.01 * off) + w * relative)
        + U * abs(term)
    )


@kernel
def row_log_moment(a, b, c, weights, partials):
    """(log sum q**(1-c) p**c, bound) for c <= 1/2: not above 0 for c >= 0, not below 0 for c < 0."""
    n = a.size
    top_a, rest_a = row_log_sum(a, weights, partials)
    top_b, rest_b = row_log_sum(b, weights, partials)
    if rest_a < 0.0 or rest_b < 0.0:
        return np.nan, INF
    r, t, off = row_pivot(a, b, top_a, rest_a, top_b, rest_b)
    s = exp(-r) * exp(-t)
    total, low, bound, shared = 0.0, 0.0, 0.0, False
    for z in range(n):
        mantissa, exponent, w = guarded_weight(b[z], top_b)
        outer = guarded_weight(a[z], top_a)[2] * s
        missed = b[z] == -INF or (b[z] - top_b == -INF and a[z] - top_a > -INF)
        if missed:
            x, x_bound = -c * outer, abs(c) * outer * (WEIGHT_ERROR + 10.0 * U + 1.01 * off)
        elif a[z] == -INF:
            if c < 0.0:
                return INF, 0.0
            x, x_bound = (c - 1.0) * w, w * (WEIGHT_ERROR + 4.0 * U)
        else:
            e, _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
            if not abs(e) < INF:  # a - max a leaves the range: the state has no mass under p
                if c < 0.0:
                    return INF, INF
                x, x_bound = ((c - 1.0) * w, w * (WEIGHT_ERROR + 4.0 * U)) if c > 1e-300 else (0.0, 0.0 if c == 0.0 else INF)
            else:
                x, x_bound = moment_term(c, e, U * abs(e) + delta + off, off, b[z] - top_b, outer, w, mantissa, exponent)
        shared = shared or (a[z] > -INF and b[z] > -INF)
        total, error = two_sum(total, x)
        low += error
        bound += x_bound
    if not shared:
        return -INF, 0.0
    value = (total + low) / (1.0 + rest_b)
    bound = (bound + 4.0 * n * (1.0 + s) * (1.0 + abs(c)) * ETA) / (1.0 + rest_b)
    bound = 1.01 * (bound + abs(value) * (sum_error(n) + chain_error(n) + 6.0 * U) + 4.0 * ETA)
    if -0.5 < value < 1.0 and bound < 0.1:
        value, bound = log1p(value), bound / (1.0 + value - bound)
        bound = 1.01 * (bound + 2.0 * U * abs(value))
    else:
        value, bound = far_log_moment(a, b, c, top_a, top_b, rest_b, r, t, off)
    return (min(value, 0.0) if c >= 0.0 else max(value, 0.0)), bound


@kernel
def far_log_moment(a, b, c, top_a, top_b, rest_b, r, t, off):
    """The same for distributions far apart: log sum exp(x) - log W with x = (b - top) + c e, each known to some ``error``.

    The logarithm moves by no more than the largest error of a state that could count, and by n u for the plain sum, 3.1u for
    its weights, and 2u + 9.3u R/(1+R) <= 11.3 log W for log W; a state 800 below the top counts for less than exp(-800).
    """
    top, beyond = -INF, -INF
    for z in range(a.size):
        if a[z] > -INF and b[z] > -INF:
            e, _, _ = state_ratio(a[z], b[z], top_a, top_b, r, t)
            x = (b[z] - top_b) + c * e
            if not abs(e) < INF:
                half = (1.0 - c) * (0.5 * b[z] - 0.5 * top_b) + c * (0.5 * a[z] - 0.5 * top_a)
                beyond = half if half > beyond or half != half else beyond
            elif x > top:
                top = x
    if not beyond < 0.5 * top - 1e4 - 1e-9 * abs(top):  # a state of unknown size could count
        return (-INF if c >= 0.0 else INF), INF
    total, largest_error = 0.0, 0.0
    for z in range(a.size):
        if a[z] > -INF and b[z] > -INF:
            y = b[z] - top_b
            e, _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
            x = y + c * e
            error = 2.0 * U * abs(y) + U * abs(x) + abs(c) * (3.0 * U * abs(e) + delta + off)
            if abs(e) < INF and x + error > top - 800.0:
                total += weight(x, top)
                largest_error = error if error > largest_error else largest_error
    log_w, spread = log1p(rest_b), log1p(total - 1.0)
    value = (top + spread) - log_w
    bound = largest_error + U * (abs(top) + abs(value) + 12.0 * log_w + 8.0 * spread + (a.size + 8.0))
    bound = 1.01 * bound
    return (value, bound) if bound < INF and abs(value) < INF else ((-INF if c >= 0.0 else INF), INF)


@kernel
def row_largest_ratio(a, b, weights, partials):
    """(value, bound) of D_inf(q || p) = log max q/p: minus the smallest e, and the least that any e - d could be."""
    top_a, rest_a = row_log_sum(a, weights, partials)
    top_b, rest_b = row_log_sum(b, weights, partials)
    if rest_a < 0.0:
        return np.nan, INF
    r, t, off = row_pivot(a, b, top_a, rest_a, top_b, rest_b)
    lowest, own_error, reach = INF, 0.0, INF
    for z in range(a.size):
        if b[z] == -INF:
            continue
        if a[z] == -INF:
            return INF, 0.0
        e, _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
        if b[z] - top_b == -INF and a[z] - top_a > -INF:
            continue  # q is below p beyond the range of doubles
        if not abs(e) < INF:
            return INF, INF
        d = U * abs(e) + delta + off
        if e < lowest:
            lowest, own_error = e, d
        reach = min(reach, e - d)
    bound = 1.01 * max(own_error, lowest - reach) + 2.0 * U * abs(lowest)
    return max(0.0, -lowest), (bound if bound >= 0.0 else INF)


@kernel
def row_renyi(a, b, alpha, weights, partials):
    """(value, bound) of D_alpha(q || p) for any order but 1: infinities included; orders below 1/2 by skew symmetry."""
    if alpha == INF:
        return row_largest_ratio(a, b, weights, partials)
    if alpha == -INF:
        value, bound = row_largest_ratio(b, a, weights, partials)
        return 0.0 - value, bound
    direct = alpha >= 0.5
    value, bound = row_log_moment(a if direct else b, b if direct else a, 1.0 - alpha if direct else alpha, weights, partials)
    value = value / (alpha - 1.0) + 0.0  # + 0.0 turns -0.0 into 0.0
    if bound > 0.0:
        bound = 1.01 * bound / abs(alpha - 1.0) + 4.0 * U * abs(value) + ETA
    return value, (bound if bound >= 0.0 else INF)
