"""The f-divergences other than KL, as averages over q of a function f of the log ratio e* = log(p/q) around the pivot.

With e known to d (see ``pivoted``),

    |sum q f(e) - sum q f(e*)| <= sum q (|f'(e)| d + |f''| d**2 / 2 + ...),

and the bound of a term is |term| (weight error + a few u) + w |f'(e)| d + its second order, which is what is left of it for
nearly equal distributions. The functions, with x = expm1(e):

    chi-square          x**2                                       f' = 2 x exp(e)
    total variation     |x| / 2                                    f' = exp(e) / 2
    squared Hellinger   expm1(e/2)**2 / 2                          f' = expm1(e/2) exp(e/2) / 2
    Jensen-Shannon      (1 + exp(e)) g(e/2) / 2                    f' = exp(e) log(2 exp(e)/(1 + exp(e))) / 2
                        with g(y) = y tanh y - log cosh y
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import FLOAT, INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.pivoted import row_log_sum, row_pivot, scratch_of, state_ratio, table_row
from elbo_exact.kernels.reduce import WEIGHT_ERROR, sum_error
from elbo_exact.kernels.renyi import row_renyi
from elbo_exact.kernels.scalar import NO_WEIGHT, exp, exp_parts, expm1, log1p, phi, scale, two_sum
from elbo_exact.kernels.terms import guarded_weight, scaled_product
from elbo_exact.kernels.tree import ETA, INF, U, chain_error

__all__ = ["CHI2", "HELLINGER", "JENSEN_SHANNON", "RENYI", "TOTAL_VARIATION", "divergence_rows"]

CHI2, TOTAL_VARIATION, HELLINGER, JENSEN_SHANNON, RENYI = range(5)
LOG_2 = 0.6931471805599453


@kernel
def log_cosh_gap(y):
    """g(y) = y tanh y - log cosh y for y >= 0: rises from y**2/2 to log 2."""
    if y > 20.0:
        return LOG_2 - (1.0 + 2.0 * y) * exp(-2.0 * y)
    x = expm1(2.0 * y)
    return y * (x / (x + 2.0)) - log1p(0.5 * (phi(y) + phi(-y)))  # cosh y - 1 without cancellation


@kernel
def both_sided_term(kind, e, d, v, w, s, mantissa, exponent):
    """(term, bound) of a state that both distributions allow, for the divergences without a parameter."""
    outer = v * s  # w exp(e), which neither over- nor underflows where it matters
    if kind == CHI2:
        if e <= 1.0:
            x, moved = expm1(e), 1.01 * exp(e) * d  # (x + moved)**2 - x**2
            term = scaled_product(mantissa, exponent, w, x * x)
            return term, term * (WEIGHT_ERROR + 12.0 * U) + w * moved * (2.0 * abs(x) + moved)
        x = expm1(-e)
        factor_mantissa, factor_exponent = exp_parts(min(e, 1500.0))
        term = scale(x * x * factor_mantissa * factor_mantissa * mantissa, exponent + factor_exponent + factor_exponent)
        term = term if e < 1500.0 else INF
        return term, term * (WEIGHT_ERROR + 24.0 * U + 3.3 * d)
    if kind == TOTAL_VARIATION:
        if e <= 1.0:
            term = 0.5 * scaled_product(mantissa, exponent, w, abs(expm1(e)))
            return term, term * (WEIGHT_ERROR + 8.0 * U) + 0.5 * w * exp(e) * d
        term = -0.5 * outer * expm1(-e)
        return term, term * (WEIGHT_ERROR + 14.0 * U) + 0.5 * outer * d
    if kind == HELLINGER:
        if e <= 1.0:
            x, moved = expm1(0.5 * e), 0.51 * exp(0.5 * e) * d
            term = 0.5 * scaled_product(mantissa, exponent, w, x * x)
            return term, term * (WEIGHT_ERROR + 12.0 * U) + 0.5 * w * moved * (2.0 * abs(x) + moved)
        x = expm1(-0.5 * e)
        term = 0.5 * outer * (x * x)
        return term, term * (WEIGHT_ERROR + 20.0 * U) + 0.5 * outer * d
    y = 0.5 * abs(e)
    term = 0.5 * (w + outer) * log_cosh_gap(y)
    slope = -e if e < 0.0 else min(e, 1.0)
    return term, term * (WEIGHT_ERROR + 40.0 * U) + 0.5 * outer * (slope + d) * d


@kernel
def tiny_q_term(a, top_a, b, top_b, s, off):
    """(v**2 s**2 / w, bound) where w has no weight at all: finite only if v is as small; a - top and b - top round once each."""
    x, y = a - top_a, b - top_b
    exponent = (x - y) + x
    if not exponent < 740.0:  # also where both differences leave the range
        return INF, INF
    if exponent < -800.0:
        return 0.0, ETA
    mantissa, power = exp_parts(exponent)
    term = scale(mantissa, power) * (s * s)
    return term, term * (24.0 * U + U * (5.0 * abs(x) + 3.0 * abs(y)) + 2.1 * off)


@kernel
def finish_divergence(kind, value, bound):
    """The distance that users know from its sum: Hellinger is the square root; the largest values are theorems."""
    if kind == TOTAL_VARIATION:
        return min(value, 1.0), bound
    if kind == JENSEN_SHANNON:
        return min(value, LOG_2), bound
    if kind == HELLINGER and value > 0.0:
        root = min(1.0, np.sqrt(value))
        return root, 1.01 * min(bound / root, np.sqrt(bound)) + U * root
    if kind == HELLINGER:
        return 0.0, np.sqrt(bound) if bound > 0.0 else 0.0
    return value, bound


@kernel
def row_divergence(a, b, kind, weights, partials):
    """(value, bound) of a divergence without a parameter."""
    n = a.size
    top_a, rest_a = row_log_sum(a, weights, partials)
    top_b, rest_b = row_log_sum(b, weights, partials)
    if rest_a < 0.0:
        return np.nan, INF
    r, t, off = row_pivot(a, b, top_a, rest_a, top_b, rest_b)
    s = exp(-r) * exp(-t)
    total, low, bound = 0.0, 0.0, 0.0
    for z in range(n):
        if a[z] == -INF and b[z] == -INF:
            continue
        v, (mantissa, exponent, w) = guarded_weight(a[z], top_a)[2], guarded_weight(b[z], top_b)
        alone = LOG_2 / 2.0 if kind == JENSEN_SHANNON else (1.0 if kind == CHI2 else 0.5)
        if a[z] == -INF:
            x, x_bound = alone * w, w * (WEIGHT_ERROR + 2.0 * U)
        elif b[z] == -INF:
            x, x_bound = (INF if kind == CHI2 else alone * v * s), v * s * (WEIGHT_ERROR + 10.0 * U + 1.01 * off)
        elif not b[z] - top_b >= NO_WEIGHT:
            x, x_bound = alone * v * s, v * s * (WEIGHT_ERROR + 10.0 * U + 1.01 * off)
            if kind == CHI2:
                x, x_bound = tiny_q_term(a[z], top_a, b[z], top_b, s, off)
        else:
            e, _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
            if not abs(e) < INF:
                e, delta = -1500.0, 0.0  # a - max a overflows: the state has no mass under p
            x, x_bound = both_sided_term(kind, e, U * abs(e) + delta + off, v, w, s, mantissa, exponent)
        if not x < INF:
            return INF, (0.0 if b[z] == -INF else INF)
        total, error = two_sum(total, x)
        low += error
        bound += x_bound
    value = max(0.0, (total + low) / (1.0 + rest_b))
    bound = (bound + 4.0 * n * (1.0 + s) * ETA) / (1.0 + rest_b)
    bound = 1.01 * (bound + value * (sum_error(n) + chain_error(n) + 9.0 * U) + 4.0 * ETA)
    return finish_divergence(kind, value, bound if bound >= 0.0 else INF)


@kernel(void(TABLE, TABLE, INT, FLOAT, OUT2))
def divergence_rows(log_p, log_q, kind, alpha, out):
    """Value and bound of one divergence of every row into out[:, 0] and out[:, 1]."""
    weights, partials = scratch_of(log_p.shape[1])
    for i in range(out.shape[0]):
        a, b = table_row(log_p, i), table_row(log_q, i)
        if kind == RENYI:
            out[i, 0], out[i, 1] = row_renyi(a, b, alpha, weights, partials)
        else:
            out[i, 0], out[i, 1] = row_divergence(a, b, kind, weights, partials)
