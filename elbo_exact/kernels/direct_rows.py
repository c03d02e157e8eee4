"""The ELBO or the EUBO alone, of rows of one chunk: the bits of ``rows`` and ``short`` without the divergences.

The ELBO needs the weights of q only, the EUBO those of both. Rows are taken in groups whose lanes are halved together. A row that
needs more care (NaN, +inf, a sum that overflows, an impossible target) is UNDECIDED and left to ``rows``, by its own data alone.

**ELBO <= log evidence without the log evidence.** With ratios e to the reference, L - ELBO = s - E_q e with s = log E_q exp(e), or more where
q misses a state. s lies between the ratios, so |e - s| <= 2 max |e|, and phi(x) = expm1(x) - x >= x**2/(2 + |x|):

    L - ELBO >= E_q phi(e - s) >= E_q (e - s)**2 / (2 + 2 max |e|) >= Var_q(e) / (2 + 2 max |e|)

(a state whose q is below exp(-1500) counts as one that q misses)
which costs a sum of squares and a maximum. Where it is above the bounds of both numbers, their doubles are in order; the other rows, nearly
tight, are UNORDERED, and their log evidence is computed.
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.direct import LARGE, direct_elbo, direct_mean, direct_ratio, last_at, reference
from elbo_exact.kernels.reduce import (
    BAD,
    OK,
    REST,
    REST_LOW,
    TIES,
    TOP,
    UNDECIDED,
    chunk_extremes,
    chunk_rest,
    chunk_weights,
    group_log_sums,
    halve_group,
    keep_lanes,
    log_evidence_of,
    row_of,
    top_of,
)
from elbo_exact.kernels.scalar import log1p
from elbo_exact.kernels.terms import ORDINARY, guarded_direct
from elbo_exact.kernels.tiles import GROUP, group_tiles, tiles
from elbo_exact.kernels.tree import INF, LANES, U, add, clear, fold

__all__ = ["N_DIRECT", "UNORDERED", "lower_rows", "upper_rows"]

UNORDERED = -2.0
D_VALUE, D_NORMALIZER, D_STATUS, N_DIRECT = range(4)  # columns of a row's results
SUM, SUM_LOW, SQUARES, FAR = range(4)  # lanes: the sum, its rounding errors, the sum of squares, the largest ratio
BASE, M_SUM, M_SQUARES, M_FAR, M_ALONE, N_MEAN = range(5, 11)  # columns of a row's mean, after those of its partial log sum


@kernel
def mean_block(x, y, weights, count, base, top, squares, lanes):
    """Add the terms of a block to the lanes; how many x are NaN or +inf, and how many are -inf where y is not."""
    bad, alone = 0, 0
    for j in range(count):
        ratio, _ = direct_ratio(x[j], y[j], base, top)
        term, far = weights[j] * ratio, lanes[FAR, j]
        bad += 0 if x[j] < INF else 1
        alone += 1 if (x[j] == -INF and y[j] > -INF) else 0
        add(lanes, SUM, j, term)
        if squares:
            lanes[SQUARES, j] += term * ratio
        lanes[FAR, j] = abs(ratio) if abs(ratio) > far else far
    return bad, alone


@kernel
def faint_block(x, y, base, top, lanes):
    """``mean_block`` of a row with a weight that nears the subnormals: the terms of ``terms.guarded_direct``."""
    bad, alone = 0, 0
    for j in range(x.size):
        ratio, _ = direct_ratio(x[j], y[j], base, top)
        term, _ = guarded_direct(x[j], y[j], base, top)
        bad += 0 if x[j] < INF else 1
        alone += 1 if (x[j] == -INF and y[j] > -INF) else 0
        add(lanes, SUM, j, term)
        lanes[SQUARES, j] += term * ratio
        lanes[FAR, j] = max(lanes[FAR, j], abs(ratio))
    return bad, alone


@kernel
def mean_lanes(x, y, weights, base, top, faint, squares, lanes):
    """``mean_block`` of all blocks; a whole block is a loop of constant length."""
    clear(lanes, SUM, FAR + 1)
    bad, alone = 0, 0
    for start in range(0, x.size, LANES):
        first, second, kept = x[start : start + LANES], y[start : start + LANES], weights[start : start + LANES]
        if faint:
            more = faint_block(first, second, base, top, lanes)
        elif first.size == LANES:
            more = mean_block(first, second, kept, LANES, base, top, squares, lanes)
        else:
            more = mean_block(first, second, kept, first.size, base, top, squares, lanes)
        bad, alone = bad + more[0], alone + more[1]
    return bad, alone


@kernel
def group_means(x_table, y_table, first, count, squares, weights, means):
    """Partial log sums of rows of y, and the sums of x - y around a reference under their weights; BAD counts NaN and +inf of both."""
    lanes, rests, sums = tiles(), group_tiles(), group_tiles()
    for k in range(count):
        x, y, mean = row_of(x_table, first + k), row_of(y_table, first + k), means[k]
        mean[TOP], bottom, mean[BAD] = chunk_extremes(y, lanes)
        mean[TIES] = chunk_weights(y, mean[TOP], True, weights, lanes)
        keep_lanes(lanes, 0, rests, k)
        mean[BASE] = x[last_at(y, mean[TOP])]
        faint = bottom - mean[TOP] < ORDINARY
        bad, mean[M_ALONE] = mean_lanes(x, y, weights, reference(mean[BASE]), mean[TOP], faint, squares, lanes)
        mean[BAD] += bad
        keep_lanes(lanes, SUM, sums, k)
        mean[M_SQUARES], mean[M_FAR] = fold(lanes, SQUARES), top_of(lanes, FAR)
    halve_means(rests, sums, 32)
    halve_means(rests, sums, 16)
    halve_means(rests, sums, 8)
    halve_means(rests, sums, 4)
    halve_means(rests, sums, 2)
    halve_means(rests, sums, 1)
    for k in range(count):
        mean = means[k]
        mean[REST], mean[REST_LOW] = rests[2 * k, 0], rests[2 * k + 1, 0]
        mean[M_SUM] = sums[2 * k, 0] + sums[2 * k + 1, 0]


@kernel
def halve_means(rests, sums, width):
    """One level of the tree for all sums of a group."""
    halve_group(rests, width)
    halve_group(sums, width)


@kernel
def is_below(value, mean, weight_sum):
    """Whether the ELBO is provably not above the log evidence, both as computed.

    With t = E_q |e| <= root of E_q e**2 and E_q |b'| <= log n <= 8.4 (n <= CHUNK), the bounds of ``direct`` and of the log evidence together are
    at most 17u t + 2.1u |ELBO| + 72u and 1.1u times their distance; the variance loses more than its sums can be off by.
    """
    center, squares = mean[M_SUM] / weight_sum, mean[M_SQUARES] / weight_sum
    variance = (squares - center * center) - 1e-12 * squares
    return variance >= (2.0 + 2.0 * mean[M_FAR]) * U * (20.0 * math.sqrt(squares) + 3.0 * abs(value) + 100.0)


@kernel
def is_known(mean, rest):
    """Whether a row's mean exists and nothing on the way to it, its bound included, is anywhere near overflow; NaN compares false."""
    return (
        rest >= 0.0 and abs(mean[BASE]) < LARGE and abs(mean[TOP]) < LARGE and mean[M_FAR] < LARGE and abs(mean[M_SUM]) < LARGE
    )


