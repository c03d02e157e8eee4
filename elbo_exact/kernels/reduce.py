"""Log-sum-exp of rows, on top of the fixed summation tree of ``tree``.

Each chunk is summed relative to its own maximum and the chunks are merged by the weight of their maximum
relative to the row's: one pass over memory, and an associative merge that blocks and threads share. The maximal states
are counted, not summed: log sum = top + log1p(R) keeps [0, -40] -> 4.248e-18 where 1 + R would have rounded it away.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.scalar import exp_fraction, log1p, raised, reduced_difference, two_sum, weight
from elbo_exact.kernels.tiles import GROUP, group_tiles, tiles
from elbo_exact.kernels.tree import (
    CHUNK,
    ETA,
    INF,
    LANES,
    U,
    add_weight,
    clear,
    halve,
    halve_once,
    kappa,
    keep_extremes,
    raise_once,
)

__all__ = ["log_evidence_chunks", "log_evidence_from_chunks", "log_evidence_rows"]

TOP, TIES, REST, REST_LOW, BAD = range(5)  # columns of a chunk's partial sums
POWER, REDUCED, REDUCED_LOW = range(2, 5)  # lanes that carry a block of weights from loop to loop

WEIGHT_ERROR = 3.1 * U  # of exp of a difference, which is good to 2u; the constants of other files are derived with 3.1u
MERGE_ERROR = 5.2 * U  # a chunk's own weight 3.1u, the product and 1 + R: 2.1u
OK, ZERO_EVIDENCE, OVERFLOW, BAD_TARGET, BAD_Q, NO_SUPPORT = range(6)  # status of a row
UNDECIDED = -1.0  # a quick kernel leaves the row to a careful one


@kernel
def merge_error(n):
    """Extra relative error of a weight sum that was merged from several chunks."""
    return MERGE_ERROR if n > CHUNK else 0.0


@kernel
def block_top(block, count, lanes):
    """Raise the lanes to the entries of a block; how many of them are NaN or +inf."""
    bad = 0
    for j in range(count):
        x, top = block[j], lanes[0, j]
        lanes[0, j] = x if x > top else top
        bad += 0 if x < INF else 1
    return bad


@kernel
def top_of(lanes, k):
    """Maximum of the lanes of row k."""
    raise_once(lanes, k, 32)
    raise_once(lanes, k, 16)
    raise_once(lanes, k, 8)
    raise_once(lanes, k, 4)
    raise_once(lanes, k, 2)
    raise_once(lanes, k, 1)
    return lanes[k, 0]


@kernel
def chunk_top(states, lanes):
    """(maximum, number of entries that are NaN or +inf) of one chunk; a whole block is a loop of constant length."""
    for j in range(LANES):
        lanes[0, j] = -INF
    bad = 0
    for start in range(0, states.size, LANES):
        block = states[start : start + LANES]
        bad += block_top(block, LANES, lanes) if block.size == LANES else block_top(block, block.size, lanes)
    return top_of(lanes, 0), bad


@kernel
def block_extremes(block, count, lanes):
    """``block_top`` with the smallest finite entries in lanes 1."""
    bad = 0
    for j in range(count):
        x, top, bottom = block[j], lanes[0, j], lanes[1, j]
        lanes[0, j], lanes[1, j] = (x if x > top else top), (x if (x < bottom and x > -INF) else bottom)
        bad += 0 if x < INF else 1
    return bad


@kernel
def chunk_extremes(states, lanes):
    """(maximum, smallest finite entry, number of entries that are NaN or +inf) of one chunk."""
    for j in range(LANES):
        lanes[0, j], lanes[1, j] = -INF, INF
    bad = 0
    for start in range(0, states.size, LANES):
        block = states[start : start + LANES]
        bad += block_extremes(block, LANES, lanes) if block.size == LANES else block_extremes(block, block.size, lanes)
    keep_extremes(lanes, 32)
    keep_extremes(lanes, 16)
    keep_extremes(lanes, 8)
    keep_extremes(lanes, 4)
    keep_extremes(lanes, 2)
    keep_extremes(lanes, 1)
    return lanes[0, 0], lanes[1, 0], bad


@kernel
def block_weights(block, count, top, keep, kept, lanes):
    """Number of maximal states of a block; the weights of the others go into the lanes of sum 0, and if ``keep`` all to ``kept``.

    Three short loops instead of a long one: the processor overlaps more states (1.80 against 1.98 ns, AVX-512, 2026).
    """
    for j in range(count):
        lanes[POWER, j], lanes[REDUCED, j], lanes[REDUCED_LOW, j] = reduced_difference(block[j], top)
    for j in range(count):
        lanes[REDUCED, j] = exp_fraction(lanes[REDUCED, j], lanes[REDUCED_LOW, j])
    ties = 0
    for j in range(count):
        x, w = block[j], raised(lanes[REDUCED, j], lanes[POWER, j])
        if keep:  # a store less: 0 to 0.3 of 4 ns, no more than the noise (AVX2, 2026)
            kept[j] = w
        ties += 1 if x == top else 0
        add_weight(lanes, 0, j, 0.0 if x == top else w)
    return ties


@kernel
def chunk_weights(states, top, keep, weights, lanes):
    """``block_weights`` of all blocks."""
    clear(lanes, 0, 2)
    ties = 0
    for start in range(0, states.size, LANES):
        block, kept = states[start : start + LANES], weights[start : start + LANES]
        if block.size == LANES:
            ties += block_weights(block, LANES, top, keep, kept, lanes)
        else:
            ties += block_weights(block, block.size, top, keep, kept, lanes)
    return ties


@kernel
def chunk_log_sum(states, keep, weights, partial):
    """Maximum, its multiplicity, and the sum of the other weights relative to it, of one chunk."""
    lanes = tiles()
    partial[TOP], partial[BAD] = chunk_top(states, lanes)
    partial[TIES] = chunk_weights(states, partial[TOP], keep, weights, lanes)
    partial[REST], partial[REST_LOW] = halve(lanes, 0)


@kernel
def row_of(table, i):
    """Row i; a table of one row serves all."""
    return table[i if table.shape[0] > 1 else 0]


@kernel
def halve_group(group, width):
    """``halve_once`` of the sums of every row of a group, so that their latencies overlap."""
    for k in range(GROUP):
        halve_once(group, 2 * k, width)


@kernel
def keep_lanes(lanes, row, group, k):
    """Rows ``row`` and ``row + 1`` of the lanes into place k of a group."""
    for j in range(LANES):
        group[2 * k, j], group[2 * k + 1, j] = lanes[row, j], lanes[row + 1, j]


@kernel
def group_log_sums(table, first, count, partials):
    """Partial log sums of ``count`` rows of one chunk each; step by step for all of them, so that no row waits for its halvings."""
    lanes, group, nowhere = tiles(), group_tiles(), np.empty(0)
    for k in range(count):
        partials[k, TOP], partials[k, BAD] = chunk_top(row_of(table, first + k), lanes)
    for k in range(count):
        partials[k, TIES] = chunk_weights(row_of(table, first + k), partials[k, TOP], False, nowhere, lanes)
        for j in range(LANES):
            group[2 * k, j], group[2 * k + 1, j] = lanes[0, j], lanes[1, j]
    for k in range(count, GROUP):
        for j in range(LANES):
            group[2 * k, j], group[2 * k + 1, j] = 0.0, 0.0
    halve_group(group, 32)
    halve_group(group, 16)
    halve_group(group, 8)
    halve_group(group, 4)
    halve_group(group, 2)
    halve_group(group, 1)
    for k in range(count):
        partials[k, REST], partials[k, REST_LOW] = group[2 * k, 0], group[2 * k + 1, 0]


@kernel
def row_log_sums(row, first, last, keep, weights, partials):
    """Partial log sums of chunks first .. last - 1 of one row into partials[chunk - first]; with ``keep``, the weights of the last."""
    for chunk in range(first, last):
        begin, end = chunk * CHUNK, min((chunk + 1) * CHUNK, row.size)
        chunk_log_sum(row[begin:end], keep, weights[: end - begin], partials[chunk - first])


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


@kernel
def log_evidence_of_groups(log_joint, first, last, out):
    """``log_evidence_rows`` of rows of one chunk: in the cache, a row of 256 states takes 514 instead of 591 ns (AVX-512, 2026)."""
    n = log_joint.shape[1]
    partials = np.empty((GROUP, 5))
    for start in range(first, last, GROUP):
        count = min(GROUP, last - start)
        group_log_sums(log_joint, start, count, partials)
        for k in range(count):
            top, rest, bad = merge_log_sums(partials[k : k + 1])
            finish_log_evidence(top, rest, bad, n, out[start + k - first])


@kernel(void(TABLE, INT, INT, OUT2))
def log_evidence_rows(log_joint, first, last, out):
    """log evidence, error bound and status of rows first .. last - 1 into out[row - first]."""
    n = log_joint.shape[1]
    if n <= CHUNK:
        log_evidence_of_groups(log_joint, first, last, out)
        return
    nowhere, partials = np.empty(0), np.empty(((n + CHUNK - 1) // CHUNK, 5))
    for i in range(first, last):
        row_log_sums(log_joint[i], 0, partials.shape[0], False, nowhere, partials)
        top, rest, bad = merge_log_sums(partials)
        finish_log_evidence(top, rest, bad, n, out[i - first])


@kernel(void(ROW, INT, INT, OUT2))
def log_evidence_chunks(row, first, last, partials):
    """Partial log sums of some chunks of one row, for threads that share it."""
    row_log_sums(row, first, last, False, np.empty(0), partials)


@kernel(void(OUT2, INT, OUT2))
def log_evidence_from_chunks(partials, n, out):
    """The same from chunks that were summed elsewhere, in any order, by any thread."""
    top, rest, bad = merge_log_sums(partials)
    finish_log_evidence(top, rest, bad, n, out[0])
