"""State by state around the pivot: what the kernels of ``divergences`` and ``renyi`` share, the gradient, and cross entropy.

Every log ratio e* = log(p/q) is known as e with |e - e*| <= d = u |e| + delta + off, where ``off`` bounds the error of the pivot.
These kernels walk a row state by state; they are for insight, not for inner loops.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import OUT2, TABLE, kernel, void
from elbo_exact.kernels.reduce import WEIGHT_ERROR, merge_log_sums, row_log_sums, sum_error
from elbo_exact.kernels.scalar import exp, log1p, two_sum
from elbo_exact.kernels.terms import guarded_mass, guarded_weight, log_ratio, scaled_product
from elbo_exact.kernels.tree import CHUNK, ETA, INF, U, chain_error

__all__ = ["cross_entropy_rows", "gradient_rows", "row_log_sum", "row_pivot", "scratch_of", "state_ratio", "table_row"]


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
    row_log_sums(row, 0, partials.shape[0], True, weights, partials)
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


@kernel(void(TABLE, TABLE, TABLE, OUT2, OUT2))
def gradient_rows(log_joint, log_q, results, out, bounds):
    """g = q (e + gap) of every row, from the gaps and their bounds in columns 4 and 5 of ``results``, and its bounds.

    q is good to the 3.1u of a weight and the error of the sum, the product and the quotient round by u each, scaling rounds a
    subnormal. e + gap has the errors of the log ratio, the pivot and the gap, and its two additions round. Nothing cancels but
    e and gap, which is the gradient itself.
    """
    n = log_joint.shape[1]
    weights, partials = scratch_of(n)
    relative = WEIGHT_ERROR + sum_error(n) + 3.0 * U
    for i in range(out.shape[0]):
        a, b, gap = table_row(log_joint, i), table_row(log_q, i), results[i, 4]
        top_a, rest_a = row_log_sum(a, weights, partials)
        top_b, rest_b = row_log_sum(b, weights, partials)
        if not gap < INF:
            out[i, :], bounds[i, :] = np.nan, INF
            continue
        r, t, off = row_pivot(a, b, top_a, rest_a, top_b, rest_b)
        for z in range(b.size):
            mantissa, exponent, w = guarded_weight(b[z], top_b)
            if w == 0.0 and exponent == 0:
                out[i, z], bounds[i, z] = 0.0, 0.0 if b[z] == -INF else 4.0 * ETA
                continue
            e, e_low, delta = state_ratio(a[z], b[z], top_a, top_b, r, t)
            total = e + (gap + e_low)
            error = delta + off + results[i, 5] + U * (abs(total) + gap + abs(e_low))
            out[i, z] = scaled_product(mantissa, exponent, w, total) / (1.0 + rest_b)
            share = scaled_product(mantissa, exponent, w, error) / (1.0 + rest_b)
            bounds[i, z] = 1.01 * (abs(out[i, z]) * relative + share + 4.0 * ETA) if error < INF else INF


SCALED_DOWN = 2.0**-60


@kernel
def cross_sum(a, b, top_b, factor):
    """(-sum w a, sum |w a|, whether a possible state is impossible) of a times a power of two."""
    total, low, size, infinite = 0.0, 0.0, 0.0, False
    for z in range(b.size):
        if b[z] == -INF:
            continue
        infinite = infinite or a[z] == -INF
        mantissa, exponent, w = guarded_weight(b[z], top_b)
        if w == 0.0 and exponent == 0:
            continue
        x = -scaled_product(mantissa, exponent, w, a[z] * factor)
        total, error = two_sum(total, x)
        low += error
        size += abs(x)
    return total + low, size, infinite


@kernel(void(TABLE, TABLE, OUT2))
def cross_entropy_rows(log_p, log_q, out):
    """-E_q[log p] of the stored table and its bound; +inf where q has mass on an impossible state."""
    n = log_p.shape[1]
    weights, partials = scratch_of(n)
    for i in range(out.shape[0]):
        a, b = table_row(log_p, i), table_row(log_q, i)
        top_b, rest_b = row_log_sum(b, weights, partials)
        factor = 1.0
        total, size, infinite = cross_sum(a, b, top_b, factor)
        if not size < INF and not infinite:  # the sum leaves the range, the mean does not
            factor = SCALED_DOWN
            total, size, infinite = cross_sum(a, b, top_b, factor)
        value = total / (1.0 + rest_b) / factor
        relative = WEIGHT_ERROR + sum_error(n) + 6.0 * U + 2.0 * chain_error(n)
        bound = 1.01 * (size / (1.0 + rest_b) * relative / factor + (3.0 * n + 4.0) * ETA / factor)
        out[i, 0], out[i, 1] = value, bound
        if infinite:
            out[i, 0], out[i, 1] = INF, 0.0
        elif not abs(value) < INF:
            out[i, 0], out[i, 1] = np.nan, INF
