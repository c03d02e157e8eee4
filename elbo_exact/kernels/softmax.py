"""Training steps on short rows: log softmax, the ELBO with its slopes, and tanh, each with its pullback in one pass.

Tiles of ROWS rows are turned, so that every loop runs over rows side by side. No error bounds here: an optimizer needs none.
"""

from __future__ import annotations

import math

import numpy as np

from elbo_exact.kernels._jit import OUT, OUT2, ROW, TABLE, kernel, void
from elbo_exact.kernels.scalar import exp_rest, log_of_sum, power_of_two, reduced, weight
from elbo_exact.kernels.tiles import ROWS, row_tiles, state_tiles
from elbo_exact.kernels.tree import INF

__all__ = ["elbo_slopes", "log_softmax_pullback", "log_softmax_rows", "tanh", "tanh_pullback", "tanh_values"]

LOWEST = -1e8  # below every log q that has weight
ONE = -40.0  # from |x| = 20 on tanh is 1


@kernel
def turned(table, first, lanes):
    """ROWS rows from ``first`` on, one state after another; beyond the last row it is repeated."""
    n_rows, n_states = table.shape
    for i in range(ROWS):
        row = table[min(first + i, n_rows - 1)]
        for k in range(n_states):
            lanes[k, i] = row[k]


@kernel
def returned(lanes, first, table):
    """The rows of a tile that exist."""
    n_rows, n_states = table.shape
    for i in range(min(ROWS, n_rows - first)):
        row = table[first + i]
        for k in range(n_states):
            row[k] = lanes[k, i]


@kernel(void(TABLE, OUT2))
def log_softmax_rows(logits, out):
    """out = logits - log sum exp(logits) of every row; NaN throughout a row with NaN or +inf, or of nothing but -inf."""
    n_rows, n_states = logits.shape
    lanes, known = state_tiles(), row_tiles()
    top, total = known[0], known[1]
    for first in range(0, n_rows, ROWS):
        turned(logits, first, lanes)
        for i in range(ROWS):
            top[i], total[i] = -INF, 0.0
        for k in range(n_states):
            for i in range(ROWS):
                top[i] = lanes[k, i] if lanes[k, i] > top[i] else top[i]
        for k in range(n_states):
            for i in range(ROWS):
                x = lanes[k, i]
                total[i] += weight(x, top[i]) if x == x else np.nan  # which ``weight`` takes for nothing
        for i in range(ROWS):
            total[i] = log_of_sum(total[i], 0.0) if total[i] > 0.0 else np.nan
        for k in range(n_states):
            for i in range(ROWS):
                lanes[k, i] = (lanes[k, i] - top[i]) - total[i]
        returned(lanes, first, out)


@kernel(void(TABLE, TABLE, OUT2))
def log_softmax_pullback(value, cotangent, out):
    """out = cotangent - exp(value) * sum of the row's cotangents."""
    n_rows, n_states = value.shape
    lanes, slopes, known = state_tiles(), state_tiles(), row_tiles()
    total = known[0]
    for first in range(0, n_rows, ROWS):
        turned(value, first, lanes)
        turned(cotangent, first, slopes)
        for i in range(ROWS):
            total[i] = 0.0
        for k in range(n_states):
            for i in range(ROWS):
                total[i] += slopes[k, i]
        for k in range(n_states):
            for i in range(ROWS):
                slopes[k, i] -= weight(lanes[k, i], 0.0) * total[i]
        returned(slopes, first, out)


@kernel(void(TABLE, TABLE, OUT, OUT2, OUT2))
def elbo_slopes(log_joint, log_q, value, q, slope):
    """value = sum q (log p - log q), q = exp(log q), slope = q (log p - log q - value): the derivative in the logits of q."""
    n_rows, n_states = log_q.shape
    joint, weights, known = state_tiles(), state_tiles(), row_tiles()
    total = known[0]
    for first in range(0, n_rows, ROWS):
        turned(log_joint, first, joint)
        turned(log_q, first, weights)
        for i in range(ROWS):
            total[i] = 0.0
        for k in range(n_states):
            for i in range(ROWS):
                x = weights[k, i]
                w = weight(x, 0.0) if x == x else np.nan  # a diverged q must be seen
                term = w * (joint[k, i] - (x if x > LOWEST else LOWEST))
                term = term if w != 0.0 else 0.0
                weights[k, i], joint[k, i] = w, term
                total[i] += term
        for k in range(n_states):
            for i in range(ROWS):
                joint[k, i] -= weights[k, i] * total[i]
        returned(weights, first, q)
        returned(joint, first, slope)
        for i in range(min(ROWS, n_rows - first)):
            value[first + i] = total[i]


@kernel
def tanh(x):
    """tanh(x), relative error below 6u; NaN gives NaN.

    With t = exp(-2|x|) - 1 it is -t / (2 + t). 2**k p + (2**k - 1) loses at most one bit, because |p| <= 0.42 and the two agree in sign for
    k < 0: t rounds by 4u, quotient and denominator by u each.
    """
    y = -2.0 * abs(x)
    k, r, r_low = reduced(y if y > ONE else ONE)
    power = power_of_two(int(k))
    t = power * exp_rest(r, r_low) + (power - 1.0)
    return x if x != x else math.copysign(-t / (2.0 + t), x)


@kernel(void(OUT))
def tanh_values(x):
    """tanh of every entry, in place."""
    for i in range(x.size):
        x[i] = tanh(x[i])


@kernel(void(ROW, ROW, OUT))
def tanh_pullback(value, cotangent, out):
    """cotangent (1 - value^2)."""
    for i in range(value.size):
        out[i] = cotangent[i] * (1.0 - value[i] * value[i])
