"""The ELBO or the EUBO alone, of rows of one chunk: the bits of ``rows`` and ``short`` without the divergences.

The ELBO needs the weights of q only, the EUBO those of both. Rows are taken in groups whose lanes are halved together. A row that
needs more care (NaN, +inf, weights near the subnormals, an infinite result) is UNDECIDED and left to ``rows``, by its own data alone.

**ELBO <= log evidence without the log evidence.** With ratios e to the reference, L - ELBO = log E_q exp(e) - E_q e, or more where q misses a
state. Let s be the first of the two. phi(x) = expm1(x) - x >= x**2/(2 + |x|), which is convex in |x| and grows, so by Jensen

    L - ELBO >= E_q phi(e - s) >= d**2/(2 + d),   d = E_q |e - s| >= min(E_q max(e, 0), E_q max(-e, 0)) = T

(the last: for s >= 0, |e - s| >= max(-e, 0); for s <= 0, |e - s| >= max(e, 0)). T falls out of the sum. Where T**2/(2 + T) is above the
bounds of both numbers, their doubles are in order; the other rows are UNORDERED, and their log evidence is computed.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.direct import direct_bound, direct_elbo, direct_mean, direct_term, first_at, reference
from elbo_exact.kernels.reduce import (
    BAD,
    OK,
    REST,
    REST_LOW,
    TIES,
    TOP,
    UNDECIDED,
    WEIGHT_ERROR,
    chunk_extremes,
    chunk_rest,
    chunk_weights,
    group_log_sums,
    halve_group,
    keep_lanes,
    log_evidence_of,
    row_of,
    sum_error,
)
from elbo_exact.kernels.scalar import log1p
from elbo_exact.kernels.terms import ORDINARY
from elbo_exact.kernels.tiles import GROUP, group_tiles, tiles
from elbo_exact.kernels.tree import INF, LANES, U, add, clear, fold, kappa

__all__ = ["N_DIRECT", "UNORDERED", "lower_rows", "upper_rows"]

UNORDERED = -2.0
D_VALUE, D_BOUND, D_NORMALIZER, D_STATUS, N_DIRECT = range(5)  # columns of a row's results
SUM, SUM_LOW, SIZE, ABOVE = range(4)  # lanes: the sum, its rounding errors, its sizes, its positive part
BASE, M_SUM, M_SIZE, M_ABOVE, N_MEAN = range(5, 10)  # columns of a row's mean, after those of its partial log sum


@kernel
def mean_block(x, y, weights, count, base, top, lanes):
    """Add the terms of a block to the lanes; how many x are NaN or +inf."""
    bad = 0
    for j in range(count):
        term, size = direct_term(weights[j], x[j], y[j], base, top)
        bad += 0 if x[j] < INF else 1
        add(lanes, SUM, j, term)
        lanes[SIZE, j] += size
        lanes[ABOVE, j] += term if term > 0.0 else 0.0
    return bad


@kernel
def mean_lanes(x, y, weights, base, top, lanes):
    """``mean_block`` of all blocks; a whole block is a loop of constant length."""
    clear(lanes, SUM, ABOVE + 1)
    bad = 0
    for start in range(0, x.size, LANES):
        first, second, kept = x[start : start + LANES], y[start : start + LANES], weights[start : start + LANES]
        if first.size == LANES:
            bad += mean_block(first, second, kept, LANES, base, top, lanes)
        else:
            bad += mean_block(first, second, kept, first.size, base, top, lanes)
    return bad


@kernel
def group_means(x_table, y_table, first, count, weights, means):
    """Partial log sums of rows of y, and the sums of x - y around a reference under their weights; BAD counts NaN and +inf of both.

    A row of y with a weight near the subnormals is BAD too.
    """
    lanes, rests, sums = tiles(), group_tiles(), group_tiles()
    for k in range(count):
        x, y, mean = row_of(x_table, first + k), row_of(y_table, first + k), means[k]
        mean[TOP], bottom, mean[BAD] = chunk_extremes(y, lanes)
        mean[BAD] += 0.0 if bottom - mean[TOP] >= ORDINARY else 1.0
        mean[TIES] = chunk_weights(y, mean[TOP], weights, lanes)
        keep_lanes(lanes, 0, rests, k)
        mean[BASE] = x[first_at(y, mean[TOP])]
        mean[BAD] += mean_lanes(x, y, weights, reference(mean[BASE]), mean[TOP], lanes)
        keep_lanes(lanes, SUM, sums, k)
        mean[M_SIZE], mean[M_ABOVE] = fold(lanes, SIZE), fold(lanes, ABOVE)
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
def is_below(value, bound, mean, weight_sum):
    """Whether the ELBO is provably not above the log evidence, both as computed.

    The bound of the latter is at most 1.01 (u |L| + 21u) for n <= CHUNK; T loses more than its sums can be off by.
    """
    above = mean[M_ABOVE]
    distance = (min(above, above - mean[M_SUM]) - 1e-12 * mean[M_SIZE]) / weight_sum
    return distance > 0.0 and distance * distance >= 1.01 * (2.0 + distance) * (bound + 2.0 * U * abs(value) + 25.0 * U)


@kernel
def close_lower(mean, n, out):
    """A row's ELBO, or who else must look at it."""
    rest = chunk_rest(mean)
    log_sum, weight_sum = log1p(rest), 1.0 + rest
    out[D_NORMALIZER], _ = log_evidence_of(mean[TOP], rest, log_sum, n)
    bound = direct_bound(mean[M_SIZE], WEIGHT_ERROR + kappa(n), n)
    lower, lower_bound = direct_mean(0.0, mean[M_SUM], bound, weight_sum, sum_error(n))
    out[D_VALUE], out[D_BOUND] = direct_elbo(reference(mean[BASE]), lower, lower_bound, rest, log_sum, n)
    ordered = is_below(out[D_VALUE], out[D_BOUND], mean, weight_sum)
    known = rest >= 0.0 and mean[BASE] > -INF and out[D_BOUND] < INF
    out[D_STATUS] = (OK if ordered else UNORDERED) if known else UNDECIDED


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def lower_rows(log_joint, log_q, first, last, out):
    """ELBO, bound, log normalizer of q and status of rows first .. last - 1 into out[row - first]."""
    n = log_joint.shape[1]
    weights, means = np.empty(n), np.empty((GROUP, N_MEAN))
    for start in range(first, last, GROUP):
        count = min(GROUP, last - start)
        group_means(log_joint, log_q, start, count, weights, means)
        for k in range(count):
            close_lower(means[k], n, out[start + k - first])


