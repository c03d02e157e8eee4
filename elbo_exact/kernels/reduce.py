"""Row reductions: the fixed summation tree, and log-sum-exp on top of it.

**The tree.** A row is cut at multiples of CHUNK states. Inside a chunk, state j goes to lane j mod LANES; every lane is a
TwoSum chain whose rounding errors are added up beside it; the lanes are halved by TwoSum; the chunks follow one another
in a last chain. The boundaries depend on the state's index alone, so the bits do not depend on threads, batches or
blocks, and the compiler vectorises the lanes without being allowed to reorder anything.

**Its error.** At most m = min(n, 72) + chunks + 1 TwoSums lie on a state's way (64 in the lane, 6 halvings, 2 joins, the
chunks). The recorded errors sum to at most m u S with S = sum |x|, and adding them up plainly loses at most m u of that:
|result - exact| <= u |exact| + kappa S with kappa = 2 m**2 u**2 (the 2 covers the higher orders).

**log-sum-exp.** Each chunk is summed relative to its own maximum and the chunks are merged by the weight of their maximum
relative to the row's: one pass over memory, and an associative merge that blocks and threads share. The maximal states
are counted, not summed: log sum = top + log1p(R) keeps [0, -40] -> 4.248e-18 where 1 + R would have rounded it away.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.scalar import exp_fraction, log1p, raised, reduced_difference, two_sum, weight
from elbo_exact.kernels.tiles import TILE, tiles

__all__ = ["CHUNK", "LANES", "log_evidence_chunks", "log_evidence_from_chunks", "log_evidence_rows"]

U = 2.0**-53
ETA = 2.0**-1074
INF = np.inf
LANES = TILE  # 64
CHUNK = 4096
TOP, TIES, REST, REST_LOW, BAD = range(5)  # columns of a chunk's partial sums
POWER, REDUCED, REDUCED_LOW, LOW = range(2, 6)  # lanes that carry a block of weights from loop to loop

WEIGHT_ERROR = 3.1 * U  # exp 2u, times (1 + low) u, the neglected low**2/2 below 1e-26
MERGE_ERROR = 5.2 * U  # a chunk's own weight 3.1u, the product and 1 + R: 2.1u
OK, ZERO_EVIDENCE, OVERFLOW, BAD_TARGET, BAD_Q, NO_SUPPORT = range(6)  # status of a row


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
def merge_error(n):
    """Extra relative error of a weight sum that was merged from several chunks."""
    return MERGE_ERROR if n > CHUNK else 0.0


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
def raise_once(lanes, width):
    """Keep the larger of lanes j and width + j."""
    for j in range(width):
        other = lanes[0, width + j]
        lanes[0, j] = other if other > lanes[0, j] else lanes[0, j]


@kernel
def chunk_top(states, lanes):
    """(maximum, number of entries that are NaN or +inf) of one chunk."""
    for j in range(LANES):
        lanes[0, j] = -INF
    bad = 0
    for start in range(0, states.size, LANES):
        block = states[start : start + LANES]
        for j in range(block.size):
            x = block[j]
            lanes[0, j] = x if x > lanes[0, j] else lanes[0, j]
            bad += 0 if x < INF else 1
    raise_once(lanes, 32)
    raise_once(lanes, 16)
    raise_once(lanes, 8)
    raise_once(lanes, 4)
    raise_once(lanes, 2)
    raise_once(lanes, 1)
    return lanes[0, 0], bad


@kernel
def chunk_extremes(states, lanes):
    """(maximum, smallest finite entry, number of entries that are NaN or +inf) of one chunk."""
    for j in range(LANES):
        lanes[0, j], lanes[1, j] = -INF, INF
    bad = 0
    for start in range(0, states.size, LANES):
        block = states[start : start + LANES]
        for j in range(block.size):
            x = block[j]
            lanes[0, j] = x if x > lanes[0, j] else lanes[0, j]
            lanes[1, j] = x if (x < lanes[1, j] and x > -INF) else lanes[1, j]
            bad += 0 if x < INF else 1
    keep_extremes(lanes, 32)
    keep_extremes(lanes, 16)
    keep_extremes(lanes, 8)
    keep_extremes(lanes, 4)
    keep_extremes(lanes, 2)
    keep_extremes(lanes, 1)
    return lanes[0, 0], lanes[1, 0], bad


@kernel
def chunk_weights(states, top, weights, lanes):
    """Number of maximal states; all weights go to ``weights``, those of the others into the lanes of sum 0.

    Three short loops instead of a long one: the processor overlaps more states (1.80 against 1.98 ns, AVX-512, 2026).
    """
    clear(lanes, 0, 2)
    ties = 0
    for start in range(0, states.size, LANES):
        block, kept = states[start : start + LANES], weights[start : start + LANES]
        for j in range(block.size):
            lanes[POWER, j], lanes[REDUCED, j], lanes[REDUCED_LOW, j], lanes[LOW, j] = reduced_difference(block[j], top)
        for j in range(block.size):
            lanes[REDUCED, j] = exp_fraction(lanes[REDUCED, j], lanes[REDUCED_LOW, j])
        for j in range(block.size):
            x, w = block[j], raised(lanes[REDUCED, j], lanes[POWER, j], lanes[LOW, j])
            kept[j] = w
            ties += 1 if x == top else 0
            add(lanes, 0, j, 0.0 if x == top else w)
    return ties


@kernel
def chunk_log_sum(states, weights, partial):
    """Maximum, its multiplicity, and the sum of the other weights relative to it, of one chunk; the weights are kept."""
    lanes = tiles()
    partial[TOP], partial[BAD] = chunk_top(states, lanes)
    partial[TIES] = chunk_weights(states, partial[TOP], weights, lanes)
    partial[REST], partial[REST_LOW] = halve(lanes, 0)


@kernel
def row_log_sums(row, first, last, weights, partials):
    """Partial log sums of chunks first .. last - 1 of one row into partials[chunk - first]."""
    for chunk in range(first, last):
        begin, end = chunk * CHUNK, min((chunk + 1) * CHUNK, row.size)
        chunk_log_sum(row[begin:end], weights[: end - begin], partials[chunk - first])


@kernel
def close_log_sum(ties, total, low):
    """R: the sum of all weights but one maximal one."""
    total, e = two_sum(ties - 1.0, total)
    return total + (low + e)


@kernel
def chunk_rest(partial):
    """R of a chunk relative to its own maximum; -1 where it has no weight."""
    if partial[BAD] > 0.0 or partial[TOP] == -INF:
        return -1.0
    return close_log_sum(partial[TIES], partial[REST], partial[REST_LOW])


@kernel
def merge_log_sums(partials):
    """(top, R, bad): the row's log sum is top + log1p(R). R = -1 marks a row without any weight."""
    top, bad = partials[0, TOP], 0.0
    for chunk in range(partials.shape[0]):
        bad += partials[chunk, BAD]
        top = partials[chunk, TOP] if partials[chunk, TOP] > top else top
    if bad > 0.0 or top == -INF:
        return top, -1.0, bad
    ties, total, low = 0.0, 0.0, 0.0
    for chunk in range(partials.shape[0]):
        part = partials[chunk]
        if part[TOP] == top:
            ties += part[TIES]
            total, e = two_sum(total, part[REST])
            low += part[REST_LOW] + e
        elif part[TOP] > -INF:
            factor = weight(part[TOP], top)
            high, e = two_sum(part[TIES], part[REST])
            low += factor * (e + part[REST_LOW])
            total, e = two_sum(total, factor * high)
            low += e
    return top, close_log_sum(ties, total, low), bad


