"""Variance of the log of a mean of K ratios where it is small beside the square of the gap.

The integral of ``laplace`` compares log m with log 1, and subtracts the square of its mean, the gap. Compared with any other constant c,

    A = int phi**K - exp(-K s c) dx = -E log(m/c),
    Var = -2 int v (phi**K - exp(-K s c)) dx + 2 gamma A - A**2,     v = -(x + log K + log c),

and nothing cancels where c is what log m nearly always is: the ratio of the state that holds most of q, or exp(-gap) if there is none.
With d = s (r - c) the difference is exp(-K s c) expm1(K Lam), Lam = log1p(E_q expm1(-d)), whose terms keep their digits. The variance does
not change if all e move together, so that errors of e count relative to that of c.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.laplace_nodes import R_BOTTOM, R_ETA, R_MAX_E, R_SPREAD, R_TOP
from elbo_exact.kernels.laplace_walk import GAMMA, QUADRATURE, first_and_last, next_break, node_at
from elbo_exact.kernels.laplace_weights import DELTA, LOST_SQUARE, MISSED, N_BREAKS, uncut
from elbo_exact.kernels.scalar import exp, expm1, log, log1p, two_sum
from elbo_exact.kernels.tree import INF, U

__all__ = ["sharpen"]

FAR = 695.0  # of a logarithm
NEAR = 0.01  # nats from -gap within which a state's own ratio is the constant
BEYOND = 690.0  # s c from which exp(-K s c) is nothing
NEGLIGIBLE_TERM = 2.0**-70
SHARP = 2.0**-43
CANCELLED = 500.0  # how many times the variance what was subtracted may be


@kernel
def constant_near(e, gap, facts):
    """(log c as the integrals see it, as it is, whether it is that of a state)."""
    best, at = INF, 0
    for z in range(e.size):
        if e[z] > -INF:
            distance = abs(uncut(e[z], facts) + gap)
            if distance < best:
                best, at = distance, z
    if best <= NEAR or facts[N_BREAKS] > 0.0:  # where distances were shortened, only states have both coordinates
        return e[at], uncut(e[at], facts), True
    return -gap, -gap, False


@kernel
def central_sum(x, y, q, e, log_c, own, eta, spread):
    """(Lam, bound) at s = exp(x), s c = y, from E_q expm1(-d)."""
    total, low, error = 0.0, 0.0, 0.0
    for z in range(e.size):
        if not q[z] > 0.0:
            continue
        t = e[z] - log_c
        d = y * expm1(t) if abs(t) <= 1.0 else exp(min(x + e[z], FAR)) - y
        m = expm1(-min(d, 700.0))
        total, rest = two_sum(total, q[z] * m)
        low += rest
        moved = 0.0 if own and e[z] == log_c else 2.0 * eta * (d + y)
        error += q[z] * (abs(m) * (spread + 6.0 * U) + (1.0 + m) * (moved + 5.0 * U * abs(d)))
    total += low
    value = log1p(total)
    return value, 1.01 * error / (1.0 + total) + 2.0 * U * abs(value)


@kernel
def outer_sum(x, q, e, eta, spread):
    """(log phi, bound) at x, where exp(-s c) is nothing."""
    total, low, error = 0.0, 0.0, 0.0
    for z in range(e.size):
        if not q[z] > 0.0:
            continue
        y = exp(min(x + e[z], FAR)) if e[z] > -INF else 0.0
        weight = q[z] * exp(-y)
        total, rest = two_sum(total, weight)
        low += rest
        error += weight * (spread + 4.0 * U + y * (eta + 4.0 * U)) if weight > 0.0 else 0.0
    total += low
    if not total > 0.0:
        return -INF, 0.0
    return log(total), 1.01 * error / total + 2.0 * U * abs(log(total))


@kernel
def centred_variance(k, step, q, e, gap, facts, row):
    """(variance, bound) of log m for K samples, from weights q and log ratios e."""
    log_c, true_c, own = constant_near(e, gap, facts)
    log_k, eta, spread = log(k), row[R_ETA] + U * row[R_MAX_E], row[R_SPREAD]
    first, first_low, first_bound, second, second_low, second_bound, size = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    j, last = first_and_last(row[R_TOP], row[R_BOTTOM], log_k, step)
    n_breaks, moved = 0, 0.0
    edge, shift = next_break(0, facts, step)
    while j <= last:
        x, width, slack, to_middle = node_at(j, edge, shift, facts, step)
        y = exp(min(x + log_c, FAR))
        if y < BEYOND:
            lam, error = central_sum(x, y, q, e, log_c, own, eta, spread)
            below = lam - y
            base = exp(-k * y)
            inner = k * lam
            term = base * expm1(inner) if inner < 1.0 else exp(k * below) - base
            bound = (exp(k * below) if below > -INF else 0.0) * k * (error + U * abs(lam)) + abs(term) * (10.0 + k * y) * U
        else:
            below, error = outer_sum(x, q, e, eta, spread)
            term = exp(k * below) if below > -INF else 0.0
            bound = term * (k * error + (4.0 + k * abs(below)) * U) if term > 0.0 else 0.0
        place = x + moved + to_middle
        v = -((place + log_k) + true_c)
        bound += slack * abs(term)
        first, rest = two_sum(first, width * term)
        first_low += rest
        second, rest = two_sum(second, v * (width * term))
        second_low += rest
        first_bound += width * bound
        weight = width * abs(v * term)
        size += weight
        second_bound += (
            width * abs(v) * bound + weight * 4.0 * U + width * abs(term) * 4.0 * U * (abs(place) + log_k + abs(true_c))
        )
        if slack > 0.0:
            moved, n_breaks = moved + shift, n_breaks + 1
            edge, shift = next_break(n_breaks, facts, step)
            continue
        a, b = step * first, step * second
        length = max(row[R_BOTTOM] - x, 0.0) + 1.0
        if (
            y >= BEYOND
            and n_breaks >= facts[N_BREAKS]
            and term * k * length * length <= NEGLIGIBLE_TERM * abs(2.0 * GAMMA * a - 2.0 * b - a * a)
        ):
            break
        j += 1.0
    a, b = step * (first + first_low), step * (second + second_low)
    variance = (2.0 * GAMMA * a - 2.0 * b) - a * a
    extra = QUADRATURE + 8.0 * U
    bound = (
        2.0 * step * second_bound
        + 2.0 * (GAMMA + abs(a)) * step * first_bound
        + extra * (2.0 * step * size + 2.0 * abs(a) + a * a)
    )
    return max(variance, 0.0), 1.01 * bound


@kernel
def variance_of_one(q, e, facts, row):
    """(variance of e under q, bound): around the mean, and free of the distance of the mean from 0."""
    total, mean, square, left, size = 0.0, 0.0, 0.0, 0.0, 0.0
    for z in range(e.size):
        if e[z] > -INF:
            mean += q[z] * uncut(e[z], facts)
            total += q[z]
    mean /= total
    for z in range(e.size):
        if e[z] > -INF:
            distance = uncut(e[z], facts) - mean
            square += q[z] * (distance * distance)
            left += q[z] * distance
            size = max(size, abs(uncut(e[z], facts)))
    variance = max(square / total - (left / total) * (left / total), 0.0)
    moved = facts[DELTA] + 2.0 * U * size
    return variance, (row[R_SPREAD] + 16.0 * U) * square / total + 2.02 * moved * np.sqrt(square / total) + moved * moved


@kernel
def sharpen(k, step, q, e, floor, facts, row, out):
    """A better variance of one sample, and of several where it is small beside what was subtracted."""
    gap, variance, bound = out[0] - facts[MISSED], np.nan, INF
    if k == 1.0:
        variance, bound = variance_of_one(q, e, facts, row)
    if (k > 1.0 and gap * (gap + 2.0 * GAMMA) > CANCELLED * out[4]) or (k == 1.0 and not bound <= SHARP * variance):
        centred, centred_bound = centred_variance(k, step, q, e, gap, facts, row)
        if not bound <= centred_bound:
            variance, bound = centred, centred_bound
    bound += floor + facts[LOST_SQUARE]
    if bound < out[5]:
        out[4], out[5] = variance, bound