@kernel
def close_upper(mean, partial, n, out):
    """A row's EUBO, never below its log evidence."""
    rest, own = chunk_rest(mean), chunk_rest(partial)
    log_sum = log1p(own)
    out[D_NORMALIZER], _ = log_evidence_of(partial[TOP], own, log_sum, n)
    bound, depth = direct_bound(mean[M_SIZE], WEIGHT_ERROR + kappa(n), n), partial[TOP] - reference(mean[BASE])
    upper, upper_bound = direct_mean(depth, -mean[M_SUM], bound, 1.0 + rest, sum_error(n))
    value, bound = direct_elbo(mean[TOP], upper, upper_bound, own, log_sum, n)
    known = rest >= 0.0 and own >= 0.0 and mean[BASE] > -INF and bound < INF
    out[D_STATUS] = OK if known else UNDECIDED
    evidence, evidence_bound = log_evidence_of(mean[TOP], rest, log1p(rest), n)
    acts = value < evidence
    out[D_VALUE], out[D_BOUND] = (evidence if acts else value), (max(bound, evidence_bound) if acts else bound)


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def upper_rows(log_joint, log_q, first, last, out):
    """EUBO, bound, log normalizer of q and status of rows first .. last - 1 into out[row - first]."""
    n = log_joint.shape[1]
    weights, means, partials = np.empty(n), np.empty((GROUP, N_MEAN)), np.empty((GROUP, 5))
    for start in range(first, last, GROUP):
        count = min(GROUP, last - start)
        group_means(log_q, log_joint, start, count, weights, means)
        group_log_sums(log_q, start, count, weights, partials)
        for k in range(count):
            close_upper(means[k], partials[k], n, out[start + k - first])
