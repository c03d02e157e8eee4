"""The ELBO and the EUBO as their textbook sums, taken around a reference state.

With b' = b - max b, W' = sum exp(b'), f the last state where q is largest and g the last where p is,

    ELBO = a_f   + (LOWER + log W')     LOWER = sum q ((a - a_f) - b')
    EUBO = max a + (UPPER + log W')     UPPER = max b - b_g - sum p ((b - b_g) - (a - max a))

The reference takes the offsets out of the sums: their terms are log ratios of p and q, up to one constant.

**Their error.** A term is a weight times fl(fl(x - base) - fl(y - top)), where the weight belongs to y. Beside WEIGHT_ERROR for the weight,
u for the product and u for the outer difference it is off by u (|x - base| + |y - top|) <= u (|ratio| + 2 |y - top|) for the inner ones: with
``SHARE`` of |y - top| added to its size, by (WEIGHT_ERROR + 4u) times that in all. The sum adds kappa of the sizes, and its own rounding, which
the mean brings in. ``LARGE`` keeps x - base below overflow whatever x is.
"""

from __future__ import annotations

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.reduce import log_sum_error
from elbo_exact.kernels.scalar import NO_WEIGHT
from elbo_exact.kernels.tree import ETA, INF, LANES, U

__all__ = ["LARGE", "direct_bound", "direct_elbo", "direct_mean", "direct_ratio", "direct_term", "last_at", "reference"]

LARGE = 2.0**960
SHARE = 0.3  # at least 2u / (WEIGHT_ERROR + 4u)


@kernel
def last_at(row, top):
    """Index of the last state whose entry is ``top``, 0 if there is none (NaN); whole blocks are compared without a branch."""
    found = -1
    for start in range(0, row.size, LANES):
        block = row[start : start + LANES]
        hits = 0
        for j in range(block.size):
            hits += 1 if block[j] == top else 0
        found = start if hits > 0 else found
    if found < 0:
        return 0
    j = min(found + LANES, row.size) - 1
    while row[j] != top:
        j -= 1
    return j


@kernel
def reference(x):
    """The entry that others are compared with; 0 instead of an infinite or a huge one."""
    return x if abs(x) < LARGE else 0.0


@kernel
def direct_ratio(x, y, base, top):
    """((x - base) - (y - top), its size); zeros where exp(y - top) is nothing."""
    depth = y - top
    ratio = (x - base) - depth
    alive = depth >= NO_WEIGHT
    return (ratio if alive else 0.0), (abs(ratio) + SHARE * abs(depth) if alive else 0.0)


@kernel
def direct_term(weight, x, y, base, top):
    """(weight * ratio, its size), where weight = exp(y - top)."""
    ratio, size = direct_ratio(x, y, base, top)
    return weight * ratio, weight * size


@kernel
def direct_bound(size, weight_error, n):
    """Bound on the error of a sum of n terms of these sizes, beyond the rounding of its value."""
    return size * (weight_error + 4.0 * U) + 3.0 * n * ETA


@kernel
def direct_mean(depth, total, bound, weight_sum, weight_sum_error):
    """(depth + total / weight_sum, its bound)."""
    mean = total / weight_sum
    value = depth + mean
    return value, 1.01 * (bound / weight_sum + abs(mean) * (weight_sum_error + 2.0 * U) + U * abs(depth) + U * abs(value))


@kernel
def direct_elbo(base, mean, mean_bound, rest, log_sum, n):
    """(base + (mean + log W'), its bound): the ELBO or the EUBO; (0, +inf) where it overflows."""
    inner = mean + log_sum
    value = base + inner
    bound = 1.01 * (mean_bound + log_sum_error(rest, log_sum, n) + U * abs(inner) + U * abs(value))
    if abs(value) < INF and bound < INF:
        return value, bound
    return 0.0, INF
