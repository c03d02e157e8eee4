"""The gap of a perturbative bound from E_q R_K(u), R_K = exp - T_K: the form for small gaps, over lanes.

With reach = min(8, (K+1)/2), a state's remainder is

    u**(K+1)/(K+1)! M_K(u)      |u| <= reach      by so many terms of the series of M as matter
    exp(u) - T_K(u)             beyond            where R_K is a good part of both

**Errors.** The power rounds 12 + 4K times, the series as ``series_of`` says. T_K comes from its even and odd terms, by Horner's rule in
u**2: term j is good to (2.5 j + 4) u, and sum j |u|**j/j! <= min(K, |u|) S with S = sum |u|**j/j!, so T_K is good to
(4 + 2.5 min(K, |u|)) u S, exp to 2u. u itself is off by 2u |u|, where |u R_{K-1}| <= (K + 1 + |u|) R_K, and by u |c| + delta, where
|R_{K-1}| <= M_{K-1}(|u|) |u|**K/K! near zero and R_K + |u|**K/K! for any u. A weight below the normal doubles is off by ``lost``.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.points import DELTA, OFF
from elbo_exact.kernels.reduce import WEIGHT_ERROR, sum_error
from elbo_exact.kernels.scalar import exp, exp_fraction, log, log1p, raised, reduced
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import ETA, INF, LANES, U, add_weight, chain_error, clear, fold, halve

__all__ = ["MOST_FACTORIALS", "power_term", "small_gap", "small_reach"]

MOST_FACTORIALS = 170  # 1/170! is the last normal inverse of a factorial
SMALL = 8.0  # |u| up to which the series of the remainder of order 3 cancels at most six bits
SERIES_END = 2.0**-58
SUM, SLOPE, FAR = 0, 2, 3  # lanes: the sum and its rounding errors, sum w |u|**K/K!, sizes of what far terms are made of
PLACE, SERIES, POWER, EXP, REDUCED, REDUCED_LOW, EVEN, ODD = range(8)  # lanes that carry a block from loop to loop


@kernel
def power_term(u, k):
    """u**k / k!."""
    term = 1.0
    for j in range(1, k + 1):
        term *= u / j
    return term


@kernel
def small_reach(k):
    """|u| up to which R_k comes from its series."""
    return min(SMALL, 0.5 * (k + 1.0))


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
def open_block(carried, e, w, c, k, terms, inverses, reach, count):
    """u, M_k(u) and w |u|**k/k! of a block; how many states are beyond ``reach``, whose M is that of zero."""
    far = 0
    for j in range(count):
        u = e[j] + c
        carried[PLACE, j], carried[SERIES, j], carried[POWER, j] = u, 1.0, w[j]
        carried[EVEN, j] = u if abs(u) <= reach else 0.0
        far += 0 if abs(u) <= reach else 1
    for i in range(terms, 0, -1):
        x = inverses[k + 1 + i]
        for j in range(count):
            carried[SERIES, j] = 1.0 + carried[EVEN, j] * x * carried[SERIES, j]
    for i in range(1, k + 1):
        x = inverses[i]
        for j in range(count):
            carried[POWER, j] *= abs(carried[PLACE, j]) * x
    return far


@kernel
def near_block(lanes, carried, last, count):
    """w R_k(u) of a block by the series of M_k, and w |u|**k/k!."""
    for j in range(count):
        add_weight(lanes, SUM, j, (carried[POWER, j] * (abs(carried[PLACE, j]) * last)) * carried[SERIES, j])
        lanes[SLOPE, j] += carried[POWER, j]


@kernel
def mixed_block(lanes, carried, w, k, factorials, last, reach, count):
    """``near_block`` where some states are beyond ``reach``."""
    for j in range(count):
        carried[EXP, j], carried[REDUCED, j], carried[REDUCED_LOW, j] = reduced(carried[PLACE, j])
        carried[EVEN, j], carried[ODD, j] = factorials[k - 1], factorials[k]
    for j in range(count):
        carried[EXP, j] = raised(exp_fraction(carried[REDUCED, j], carried[REDUCED_LOW, j]), carried[EXP, j])
    for i in range(k - 3, -1, -2):
        even, odd = factorials[i], factorials[i + 1]
        for j in range(count):
            x = carried[PLACE, j] * carried[PLACE, j]
            carried[EVEN, j], carried[ODD, j] = even + x * carried[EVEN, j], odd + x * carried[ODD, j]
    for j in range(count):
        u, power = carried[PLACE, j], carried[POWER, j]
        size = abs(u)
        high, odd = carried[EXP, j], u * carried[ODD, j]
        is_near = size <= reach
        rest = high - (carried[EVEN, j] + odd)
        term = (power * (size * last)) * carried[SERIES, j] if is_near else w[j] * (rest if rest > 0.0 else 0.0)
        own = (4.0 + 2.5 * (size if size < k else k)) * (carried[EVEN, j] + abs(odd)) + 2.0 * high
        add_weight(lanes, SUM, j, term)
        lanes[SLOPE, j] += power + (0.0 if is_near else term)
        lanes[FAR, j] += 0.0 if is_near else w[j] * own + (2.0 * (k + 1.0 + size) + 1.0) * term


@kernel
def any_block(lanes, carried, e, w, c, k, terms, inverses, factorials, reach, count):
    """The terms of a block, by the cheaper loops if all its states are near."""
    last = inverses[k + 1]
    if open_block(carried, e, w, c, k, terms, inverses, reach, count) > 0:
        mixed_block(lanes, carried, w, k, factorials, last, reach, count)
    else:
        near_block(lanes, carried, last, count)


@kernel
def factorials_up_to(k):
    """1/j! for j up to k, good to j u."""
    factorials = np.ones(k + 1)
    for j in range(2, k + 1):
        factorials[j] = factorials[j - 1] / j
    return factorials


@kernel
def small_sums(e, w, c, k, delta, largest, lost):
    """(sum w R_k(u), bound); no |u| is above ``largest``."""
    lanes, carried = tiles(), tiles()
    clear(lanes, SUM, FAR + 1)
    reach = min(largest, small_reach(k))
    terms, series, steep = series_of(k, reach)
    inverses = 1.0 / np.arange(0.0, k + 2.0 + terms)
    factorials = factorials_up_to(k if largest > reach else 1)
    for start in range(0, e.size, LANES):
        x, y = e[start : start + LANES], w[start : start + LANES]
        if x.size == LANES:
            any_block(lanes, carried, x, y, c, k, terms, inverses, factorials, reach, LANES)
        else:
            any_block(lanes, carried, x, y, c, k, terms, inverses, factorials, reach, x.size)
    high, low = halve(lanes, SUM)
    total, slope, far = high + low, fold(lanes, SLOPE), fold(lanes, FAR)
    bound = total * (WEIGHT_ERROR + (12.0 + 4.0 * k + series + 2.0 * (k + 1.0 + reach)) * U) + 1.01 * U * far
    return total, bound + 1.01 * steep * slope * (U * abs(c) + delta) + e.size * (4.0 * ETA + lost * exp(largest))


@kernel
def small_gap(e, w, c, k, total_w, known, residual, largest, lost):
    """(gap, bound) from E_q R_K; the bound is INF where the gap is not small."""
    n = e.size
    rho, bound = small_sums(e, w, c, k, known[DELTA], largest, lost)
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
