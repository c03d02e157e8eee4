"""Rows of at most SHORT states, side by side: the lanes are rows instead of states, otherwise all is as in ``gap``.

A short row has too little work for the lanes of ``gap`` and waits 700 ns for its own latencies; across rows the same functions
wait for nothing. Weights and textbook terms are summed in the order of the one tree, so log evidence, ELBO and EUBO have the same
bits; the other sums are plain TwoSum chains. A row that needs more care (NaN, +inf, weights near the subnormals, nearly equal distributions: see
``plain``) is left to ``rows``: its status is UNDECIDED, by its own data alone.
"""

from __future__ import annotations

import numpy as np

from elbo_exact.kernels._jit import INT, OUT2, TABLE, kernel, void
from elbo_exact.kernels.direct import direct_term, reference
from elbo_exact.kernels.gap import (
    CHARGED,
    ENTROPY,
    FORWARD,
    GAP,
    LOG_A,
    LOG_B,
    LOWER,
    LOWER_BOUND,
    MISSED,
    N_RECORD,
    N_SUMS,
    PARTIAL_A,
    PARTIAL_B,
    REST_A,
    REST_B,
    UPPER,
    UPPER_BOUND,
    close_plain,
    fill_direct,
)
from elbo_exact.kernels.plain import log_ratio_error, one_sided, pivot_off, plain_divergence, plain_offset, plain_state
from elbo_exact.kernels.reduce import BAD, OK, TOP, UNDECIDED, WEIGHT_ERROR, close_log_sum, log_evidence_of, sum_error
from elbo_exact.kernels.rows import OUT_STATUS, close_row
from elbo_exact.kernels.scalar import exp, exp_fraction, log1p, phi_parts, raised, reduced_difference, two_sum
from elbo_exact.kernels.terms import ORDINARY
from elbo_exact.kernels.tiles import ROWS, SHORT, row_tiles, state_tiles
from elbo_exact.kernels.tree import INF, LANES, add, chain_error, kappa

__all__ = ["SHORT", "short_audit_rows", "short_gap_rows", "short_log_evidence_rows"]

ROW_TOP, ROW_BOTTOM, ROW_TIES, ROW_REST, ROW_LOG = range(5)  # tiles of what is known of each row
ROW_PIVOT, ROW_RATIO, ROW_INVERSE, ROW_OFFSET, ROW_OFFSET_LOW, ROW_BASE_A, ROW_BASE_B = range(7)  # and of each pivot
LINE = 8  # doubles of a cache line: row by row, the same line is written eight times (18.9 against 16.1 ns for an audit, 2026)
ZEROS = CHARGED  # lane of the number of states in which either table is -inf


@kernel
def load(table, start, values):
    """States of a group of rows into tiles, transposed, a cache line at a time; the first row stands in for missing ones."""
    block = table[start : start + ROWS] if table.shape[0] > 1 else table
    count = block.shape[0]
    whole = count // LINE * LINE
    for first in range(0, whole, LINE):
        for state in range(block.shape[1]):
            for i in range(LINE):
                values[state, first + i] = block[first + i, state]
    for i in range(whole, ROWS):
        for state in range(block.shape[1]):
            values[state, i] = block[i, state] if i < count else block[0, state]


@kernel
def used_lanes(n):
    """Lanes that n states reach, rounded up to a power of two."""
    width = 1
    while width < min(n, LANES):
        width *= 2
    return width


@kernel
def clear_rows(sums, lows, width):
    """Set the first lanes of every row to zero."""
    for lane in range(width):
        for i in range(ROWS):
            sums[lane, i], lows[lane, i] = 0.0, 0.0


@kernel
def halve_rows(sums, lows, width):
    """The first lanes of every row folded into one by TwoSum."""
    while width > 1:
        width //= 2
        for lane in range(width):
            for i in range(ROWS):
                s, e = two_sum(sums[lane, i], sums[width + lane, i])
                sums[lane, i] = s
                lows[lane, i] = (lows[lane, i] + lows[width + lane, i]) + e


@kernel
def log_sums(values, n, weights, sums, lows, known):
    """Top, bottom, multiplicity and R of every row; the weights are kept."""
    for i in range(ROWS):
        known[ROW_TOP, i], known[ROW_BOTTOM, i], known[ROW_TIES, i] = -INF, INF, 0.0
    for state in range(n):
        for i in range(ROWS):
            x, top, bottom = values[state, i], known[ROW_TOP, i], known[ROW_BOTTOM, i]
            lower = (x < bottom and x > -INF) or x != x  # NaN stays
            known[ROW_TOP, i], known[ROW_BOTTOM, i] = (x if x > top else top), (x if lower else bottom)
    carried = row_tiles()
    power, rest, rest_low = carried[0], carried[1], carried[2]
    width = used_lanes(n)
    clear_rows(sums, lows, width)
    for start in range(0, n, LANES):
        for lane in range(min(LANES, n - start)):
            for i in range(ROWS):
                power[i], rest[i], rest_low[i] = reduced_difference(values[start + lane, i], known[ROW_TOP, i])
            for i in range(ROWS):
                rest[i] = exp_fraction(rest[i], rest_low[i])
            for i in range(ROWS):
                x, top = values[start + lane, i], known[ROW_TOP, i]
                w = raised(rest[i], power[i])
                weights[start + lane, i] = w
                known[ROW_TIES, i] += 1.0 if x == top else 0.0
                s, e = two_sum(sums[lane, i], 0.0 if x == top else w)
                sums[lane, i] = s
                lows[lane, i] += e
    halve_rows(sums, lows, width)
    for i in range(ROWS):
        known[ROW_REST, i] = close_log_sum(known[ROW_TIES, i], sums[0, i], lows[0, i])
        known[ROW_LOG, i] = log1p(known[ROW_REST, i])


