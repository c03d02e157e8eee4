"""Sums over categorical columns by tables of joint values: a group of columns is one number, and one line holds its sum for every state.

A row of D columns in groups of d takes D / d additions for each state instead of D products and D additions (the method of the four
Russians: Arlazarov, Dinic, Kronrod & Faradzev 1970): 0.1 ms where a BLAS product of the same zeros and ones takes 0.3 (AVX2, 2026).
"""

from __future__ import annotations

from numba import types

from elbo_exact.kernels._jit import INT, OUT2, ROW, TABLE, kernel, void

__all__ = ["collapsed", "expanded", "pattern_sums", "pattern_totals"]

CODES = types.Array(types.int32, 2, "C", readonly=True)
SIZES = types.Array(INT, 1, "C", readonly=True)


@kernel(void(SIZES, SIZES, TABLE, OUT2))
def expanded(sizes, ends, entries, lines):
    """Lines of all joint values from the entries of single columns; the last column of a group counts fastest.

    sizes[d] values of column d, ends[g] the column after group g; entries (sum of sizes, K), lines (sum of products of sizes, K).
    """
    n_states = entries.shape[1]
    column, entry, base = 0, 0, 0
    for g in range(ends.size):
        for k in range(n_states):
            lines[base, k] = 0.0
        known = 1
        while column < ends[g]:
            size = sizes[column]
            for old in range(known - 1, -1, -1):  # from the end, so that no line is overwritten before it is read
                for value in range(size - 1, -1, -1):
                    for k in range(n_states):
                        lines[base + old * size + value, k] = lines[base + old, k] + entries[entry + value, k]
            known, entry, column = known * size, entry + size, column + 1
        base += known


@kernel(void(SIZES, SIZES, OUT2, OUT2))
def collapsed(sizes, ends, lines, entries):
    """The transpose of `expanded`: entries[value of d] = sum of the lines that have it.

    Lines are overwritten; the first of each group becomes the sum of all.
    """
    n_states = entries.shape[1]
    column, entry, base = 0, 0, 0
    for g in range(ends.size):
        known, first = 1, column
        while column < ends[g]:
            known, entry, column = known * sizes[column], entry + sizes[column], column + 1
        left, at = known, entry
        for d in range(column - 1, first - 1, -1):
            size = sizes[d]
            left, at = left // size, at - size
            for value in range(size):
                for k in range(n_states):
                    entries[at + value, k] = 0.0
            for old in range(left):
                for value in range(size):
                    for k in range(n_states):
                        line = lines[base + old * size + value, k]
                        entries[at + value, k] += line
                        lines[base + old, k] = line if value == 0 else lines[base + old, k] + line
        base += known


@kernel(void(CODES, TABLE, ROW, OUT2))
def pattern_totals(codes, lines, start, out):
    """out[n, k] = start[k] + sum over g of lines[codes[n, g], k].

    In memory: sums of four states in registers take twice the time from 32 states on, and gain nothing below (AVX2, 2026).
    """
    n_rows, n_states = out.shape
    for n in range(n_rows):
        own, row = out[n], codes[n]
        for k in range(n_states):
            own[k] = start[k]
        for g in range(row.size):
            line = lines[row[g]]
            for k in range(n_states):
                own[k] += line[k]


@kernel(void(CODES, TABLE, OUT2))
def pattern_sums(codes, weights, out):
    """out[codes[n, g], k] += weights[n, k] for every group: the transpose of `pattern_totals`."""
    n_rows, n_states = weights.shape
    for n in range(n_rows):
        own, row = weights[n], codes[n]
        for g in range(row.size):
            line = out[row[g]]
            for k in range(n_states):
                line[k] += own[k]