@kernel
def is_infinite(mean, rest, x):
    """Whether y has mass on an impossible state of x, which has possible ones, too."""
    if not (rest >= 0.0 and mean[M_ALONE] > 0.0 and abs(mean[TOP]) < LARGE):
        return False
    possible = 0
    for j in range(x.size):
        possible += 1 if x[j] > -INF else 0
    return possible > 0


@kernel
def close_lower(mean, x, n, out):
    """A row's ELBO, or who else must look at it."""
    rest = chunk_rest(mean)
    log_sum, weight_sum = log1p(rest), 1.0 + rest
    out[D_NORMALIZER], _ = log_evidence_of(mean[TOP], rest, log_sum, n)
    if is_infinite(mean, rest, x):
        out[D_VALUE], out[D_STATUS] = -INF, OK
    elif mean[M_ALONE] == 0.0 and is_known(mean, rest):
        lower, _ = direct_mean(0.0, mean[M_SUM], 0.0, weight_sum, 0.0)
        out[D_VALUE], _ = direct_elbo(mean[BASE], lower, 0.0, rest, log_sum, n)
        out[D_STATUS] = OK if is_below(out[D_VALUE], mean, weight_sum) else UNORDERED
    else:
        out[D_STATUS] = UNDECIDED


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def lower_rows(log_joint, log_q, first, last, out):
    """ELBO, log normalizer of q and status of rows first .. last - 1 into out[row - first]."""
    n = log_joint.shape[1]
    weights, means = np.empty(n), np.empty((GROUP, N_MEAN))
    for start in range(first, last, GROUP):
        count = min(GROUP, last - start)
        group_means(log_joint, log_q, start, count, True, weights, means)
        for k in range(count):
            close_lower(means[k], row_of(log_joint, start + k), n, out[start + k - first])


@kernel
def close_upper(mean, partial, x, n, out):
    """A row's EUBO, never below its log evidence."""
    rest, own = chunk_rest(mean), chunk_rest(partial)
    if not (own >= 0.0 and abs(partial[TOP]) < LARGE):
        out[D_STATUS] = UNDECIDED
        return
    log_sum = log1p(own)
    out[D_NORMALIZER], _ = log_evidence_of(partial[TOP], own, log_sum, n)
    if is_infinite(mean, rest, x):
        out[D_VALUE], out[D_STATUS] = INF, OK
    elif mean[M_ALONE] == 0.0 and is_known(mean, rest):
        upper, _ = direct_mean(partial[TOP] - mean[BASE], -mean[M_SUM], 0.0, 1.0 + rest, 0.0)
        value, _ = direct_elbo(mean[TOP], upper, 0.0, own, log_sum, n)
        evidence, _ = log_evidence_of(mean[TOP], rest, log1p(rest), n)
        out[D_VALUE], out[D_STATUS] = (value if value > evidence else evidence), OK
    else:
        out[D_STATUS] = UNDECIDED


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def upper_rows(log_joint, log_q, first, last, out):
    """EUBO, log normalizer of q and status of rows first .. last - 1 into out[row - first]."""
    n = log_joint.shape[1]
    weights, means, partials = np.empty(n), np.empty((GROUP, N_MEAN)), np.empty((GROUP, 5))
    for start in range(first, last, GROUP):
        count = min(GROUP, last - start)
        group_means(log_q, log_joint, start, count, False, weights, means)
        group_log_sums(log_q, start, count, partials)
        for k in range(count):
            close_upper(means[k], partials[k], row_of(log_q, start + k), n, out[start + k - first])