@kernel
def is_plain(known, i):
    """Whether row i is possible and its weights are ordinary or zero; a NaN makes a comparison false."""
    return known[ROW_BOTTOM, i] - known[ROW_TOP, i] >= ORDINARY and -INF < known[ROW_TOP, i] < INF


@kernel(void(TABLE, INT, INT, OUT2))
def short_log_evidence_rows(log_joint, first, last, out):
    """log evidence, bound and status of rows first .. last - 1, or UNDECIDED."""
    values, weights, sums, lows, known = state_tiles(), state_tiles(), state_tiles(), state_tiles(), row_tiles()
    n = log_joint.shape[1]
    for start in range(first, last, ROWS):
        load(log_joint, start, values)
        log_sums(values, n, weights, sums, lows, known)
        for i in range(min(ROWS, last - start)):
            result = out[start + i - first]
            result[0], result[1] = log_evidence_of(known[ROW_TOP, i], known[ROW_REST, i], known[ROW_LOG, i], n)
            result[2] = OK if is_plain(known, i) else UNDECIDED


@kernel
def open_rows(known_a, known_b, pivots):
    """The pivot of every row, exp(-+pivot), and the offset of its log ratios."""
    for i in range(ROWS):
        r = known_a[ROW_LOG, i] - known_b[ROW_LOG, i]
        pivots[ROW_PIVOT, i], pivots[ROW_RATIO, i], pivots[ROW_INVERSE, i] = r, exp(-r), exp(r)
        pivots[ROW_OFFSET, i], pivots[ROW_OFFSET_LOW, i] = plain_offset(known_a[ROW_TOP, i], known_b[ROW_TOP, i], r)


@kernel
def references(a, b, known_a, known_b, pivots, n):
    """The references of every row: the last state that holds its largest entry."""
    for i in range(ROWS):
        pivots[ROW_BASE_A, i], pivots[ROW_BASE_B, i] = 0.0, 0.0
    for state in range(n):
        for i in range(ROWS):
            x, y, base_a, base_b = a[state, i], b[state, i], pivots[ROW_BASE_A, i], pivots[ROW_BASE_B, i]
            base_a, base_b = (x if y == known_b[ROW_TOP, i] else base_a), (y if x == known_a[ROW_TOP, i] else base_b)
            pivots[ROW_BASE_A, i], pivots[ROW_BASE_B, i] = base_a, base_b
    for i in range(ROWS):
        pivots[ROW_BASE_A, i], pivots[ROW_BASE_B, i] = reference(pivots[ROW_BASE_A, i]), reference(pivots[ROW_BASE_B, i])


@kernel
def add_direct(weights, x, y, bases, tops, sums, lows, lane, lanes, column):
    """The textbook term of one state of every row, in its lane of the one tree."""
    for i in range(ROWS):
        term, size = direct_term(weights[i], x[i], y[i], bases[i], tops[i])
        s, e = two_sum(sums[lane, i], term)
        sums[lane, i] = s
        lows[lane, i] += e
        lanes[column + 2, i] += size


@kernel
def close_direct(sums, lows, lanes, column, width):
    """The lanes of a textbook sum of every row halved."""
    halve_rows(sums, lows, width)
    for i in range(ROWS):
        lanes[column, i], lanes[column + 1, i] = sums[0, i], lows[0, i]


