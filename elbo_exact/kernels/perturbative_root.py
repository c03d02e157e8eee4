"""The best reference of a perturbative bound: the root c of E_q (e + c)**k = 0 for an odd power k, and the mean that is left there."""

from __future__ import annotations

import math

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.scalar import exp, log
from elbo_exact.kernels.tiles import tiles
from elbo_exact.kernels.tree import ETA, INF, LANES, U, add, chain_error, clear, fold, halve

__all__ = ["best_reference", "polished"]

NEAR = 2.0**-27  # relative Newton step after which the next one is rounding
LARGEST = 600.0  # of |e + c| that is not scaled


@kernel
def power_block(lanes, carried, e, w, c, inverse, half, exact, count):
    """w x**k and w x**(k-1) of a block, x = (e + c) * inverse and k = 2 half + 1; if ``exact`` by TwoSum, and the sizes too."""
    for j in range(count):
        x = (e[j] + c) * inverse
        carried[0, j], carried[1, j], carried[2, j] = x, x * x, w[j] * (x * x)
    for _ in range(half - 1):
        for j in range(count):
            carried[2, j] *= carried[1, j]
    for j in range(count):
        term = carried[2, j] * carried[0, j]
        lanes[3, j] += carried[2, j]
        if exact:
            add(lanes, 0, j, term)
            lanes[2, j] += abs(term)
        else:
            lanes[0, j] += term


@kernel
def power_lanes(lanes, e, w, c, k, scale, exact):
    """``power_block`` of all blocks."""
    carried = tiles()
    clear(lanes, 0, 4)
    inverse = 1.0 / scale
    for start in range(0, e.size, LANES):
        x, y = e[start : start + LANES], w[start : start + LANES]
        if x.size == LANES:
            power_block(lanes, carried, x, y, c, inverse, k // 2, exact, LANES)
        else:
            power_block(lanes, carried, x, y, c, inverse, k // 2, exact, x.size)


@kernel
def mean_power(e, w, c, k, scale):
    """(sum w x**k, the same of absolute values, sum w x**(k-1)) for x = (e + c)/scale and odd k."""
    lanes = tiles()
    power_lanes(lanes, e, w, c, k, scale, True)
    high, low = halve(lanes, 0)
    return high + low, fold(lanes, 2), fold(lanes, 3)


@kernel
def rough_power(e, w, c, k, scale):
    """(sum w x**k, sum w x**(k-1)) by plain sums, at half the cost."""
    lanes = tiles()
    power_lanes(lanes, e, w, c, k, scale, False)
    return fold(lanes, 0), fold(lanes, 3)


@kernel
def reach_of(k):
    """The largest |v| whose k-th powers, and a sum of 2**44 of them, are doubles."""
    return min(LARGEST, exp(679.0 / k))


@kernel
def cubic_root(second, third):
    """The real t with E (x + t)**3 = t**3 + 3 second t + third = 0, from the moments of an x of mean zero (Cardano); NaN beyond the range."""
    half = 0.5 * abs(third)
    size = exp(log(half + math.sqrt(half * half + second * second * second)) / 3.0)
    root = size - second / size
    return -root if third > 0.0 else root


@kernel
def best_reference(e, w, k, start, low, high, total_w):
    """The c between low and high with sum w (e + c)**k = 0, nearly, by rough Newton steps kept in their bracket.

    For k = 3 the moments at ``start``, minus the mean of e, know the root: 3 instead of up to 50 steps where few states matter.
    """
    scale = max((high - low) / reach_of(k), 1e-300)
    first, last, c = low, high, min(max(start, low), high)
    for step in range(200):
        value, slope = rough_power(e, w, c, k, scale)
        if value == 0.0 or high - low <= 4.0 * U * max(abs(low), abs(high)):
            break
        low, high = (c, high) if value < 0.0 else (low, c)
        change = value / (k * slope) * scale if slope > 0.0 else INF
        if step == 0 and k == 3:
            root = cubic_root(slope / total_w, value / total_w) * scale
            change = -root if abs(root) < INF else change
        before, c = c, c - change
        if abs(change) <= NEAR * abs(c):
            break
        if not low < c < high or step % 8 == 7:
            c = low + 0.5 * (high - low)
            if c == before:
                break
    return min(max(c, first), last)


@kernel
def power_and_bound(e, w, c, k, scale, low, high, delta, lost):
    """(sum w v**k, bound on its error, sum w v**(k-1)) at c, v = u/scale; a weight is off by ``lost`` beside its relative error."""
    value, own, slope = mean_power(e, w, c, k, scale)
    largest = max(abs(c - low), abs(c - high))
    shift = (U * (2.0 * largest + abs(c)) + delta) / scale
    bound = own * ((10.0 + 4.0 * k) * U + chain_error(e.size)) + k * slope * shift
    most = lost * exp(k * log(largest / scale)) if lost > 0.0 and largest > 0.0 else 0.0
    return value, 1.01 * bound + e.size * (4.0 * ETA + 1.01 * most), slope


@kernel
def polished(e, w, c, k, low, high, delta, lost):
    """(c after an exact Newton step, scale, sum w v**k there, bound on its error); the sum is compiled once."""
    scale, value, error = 1.0, 0.0, 0.0
    for step in range(2):
        scale = max(1.0, max(abs(c - low), abs(c - high)) / reach_of(k))
        value, error, slope = power_and_bound(e, w, c, k, scale, low, high, delta, lost)
        change = value / (k * slope) * scale if slope > 0.0 else INF
        if step == 0 and abs(change) <= NEAR * abs(c):  # a longer step starts from a root closer than doubles are
            c = min(max(c - change, low), high)
    return c, scale, value, error
