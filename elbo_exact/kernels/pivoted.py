"""State by state around the pivot: the gradient of the ELBO, cross entropy, and the f-divergences other than KL.

All divergences are averages over q of a function f of the log ratio e* = log(p/q), and every e* is known as e with
|e - e*| <= d = u |e| + delta + off, where ``off`` bounds the error of the pivot. So

    |sum q f(e) - sum q f(e*)| <= sum q |f'(e)| d (1 + O(d)),

and the bound of a term is |term| (weight error + a few u) + w |f'(e)| d. The functions, with x = expm1(e) and c = 1 - alpha:

    chi-square          x**2                                       f' = 2 x exp(e)
    total variation     |x| / 2                                    f' = exp(e) / 2
    squared Hellinger   expm1(e/2)**2 / 2                          f' = expm1(e/2) exp(e/2) / 2
    Jensen-Shannon      (1 + exp(e)) g(e/2) / 2                    |f'| <= exp(e) |e| / 2,     g(y) = y tanh y - log cosh y
    Renyi               h(e) = expm1(c e) - c x = phi(c e) - c phi(e)   f' = c (exp(c e) - exp(e))

sum q x = 0 exactly, which is what lets h replace expm1(c e): it has one sign, so log1p(sum q h)/(alpha - 1) keeps full relative
precision for nearly equal distributions. These kernels walk a row state by state; they are for insight, not for inner loops.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import FLOAT, INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.reduce import CHUNK, ETA, INF, WEIGHT_ERROR, U, chain_error, merge_log_sums, row_log_sums, sum_error
from elbo_exact.kernels.scalar import NO_WEIGHT, exp, exp_parts, expm1, log1p, phi, scale, two_sum, weight
from elbo_exact.kernels.terms import guarded_mass, guarded_weight, log_ratio, scaled_product

__all__ = ["cross_entropy_rows", "divergence_rows", "gradient_rows"]

CHI2, TOTAL_VARIATION, HELLINGER, JENSEN_SHANNON, RENYI = range(5)
LOG_2 = 0.6931471805599453


@kernel
def table_row(table, i):
    """Row i; a table of one row serves every row of the other."""
    return table[i if table.shape[0] > 1 else 0]


@kernel
def scratch_of(n):
    """Space for the weights of a chunk and the partial sums of a row."""
    return np.empty(min(CHUNK, n)), np.empty(((n + CHUNK - 1) // CHUNK, 5))


@kernel
def row_log_sum(row, weights, partials):
    """(top, R) of a row."""
    row_log_sums(row, 0, partials.shape[0], weights, partials)
    top, rest, _ = merge_log_sums(partials)
    return top, rest


@kernel
def state_ratio(a, b, top_a, top_b, r, t):
    """(e, e_low, delta) of a state."""
    x, x_low = two_sum(a, -top_a)
    y, y_low = two_sum(b, -top_b)
    return log_ratio(x, x_low, y, y_low, r, t)


@kernel
def row_pivot(a, b, top_a, rest_a, top_b, rest_b):
    """(r, t, off): the pivot log A - log W as r + t, with its remaining error."""
    r = log1p(rest_a) - log1p(rest_b)
    s, n = exp(-r), a.size
    mass, low, bound = 0.0, 0.0, 0.0
    for z in range(n):
        v, w = guarded_weight(a[z], top_a)[2], guarded_weight(b[z], top_b)[2]
        e, e_low, delta = state_ratio(a[z], b[z], top_a, top_b, r, 0.0)
        x, x_bound = guarded_mass(a[z], b[z], e, e_low, w, v, s, delta, 2.0 * U, WEIGHT_ERROR + chain_error(n))
        mass, error = two_sum(mass, x)
        low += error
        bound += x_bound
    total = 1.0 + rest_b
    mass = (mass + low) / total
    bound = bound / total + abs(mass) * (sum_error(n) + 3.0 * U) + n * (3.0 + s) * ETA
    if not (abs(mass) < 1e-3 and bound < 1e-3):
        return r, 0.0, INF
    t = log1p(mass)
    return r, t, 1.02 * bound + 2.0 * U * abs(t)


@kernel(void(TABLE, TABLE, TABLE, OUT2))
def gradient_rows(log_joint, log_q, results, out):
    """g = q (e + gap) of every row, from the gaps in column 4 of ``results``."""
    weights, partials = scratch_of(log_joint.shape[1])
    for i in range(out.shape[0]):
        a, b, gap = table_row(log_joint, i), table_row(log_q, i), results[i, 4]
        top_a, rest_a = row_log_sum(a, weights, partials)
        top_b, rest_b = row_log_sum(b, weights, partials)
        if not gap < INF:
            out[i, :] = np.nan
            continue
        r, t, _ = row_pivot(a, b, top_a, rest_a, top_b, rest_b)
        for z in range(b.size):
            mantissa, exponent, w = guarded_weight(b[z], top_b)
            e, e_low, _ = state_ratio(a[z], b[z], top_a, top_b, r, t)
            out[i, z] = scaled_product(mantissa, exponent, w, e + (gap + e_low)) / (1.0 + rest_b) if w > 0.0 else 0.0


@kernel(void(TABLE, TABLE, OUT2))
def cross_entropy_rows(log_p, log_q, out):
    """-E_q[log p] of the stored table and its bound; +inf where q has mass on an impossible state."""
    n = log_p.shape[1]
    weights, partials = scratch_of(n)
    for i in range(out.shape[0]):
        a, b = table_row(log_p, i), table_row(log_q, i)
        top_b, rest_b = row_log_sum(b, weights, partials)
        total, low, size, infinite = 0.0, 0.0, 0.0, False
        for z in range(n):
            if b[z] == -INF:
                continue
            infinite = infinite or a[z] == -INF
            mantissa, exponent, w = guarded_weight(b[z], top_b)
            if w == 0.0 and exponent == 0:
                continue
            x = -scaled_product(mantissa, exponent, w, a[z])
            total, error = two_sum(total, x)
            low += error
            size += abs(x)
        value = (total + low) / (1.0 + rest_b)
        relative = WEIGHT_ERROR + sum_error(n) + 6.0 * U + 2.0 * chain_error(n)
        bound = 1.01 * (size / (1.0 + rest_b) * relative + (3.0 * n + 4.0) * ETA)
        out[i, 0], out[i, 1] = value, bound
        if infinite:
            out[i, 0], out[i, 1] = INF, 0.0
        elif not abs(value) < INF:
            out[i, 0], out[i, 1] = np.nan, INF


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
            x = expm1(e)
            term = scaled_product(mantissa, exponent, w, x * x)
            return term, term * (WEIGHT_ERROR + 12.0 * U) + 2.0 * w * abs(x) * exp(e) * d
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
            x = expm1(0.5 * e)
            term = 0.5 * scaled_product(mantissa, exponent, w, x * x)
            return term, term * (WEIGHT_ERROR + 12.0 * U) + 0.5 * w * abs(x) * exp(0.5 * e) * d
        x = expm1(-0.5 * e)
        term = 0.5 * outer * (x * x)
        return term, term * (WEIGHT_ERROR + 20.0 * U) + 0.5 * outer * d
    y = 0.5 * abs(e)
    term = 0.5 * (w + outer) * log_cosh_gap(y)
    return term, term * (WEIGHT_ERROR + 40.0 * U) + 0.5 * outer * min(abs(e), 1.0) * d


@kernel
def renyi_term(c, e, d, w, mantissa, exponent):
    """(h(e), bound) weighted by w; h has the sign of c (c - 1)."""
    if c * e > 690.0:
        return INF, INF
    near = abs(e) <= 1.0 and abs(c * e) <= 1.0
    h = phi(c * e) - c * phi(e) if near else expm1(c * e) - c * expm1(e)
    size = phi(c * e) + abs(c) * phi(e) if near else abs(expm1(c * e)) + abs(c) * abs(expm1(e))
    term = scaled_product(mantissa, exponent, w, h)
    slope = abs(c) * abs(expm1(c * e) - expm1(e)) + abs(c * e) * U * exp(c * e)
    return term, abs(term) * (WEIGHT_ERROR + 2.0 * U) + w * (size * 12.0 * U + slope * d)


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
            x, x_bound = (INF if kind == CHI2 else alone * v * s), v * s * (WEIGHT_ERROR + 10.0 * U)
        elif not b[z] - top_b >= NO_WEIGHT:
            x, x_bound = (
                (scale_exp_pair(a[z], top_a, b[z], top_b, s) if kind == CHI2 else alone * v * s),
                v * s * (WEIGHT_ERROR + 10.0 * U),
            )
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


@kernel
def scale_exp_pair(a, top_a, b, top_b, s):
    """v**2 s**2 / w where w has no weight at all: finite only if v is as small."""
    quarter = 2.0 * (0.25 * a - 0.25 * top_a) - (0.25 * b - 0.25 * top_b)  # a difference of doubles may overflow
    return INF if quarter > -350.0 else 0.0


@kernel
def row_renyi(a, b, alpha, weights, partials):
    """(value, bound) of D_alpha(q || p) for alpha >= 1/2 other than 1, inf included."""
    n, c = a.size, 1.0 - alpha
    top_a, rest_a = row_log_sum(a, weights, partials)
    top_b, rest_b = row_log_sum(b, weights, partials)
    if rest_a < 0.0:
        return np.nan, INF
    r, t, off = row_pivot(a, b, top_a, rest_a, top_b, rest_b)
    s = exp(-r) * exp(-t)
    total, low, bound, shared, lowest, lowest_bound = 0.0, 0.0, 0.0, False, INF, 0.0
    for z in range(n):
        mantissa, exponent, w = guarded_weight(b[z], top_b)
        v = guarded_weight(a[z], top_a)[2]
        if b[z] == -INF:
            x, x_bound = -c * v * s, abs(c) * v * s * (WEIGHT_ERROR + 10.0 * U + off)
        elif a[z] == -INF:
            if alpha > 1.0:
                return INF, 0.0
            x, x_bound = -alpha * w, alpha * w * (WEIGHT_ERROR + 4.0 * U)
        else:
            shared = True
            e, _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
            if not abs(e) < INF and alpha > 1.0:
                return INF, INF
            if not abs(e) < INF:  # a - max a overflows: the state has no mass under p
                e, delta = -1500.0, 0.0
            d = U * abs(e) + delta + off
            if e < lowest:
                lowest, lowest_bound = e, d
            x, x_bound = (0.0, 0.0) if alpha == INF else renyi_term(c, e, d, w, mantissa, exponent)
        total, error = two_sum(total, x)
        low += error
        bound += x_bound
    if alpha == INF:
        return max(0.0, -lowest), lowest_bound
    if not shared:
        return INF, 0.0
    value = (total + low) / (1.0 + rest_b)
    relative = sum_error(n) + chain_error(n) + 6.0 * U
    bound = 1.01 * ((bound + 4.0 * n * (1.0 + s) * ETA) / (1.0 + rest_b) + abs(value) * relative)
    if -0.5 < value < 1.0 and bound < 0.1:
        return max(0.0, log1p(value) / (alpha - 1.0)), 1.01 * (bound / (1.0 + value) + 4.0 * U * abs(log1p(value))) / abs(
            alpha - 1.0
        ) + 4.0 * ETA
    return log_sum_renyi(a, b, c, top_a, top_b, rest_b, r, t, off)


@kernel
def log_sum_renyi(a, b, c, top_a, top_b, rest_b, r, t, off):
    """The same for distributions far apart: log sum exp((b - top) + c e) - log W, over -c."""
    top, largest_error = -INF, 0.0
    for z in range(a.size):
        if a[z] > -INF and b[z] > -INF:
            y = b[z] - top_b
            e, _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
            x = y + c * e
            if x > top:
                top = x
    total = 0.0
    for z in range(a.size):
        if a[z] > -INF and b[z] > -INF:
            y = b[z] - top_b
            e, _, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
            x = y + c * e
            if x > top - 800.0:
                total += weight(x, top)
                error = U * (2.0 * abs(y) + abs(x)) + abs(c) * (3.0 * U * abs(e) + delta + off)
                largest_error = error if error > largest_error else largest_error
    log_w = log1p(rest_b)
    value = (top + log1p(total - 1.0) - log_w) / -c
    bound = largest_error + U * (abs(top) + 8.0 * abs(log_w) + 8.0 * log1p(total) + (a.size + 8.0))
    bound = 1.01 * bound / abs(c) + 2.0 * U * abs(value)
    return (max(0.0, value), bound) if bound < INF and value < INF else (INF, INF)


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
