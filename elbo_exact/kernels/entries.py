"""Entries of categorical columns in the layout of `patterns.expanded`, and the way back: log probabilities from logits, and numbers.

The rows of ``columns``, (4, D), say of every column: where its logits start, how far they are apart from state to state, how many
categories it has, and which entry is the first. No error bounds here: an optimizer needs none.
"""

from __future__ import annotations

import numpy as np
from numba import types

from elbo_exact.kernels._jit import INT, OUT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.scalar import log_of_sum, weight
from elbo_exact.kernels.tiles import ROWS, row_tiles
from elbo_exact.kernels.tree import INF

__all__ = ["IMPOSSIBLE", "entries_pullback", "normalized_entries", "number_entries", "number_pullback"]

IMPOSSIBLE = -1e8  # in place of -inf, of which no gradient leads away
COLUMNS = types.Array(INT, 2, "C", readonly=True)
SIZES = types.Array(INT, 1, "C", readonly=True)


@kernel
def alike(columns, d):
    """The column after those from ``d`` on that have as many categories."""
    last = d + 1
    while last < columns.shape[1] and columns[2, last] == columns[2, d]:
        last += 1
    return last


@kernel
def located(columns, first, last, n_states, where, line, state):
    """ROWS pairs of a column and a state from number ``first`` on: first logit, first entry, and the state; beyond ``last`` - 1 that one.

    Pairs, so that loops over them are long, though columns have few categories and models few states: ten states alone take 1.2 to 1.7
    times as long (AVX2, 2026).
    """
    d, k = first // n_states, first % n_states
    for i in range(ROWS):
        where[i] = columns[0, d] + k * columns[1, d]
        line[i] = columns[3, d]
        state[i] = k
        if first + i + 1 < last:
            k += 1
            if k == n_states:
                d, k = d + 1, 0


@kernel
def picked(values, where, c, out):
    """The logits of category ``c``."""
    for i in range(ROWS):
        out[i] = values[int(where[i]) + c]


@kernel(void(ROW, COLUMNS, OUT2))
def normalized_entries(logits, columns, entries):
    """entries[first + c, k] = log softmax over c of the logits of state k, at least IMPOSSIBLE; NaN where a logit is NaN or +inf."""
    n_states, lanes, d = entries.shape[1], row_tiles(), 0
    where, line, state, own, top, total = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5]
    while d < columns.shape[1]:
        n_categories, last = columns[2, d], alike(columns, d)
        for first in range(d * n_states, last * n_states, ROWS):
            located(columns, first, last * n_states, n_states, where, line, state)
            for i in range(ROWS):
                top[i], total[i] = -INF, 0.0
            for c in range(n_categories):
                picked(logits, where, c, own)
                for i in range(ROWS):
                    top[i] = own[i] if own[i] > top[i] else top[i]
            for c in range(n_categories):
                picked(logits, where, c, own)
                for i in range(ROWS):
                    total[i] += weight(own[i], top[i]) if own[i] == own[i] else np.nan
            for i in range(ROWS):
                total[i] = log_of_sum(total[i], 0.0) if total[i] > 0.0 else np.nan
            for c in range(n_categories):
                picked(logits, where, c, own)
                for i in range(ROWS):
                    x = (own[i] - top[i]) - total[i]
                    own[i] = IMPOSSIBLE if x < IMPOSSIBLE else x
                for i in range(ROWS):
                    entries[int(line[i]) + c, int(state[i])] = own[i]
        d = last


@kernel(void(ROW, COLUMNS, TABLE, TABLE, OUT))
def entries_pullback(logits, columns, entries, cotangent, out):
    """out = cotangent - softmax * sum of cotangents, for each column and state; 0 where the logit is -inf."""
    n_states, lanes, d = entries.shape[1], row_tiles(), 0
    where, line, state, own, slope, total = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5]
    while d < columns.shape[1]:
        n_categories, last = columns[2, d], alike(columns, d)
        for first in range(d * n_states, last * n_states, ROWS):
            located(columns, first, last * n_states, n_states, where, line, state)
            for i in range(ROWS):
                total[i] = 0.0
            for c in range(n_categories):
                for i in range(ROWS):
                    total[i] += cotangent[int(line[i]) + c, int(state[i])]
            for c in range(n_categories):
                for i in range(ROWS):
                    own[i] = entries[int(line[i]) + c, int(state[i])]
                    slope[i] = cotangent[int(line[i]) + c, int(state[i])]
                for i in range(ROWS):
                    slope[i] -= weight(own[i], 0.0) * total[i]
                for i in range(ROWS):
                    at = int(where[i]) + c
                    out[at] = slope[i] if logits[at] > -INF else 0.0
        d = last


@kernel(void(SIZES, TABLE, OUT2))
def number_entries(sizes, weights, entries):
    """entries[v of column d] = v weights[d]: what a linear map makes of columns that hold numbers from 0 to sizes[d] - 1."""
    first = 0
    for d in range(sizes.size):
        for v in range(sizes[d]):
            for k in range(entries.shape[1]):
                entries[first + v, k] = v * weights[d, k]
        first += sizes[d]


@kernel(void(SIZES, TABLE, OUT2))
def number_pullback(sizes, cotangent, out):
    """The transpose of `number_entries`: out[d] = sum over v of v cotangent[v of column d]."""
    first = 0
    for d in range(sizes.size):
        for k in range(out.shape[1]):
            out[d, k] = 0.0
        for v in range(1, sizes[d]):
            for k in range(out.shape[1]):
                out[d, k] += v * cotangent[first + v, k]
        first += sizes[d]