@kernel
def log_sum_error(rest, log_sum, n):
    """Error bound of log_sum = log1p(R): the kernel 2u, and R's relative error through R/(1 + R)."""
    relative = WEIGHT_ERROR + merge_error(n) + U + kappa(n)
    return 1.01 * (2.0 * U * log_sum + rest / (1.0 + rest) * relative + n * ETA)


@kernel
def log_evidence_of(top, rest, log_sum, n):
    """(log evidence, its error bound) of top + log1p(R); an impossible row is exactly -inf."""
    if rest < 0.0:
        return -INF, 0.0
    value = top + log_sum
    return value, 1.01 * (U * abs(value) + log_sum_error(rest, log_sum, n))


@kernel
def sum_error(n):
    """Relative error of a row's sum of weights, 1 + R rounded."""
    return WEIGHT_ERROR + merge_error(n) + 2.0 * U + 2.0 * kappa(n) + n * ETA


@kernel
def finish_log_evidence(top, rest, bad, n, out):
    """log evidence, bound and status of one row from its log sum."""
    if bad > 0.0:
        out[0], out[1], out[2] = np.nan, INF, BAD_TARGET
        return
    out[0], out[1] = log_evidence_of(top, rest, log1p(rest), n)
    out[2] = ZERO_EVIDENCE if rest < 0.0 else OK


@kernel(void(TABLE, INT, INT, OUT2))
def log_evidence_rows(log_joint, first, last, out):
    """log evidence, error bound and status of rows first .. last - 1 into out[row - first]."""
    n = log_joint.shape[1]
    weights, partials = np.empty(min(CHUNK, n)), np.empty(((n + CHUNK - 1) // CHUNK, 5))
    for i in range(first, last):
        row_log_sums(log_joint[i], 0, partials.shape[0], weights, partials)
        top, rest, bad = merge_log_sums(partials)
        finish_log_evidence(top, rest, bad, n, out[i - first])


@kernel(void(ROW, INT, INT, OUT2))
def log_evidence_chunks(row, first, last, partials):
    """Partial log sums of some chunks of one row, for threads that share it."""
    row_log_sums(row, first, last, np.empty(min(CHUNK, row.size)), partials)


@kernel(void(OUT2, INT, OUT2))
def log_evidence_from_chunks(partials, n, out):
    """The same from chunks that were summed elsewhere, in any order, by any thread."""
    top, rest, bad = merge_log_sums(partials)
    finish_log_evidence(top, rest, bad, n, out[0])
