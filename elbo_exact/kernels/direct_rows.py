"""The ELBO or the EUBO alone, of rows of one chunk: the bits of ``rows`` and ``short`` without the divergences.

The ELBO needs the weights of q only, the EUBO those of both. Rows are taken in groups whose lanes are halved together. A row that
needs more care (NaN, +inf, weights near the subnormals, an infinite result) is UNDECIDED and left to ``rows``, by its own data alone.

**ELBO <= log evidence without the log evidence.** With ratios e to the reference, L - ELBO = s - E_q e with s = log E_q exp(e), or more where
q misses a state. s lies between the ratios, so |e - s| <= 2 max |e|, and phi(x) = expm1(x) - x >= x**2/(2 + |x|):

    L - ELBO >= E_q phi(e - s) >= E_q (e - s)**2 / (2 + 2 max |e|) >= Var_q(e) / (2 + 2 max |e|)

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
from elbo_exact.kernels.terms import ORDINARY
from elbo_exact.kernels.tiles import GROUP, group_tiles, tiles
from elbo_exact.kernels.tree import INF, LANES, U, add, clear, fold

__all__ = ["N_DIRECT", "UNORDERED", "lower_rows", "upper_rows"]

UNORDERED = -2.0
D_VALUE, D_NORMALIZER, D_STATUS, N_DIRECT = range(4)  # columns of a row's results
SUM, SUM_LOW, SQUARES, FAR = range(4)  # lanes: the sum, its rounding errors, the sum of squares, the largest ratio
BASE, M_SUM, M_SQUARES, M_FAR, N_MEAN = range(5, 10)  # columns of a row's mean, after those of its partial log sum


@kernel
def mean_block(x, y, weights, count, base, top, squares, lanes):
    """Add the terms of a block to the lanes; how many x are NaN or +inf."""
    bad = 0
    for j in range(count):
        ratio, _ = direct_ratio(x[j], y[j], base, top)
        term, far = weights[j] * ratio, lanes[FAR, j]
        bad += 0 if x[j] < INF else 1
        add(lanes, SUM, j, term)
        if squares:
            lanes[SQUARES, j] += term * ratio
        lanes[FAR, j] = abs(ratio) if abs(ratio) > far else far
    return bad


@kernel
def mean_lanes(x, y, weights, base, top, squares, lanes):
    """``mean_block`` of all blocks; a whole block is a loop of constant length."""
    clear(lanes, SUM, FAR + 1)
    bad = 0
    for start in range(0, x.size, LANES):
        first, second, kept = x[start : start + LANES], y[start : start + LANES], weights[start : start + LANES]
        if first.size == LANES:
            bad += mean_block(first, second, kept, LANES, base, top, squares, lanes)
        else:
            bad += mean_block(first, second, kept, first.size, base, top, squares, lanes)
    return bad


@kernel
def group_means(x_table, y_table, first, count, squares, weights, means):
    """Partial log sums of rows of y, and the sums of x - y around a reference under their weights; BAD counts NaN and +inf of both.

    A row of y with a weight near the subnormals is BAD too.
    """
    lanes, rests, sums = tiles(), group_tiles(), group_tiles()
    for k in range(count):
        x, y, mean = row_of(x_table, first + k), row_of(y_table, first + k), means[k]
        mean[TOP], bottom, mean[BAD] = chunk_extremes(y, lanes)
        mean[BAD] += 0.0 if bottom - mean[TOP] >= ORDINARY else 1.0
        mean[TIES] = chunk_weights(y, mean[TOP], True, weights, lanes)
        keep_lanes(lanes, 0, rests, k)
        mean[BASE] = x[last_at(y, mean[TOP])]
        mean[BAD] += mean_lanes(x, y, weights, reference(mean[BASE]), mean[TOP], squares, lanes)
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
def close_lower(mean, n, out):
    """A row's ELBO, or who else must look at it."""
    rest = chunk_rest(mean)
    if not is_known(mean, rest):
        out[D_STATUS] = UNDECIDED
        return
    log_sum, weight_sum = log1p(rest), 1.0 + rest
    out[D_NORMALIZER], _ = log_evidence_of(mean[TOP], rest, log_sum, n)
    lower, _ = direct_mean(0.0, mean[M_SUM], 0.0, weight_sum, 0.0)
    out[D_VALUE], _ = direct_elbo(mean[BASE], lower, 0.0, rest, log_sum, n)
    out[D_STATUS] = OK if is_below(out[D_VALUE], mean, weight_sum) else UNORDERED


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def lower_rows(log_joint, log_q, first, last, out):
    """ELBO, log normalizer of q and status of rows first .. last - 1 into out[row - first]."""
    n = log_joint.shape[1]
    weights, means = np.empty(n), np.empty((GROUP, N_MEAN))
    for start in range(first, last, GROUP):
        count = min(GROUP, last - start)
        group_means(log_joint, log_q, start, count, True, weights, means)
        for k in range(count):
            close_lower(means[k], n, out[start + k - first])


@kernel
def close_upper(mean, partial, n, out):
    """A row's EUBO, never below its log evidence."""
    rest, own = chunk_rest(mean), chunk_rest(partial)
    if not (is_known(mean, rest) and own >= 0.0 and abs(partial[TOP]) < LARGE):
        out[D_STATUS] = UNDECIDED
        return
    log_sum = log1p(own)
    out[D_NORMALIZER], _ = log_evidence_of(partial[TOP], own, log_sum, n)
    upper, _ = direct_mean(partial[TOP] - mean[BASE], -mean[M_SUM], 0.0, 1.0 + rest, 0.0)
    value, _ = direct_elbo(mean[TOP], upper, 0.0, own, log_sum, n)
    evidence, _ = log_evidence_of(mean[TOP], rest, log1p(rest), n)
    out[D_VALUE], out[D_STATUS] = (value if value > evidence else evidence), OK


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
            close_upper(means[k], partials[k], n, out[start + k - first])
