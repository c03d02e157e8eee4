"""The fixed summation tree, whose bits depend on nothing but the order of the states.

A row is cut at multiples of CHUNK states. Inside a chunk, state j goes to lane j mod LANES; every lane is a
TwoSum chain whose rounding errors are added up beside it; the lanes are halved by TwoSum; the chunks follow one another
in a last chain. The boundaries depend on the state's index alone, so the bits do not depend on threads, batches or
blocks, and the compiler vectorises the lanes without being allowed to reorder anything.

**Its error.** At most m = min(n, 72) + chunks + 1 TwoSums lie on a state's way (64 in the lane, 6 halvings, 2 joins, the
chunks). The recorded errors sum to at most m u S with S = sum |x|, and adding them up plainly loses at most m u of that:
|result - exact| <= u |exact| + kappa S with kappa = 2 m**2 u**2 (the 2 covers the higher orders).
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import kernel
from elbo_exact.kernels.scalar import two_sum
from elbo_exact.kernels.tiles import TILE

__all__ = [
    "CHUNK",
    "ETA",
    "INF",
    "LANES",
    "U",
    "add",
    "add_weight",
    "chain_error",
    "clear",
    "fold",
    "fold_once",
    "halve",
    "halve_both",
    "halve_once",
    "kappa",
    "keep_extremes",
    "raise_once",
]

U = 2.0**-53
ETA = 2.0**-1074
INF = np.inf
LANES = TILE  # 64
CHUNK = 4096


@kernel
def kappa(n):
    """Second-order error of the tree relative to the sum of absolute values."""
    m = min(n, 72) + (n + CHUNK - 1) // CHUNK + 1
    return 2.0 * m * m * U * U


@kernel
def chain_error(n):
    """Second-order error of a TwoSum chain of n terms whose rounding errors are added up beside it."""
    return 2.0 * (n + 2.0) * (n + 2.0) * U * U


@kernel
def clear(lanes, first, last):
    """Set the lanes of sums first .. last - 1 to zero."""
    for k in range(first, last):
        for j in range(LANES):
            lanes[k, j] = 0.0


@kernel
def add(lanes, k, j, x):
    """TwoSum of x into lane j of sum k; the rounding error goes to the same lane of sum k + 1."""
    s, e = two_sum(lanes[k, j], x)
    lanes[k, j] = s
    lanes[k + 1, j] += e


@kernel
def add_weight(lanes, k, j, x):
    """``add`` of numbers that are not negative: the larger goes first, which saves three additions (Dekker 1971)."""
    before = lanes[k, j]
    large, small = (x, before) if x > before else (before, x)
    s = large + small
    lanes[k, j] = s
    lanes[k + 1, j] += small - (s - large)


@kernel
def halve_once(lanes, k, width):
    """Fold lanes width .. 2 width - 1 of sum k into the first ones by TwoSum; their rounding errors likewise."""
    for j in range(width):
        s, e = two_sum(lanes[k, j], lanes[k, width + j])
        lanes[k, j] = s
        lanes[k + 1, j] = (lanes[k + 1, j] + lanes[k + 1, width + j]) + e


@kernel
def halve(lanes, k):
    """(sum, rounding errors) of sum k; the widths are written out because constant loops are unrolled."""
    halve_once(lanes, k, 32)
    halve_once(lanes, k, 16)
    halve_once(lanes, k, 8)
    halve_once(lanes, k, 4)
    halve_once(lanes, k, 2)
    halve_once(lanes, k, 1)
    return lanes[k, 0], lanes[k + 1, 0]


@kernel
def halve_both_once(lanes, k, others, m, width):
    """``halve_once`` of two sums."""
    halve_once(lanes, k, width)
    halve_once(others, m, width)


@kernel
def halve_both(lanes, k, others, m):
    """``halve`` of sum k of some lanes and sum m of others, level by level, so that their latencies overlap."""
    halve_both_once(lanes, k, others, m, 32)
    halve_both_once(lanes, k, others, m, 16)
    halve_both_once(lanes, k, others, m, 8)
    halve_both_once(lanes, k, others, m, 4)
    halve_both_once(lanes, k, others, m, 2)
    halve_both_once(lanes, k, others, m, 1)


@kernel
def fold_once(lanes, k, width):
    """Plain addition of lanes width .. 2 width - 1 of sum k to the first ones."""
    for j in range(width):
        lanes[k, j] += lanes[k, width + j]


@kernel
def fold(lanes, k):
    """Plain sum of sum k in the same order, for non-negative bounds, whose own rounding the factor 1.01 covers."""
    fold_once(lanes, k, 32)
    fold_once(lanes, k, 16)
    fold_once(lanes, k, 8)
    fold_once(lanes, k, 4)
    fold_once(lanes, k, 2)
    fold_once(lanes, k, 1)
    return lanes[k, 0]


@kernel
def keep_extremes(lanes, width):
    """Keep the larger of lanes j and width + j of the maxima, the smaller of the minima."""
    for j in range(width):
        above, below = lanes[0, width + j], lanes[1, width + j]
        lanes[0, j] = above if above > lanes[0, j] else lanes[0, j]
        lanes[1, j] = below if below < lanes[1, j] else lanes[1, j]


@kernel
def raise_once(lanes, k, width):
    """Keep the larger of lanes j and width + j of row k."""
    for j in range(width):
        own, other = lanes[k, j], lanes[k, width + j]
        lanes[k, j] = other if other > own else own