@kernel
def state_sums(a, b, v, w, known_a, known_b, pivots, tree, lows, lanes, carried, n, both_ways):
    """The sums of every row, state by state."""
    for column in range(N_SUMS):
        for i in range(ROWS):
            lanes[column, i] = 0.0
    uppers, upper_lows = tree[LANES : 2 * LANES], lows[LANES : 2 * LANES]
    width = used_lanes(n)
    clear_rows(tree, lows, width)
    clear_rows(uppers, upper_lows, width)
    for state in range(n):
        lane = state % LANES
        for i in range(ROWS):
            x, y, top_a, top_b = a[state, i], b[state, i], known_a[ROW_TOP, i], known_b[ROW_TOP, i]
            c, c_low = pivots[ROW_OFFSET, i], pivots[ROW_OFFSET_LOW, i]
            carried[0, i], depth, zero = plain_state(x, y, top_a, top_b, c, c_low)
            lanes[ZEROS, i] += zero
            if both_ways:
                add(lanes, ENTROPY, i, w[state, i] * depth)
        add_direct(w[state], a[state], b[state], pivots[ROW_BASE_A], known_b[ROW_TOP], tree, lows, lane, lanes, LOWER)
        if both_ways:
            add_direct(
                v[state], b[state], a[state], pivots[ROW_BASE_B], known_a[ROW_TOP], uppers, upper_lows, lane, lanes, UPPER
            )
        for i in range(ROWS):
            e, x, y = carried[0, i], v[state, i], w[state, i]
            even, odd = phi_parts(e)
            add(lanes, GAP, i, plain_divergence(even, odd, e, y, x, pivots[ROW_RATIO, i]))
            if both_ways:
                add(lanes, FORWARD, i, plain_divergence(even, -odd, -e, x, y, pivots[ROW_INVERSE, i]))
    close_direct(tree, lows, lanes, LOWER, width)
    close_direct(uppers, upper_lows, lanes, UPPER, width)


@kernel
def close_short_row(a, b, known_a, known_b, pivots, lanes, i, n, both_ways, sums, record, out):
    """A row's results from its lane; UNDECIDED if a neglected error could be felt."""
    for column in (GAP, LOWER, FORWARD, ENTROPY):
        sums[column] = lanes[column, i] + lanes[column + 1, i]
    sums[UPPER] = -(lanes[UPPER, i] + lanes[UPPER + 1, i])
    sums[LOWER_BOUND], sums[UPPER_BOUND] = lanes[LOWER_BOUND, i], lanes[UPPER_BOUND, i]
    sums[CHARGED], sums[MISSED] = one_sided(a[:n, i], b[:n, i]) if lanes[ZEROS, i] > 0.0 else (0, 0)
    record[PARTIAL_A + TOP], record[REST_A], record[LOG_A] = known_a[ROW_TOP, i], known_a[ROW_REST, i], known_a[ROW_LOG, i]
    record[PARTIAL_B + TOP], record[REST_B], record[LOG_B] = known_b[ROW_TOP, i], known_b[ROW_REST, i], known_b[ROW_LOG, i]
    record[PARTIAL_A + BAD], record[PARTIAL_B + BAD] = 0.0, 0.0
    r, s, inverse = pivots[ROW_PIVOT, i], pivots[ROW_RATIO, i], pivots[ROW_INVERSE, i]
    off = pivot_off(record[REST_A], record[LOG_A], record[REST_B], record[LOG_B], r, n)
    delta = log_ratio_error(known_a[ROW_TOP, i], known_a[ROW_BOTTOM, i], known_b[ROW_TOP, i], known_b[ROW_BOTTOM, i], r)
    if close_plain(sums, r, s, inverse, 0.0, off, delta, sum_error(n) + chain_error(n), n, both_ways, record):
        base_a, base_b = pivots[ROW_BASE_A, i], pivots[ROW_BASE_B, i]
        fill_direct(sums, base_a, base_b, WEIGHT_ERROR + kappa(n), sum_error(n), n, both_ways, record)
        close_row(record, n, both_ways, out)
    else:
        out[OUT_STATUS] = UNDECIDED


@kernel
def short_rows(log_joint, log_q, first, last, both_ways, out):
    """Results of rows first .. last - 1 into out[row - first]."""
    a, b, v, w, tree, lows = state_tiles(), state_tiles(), state_tiles(), state_tiles(), state_tiles(), state_tiles()
    known_a, known_b, pivots, lanes, carried = row_tiles(), row_tiles(), row_tiles(), row_tiles(), row_tiles()
    n = log_joint.shape[1]
    sums, record = np.zeros(N_SUMS), np.zeros(N_RECORD)
    for start in range(first, last, ROWS):
        load(log_joint, start, a)
        load(log_q, start, b)
        log_sums(a, n, v, tree, lows, known_a)
        log_sums(b, n, w, tree, lows, known_b)
        open_rows(known_a, known_b, pivots)
        references(a, b, known_a, known_b, pivots, n)
        state_sums(a, b, v, w, known_a, known_b, pivots, tree, lows, lanes, carried, n, both_ways)
        for i in range(min(ROWS, last - start)):
            result = out[start + i - first]
            if is_plain(known_a, i) and is_plain(known_b, i):
                close_short_row(a, b, known_a, known_b, pivots, lanes, i, n, both_ways, sums, record, result)
            else:
                result[OUT_STATUS] = UNDECIDED


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def short_audit_rows(log_joint, log_q, first, last, out):
    """Every quantity of some rows."""
    short_rows(log_joint, log_q, first, last, True, out)


@kernel(void(TABLE, TABLE, INT, INT, OUT2))
def short_gap_rows(log_joint, log_q, first, last, out):
    """Log evidence, gap and ELBO only: the same bits in fewer operations."""
    short_rows(log_joint, log_q, first, last, False, out)
